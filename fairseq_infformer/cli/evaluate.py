"""Score a split with a trained model: perplexity per token and per word, and bits per byte, from one run."""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from tqdm import tqdm

from fairseq_infformer import distributed
from fairseq_infformer.cli import checkpoints
from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
from fairseq_infformer.distributed import Launch
from fairseq_infformer.errors import InputError
from fairseq_infformer.models import pretrained
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM, check_dictionary
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

RESULTS = {
    "tokens": "tokens scored",
    "perplexity_per_token": "perplexity per token",
    "perplexity_per_word": "perplexity per word",
    "bits_per_byte": "bits per byte",
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="infformer-eval",
        description=__doc__,
        epilog="Words and bytes are those of the raw text, counted by prepare.sh (a word is what stands between "
        "spaces, and each line's end counts as one), so models with different vocabularies can be compared. Under "
        "torchrun (torchrun --nproc-per-node N -m fairseq_infformer.cli.evaluate …) or srun every process reads "
        "streams of its own, and the first one prints the sum.",
    )
    parser.add_argument("data", help="directory made by prepare.sh")
    parser.add_argument("--path", required=True, help="checkpoint, or directory made of one by infformer-export")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=1, help="streams each process reads (default: %(default)s)")
    parser.add_argument("--tokens-per-sample", type=int, help="tokens of a segment (default: as trained)")
    parser.add_argument("--stm-length", type=int, help="short-term memory (default: as trained)")
    parser.add_argument("--document-boundaries", choices=["ignore", "reset"], help="default: as trained")
    parser.add_argument(
        "--ablation",
        choices=["none", "zero", "swap"],
        default="none",
        help="zero: read nothing from the long-term memory; swap: read the memory of another stream of the "
        "process, of which it needs two or more",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args()


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and the task of ``args.path``, with the data and the settings that ``args`` gives."""
    exported = Path(args.path).is_dir()
    saved = pretrained.read_config(Path(args.path)) if exported else checkpoints.read(args.path)["cfg"]
    trained = checkpoints.task_settings(saved["task"], args.path)
    cfg = StreamingLanguageModelingConfig(
        data=args.data,
        tokens_per_sample=args.tokens_per_sample or trained["tokens_per_sample"],
        document_boundaries=args.document_boundaries or trained["document_boundaries"],
        batch_size_valid=None,
    )
    task = StreamingLanguageModelingTask.setup_task(cfg)
    task.load_dataset(args.split)
    overrides = {"ltm_ablation": args.ablation}
    if args.stm_length is not None:
        overrides["stm_length"] = args.stm_length
    if exported:
        model = InfiniteFormerLM.from_pretrained(args.path, **overrides)
        check_dictionary(model.state_dict(), task.dictionary)
        return model, task
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([args.path], overrides, task)
    return models[0].eval(), task


@torch.no_grad()
def score(model: Any, task: Any, split: str, batch_size: int, device: torch.device, launch: Launch) -> dict[str, float]:
    """Sums over all tokens of the split: ``nll_loss`` in nats, ``ntokens``, and what the criterion logs of the memory.

    Each process reads ``batch_size`` of the streams; all get the sums over all of them.
    """
    criterion = LtmCrossEntropy(task, ltm_kl_weight=0, ltm_kl_sigma=0.05)
    batches = task.get_batch_iterator(
        task.dataset(split), max_sentences=batch_size, num_shards=launch.world_size, shard_id=launch.rank
    ).next_epoch_itr(shuffle=False)
    totals: dict[str, float] = {}
    hidden = True if launch.rank else None  # None: where there is no terminal
    for sample in tqdm(batches, unit="segment", disable=hidden, file=sys.stderr, leave=False):
        _, _, log = criterion(model, utils.move_to_cuda(sample, device) if device.type == "cuda" else sample)
        for key, value in log.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    return distributed.summed(totals)


def results(totals: dict[str, float], stats: dict[str, int]) -> dict[str, Any]:
    """What is printed. ``stats`` is the split's entry of stats.json, empty if there is none."""
    nll, tokens = totals["nll_loss"], totals["ntokens"]
    words, size = stats.get("words"), stats.get("bytes")
    found = {
        "tokens": int(tokens),
        "words": words,
        "bytes": size,
        "nll": nll,
        "perplexity_per_token": math.exp(nll / tokens),
        "perplexity_per_word": math.exp(nll / words) if words else None,
        "bits_per_byte": nll / math.log(2) / size if size else None,
    }
    if count := totals.get("ltm_count"):
        found |= {"ltm_mu": totals["mu"] / count, "ltm_sigma": totals["sigma"] / count}
    return found


def evaluate(args: argparse.Namespace, launch: Launch = distributed.ALONE) -> dict[str, Any]:
    """Load, score, and return what is printed, of all the processes together."""
    model, task = load(args)
    device = torch.device("cpu")
    if torch.cuda.is_available() and not args.cpu:
        device = torch.device("cuda", launch.local_rank % torch.cuda.device_count())
    started = time.time()
    totals = score(model.to(device), task, args.split, args.batch_size, device, launch)
    notes = Path(args.data) / "stats.json"
    stats = json.loads(notes.read_text())["splits"].get(args.split, {}) if notes.is_file() else {}
    if stats and stats["tokens"] != int(totals["ntokens"]):
        raise InputError(
            f"{notes} counts {stats['tokens']} tokens, the data holds {int(totals['ntokens'])}: prepare again"
        )
    return (
        {"path": args.path, "split": args.split} | results(totals, stats) | {"seconds": round(time.time() - started, 1)}
    )


def main() -> None:
    """Entry point of ``infformer-eval``."""
    args = parse_arguments()
    with distributed.together() as launch:
        found = evaluate(args, launch)
    if launch.rank:
        return
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for name, label in RESULTS.items():
        value = found[name]
        print(f"{label:<22}{'unknown: no stats.json beside the data' if value is None else f'{value:,.6g}'}")


if __name__ == "__main__":
    main()
