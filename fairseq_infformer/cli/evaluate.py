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

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
from fairseq_infformer.data.binarised import read_stats
from fairseq_infformer.errors import InputError
from fairseq_infformer.models import infinite_former_lm  # noqa: F401  (registers the model)
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
        "spaces, and each line's end counts as one), so models with different vocabularies can be compared.",
    )
    parser.add_argument("data", help="directory made by prepare.sh")
    parser.add_argument("--path", required=True, help="checkpoint")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=1, help="streams read side by side (default: %(default)s)")
    parser.add_argument("--tokens-per-sample", type=int, help="tokens of a segment (default: as trained)")
    parser.add_argument("--stm-length", type=int, help="short-term memory (default: as trained)")
    parser.add_argument("--document-boundaries", choices=["ignore", "reset"], help="default: as trained")
    parser.add_argument(
        "--ablation",
        choices=["none", "zero", "swap"],
        default="none",
        help="zero: read nothing from the long-term memory; swap: read the memory of another stream",
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    for name, least in (("batch_size", 1), ("tokens_per_sample", 1), ("stm_length", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    return args


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and the task of ``args.path``, with the data and the settings that ``args`` gives."""
    saved = checkpoint_utils.load_checkpoint_to_cpu(args.path)["cfg"]
    if saved["task"]["_name"] != "streaming_language_modeling":
        raise InputError(f"{args.path} was trained with --task {saved['task']['_name']}, not on streams")
    cfg = StreamingLanguageModelingConfig(
        data=args.data,
        tokens_per_sample=args.tokens_per_sample or saved["task"]["tokens_per_sample"],
        document_boundaries=args.document_boundaries or saved["task"]["document_boundaries"],
        batch_size_valid=None,
    )
    task = StreamingLanguageModelingTask.setup_task(cfg)
    task.load_dataset(args.split)
    overrides = {"ltm_ablation": args.ablation}
    if args.stm_length is not None:
        overrides["stm_length"] = args.stm_length
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([args.path], overrides, task)
    return models[0].eval(), task


@torch.no_grad()
def score(model: Any, task: Any, split: str, batch_size: int, device: torch.device) -> dict[str, float]:
    """Sums over all tokens of the split: ``nll`` in nats, ``tokens``, and what the criterion logs of the memory."""
    criterion = LtmCrossEntropy(task, ltm_kl_weight=0, ltm_kl_sigma=0.05)
    batches = task.eval_lm_dataloader(task.dataset(split), batch_size=batch_size)
    totals: dict[str, float] = {}
    for sample in tqdm(batches, unit="segment", disable=None, file=sys.stderr, leave=False):
        _, _, log = criterion(model, utils.move_to_cuda(sample, device) if device.type == "cuda" else sample)
        for key, value in log.items():
            totals[key] = totals.get(key, 0.0) + float(value)
    return totals


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


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Load, score, and return what is printed."""
    model, task = load(args)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    started = time.time()
    totals = score(model.to(device), task, args.split, args.batch_size, device)
    stats = read_stats(Path(args.data))["splits"].get(args.split, {})
    return (
        {"path": args.path, "split": args.split} | results(totals, stats) | {"seconds": round(time.time() - started, 1)}
    )


def main() -> None:
    """Entry point of ``infformer-eval``."""
    args = parse_arguments()
    found = evaluate(args)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    for name, label in RESULTS.items():
        value = found[name]
        print(f"{label:<22}{'unknown: no stats.json beside the data' if value is None else f'{value:,.6g}'}")


if __name__ == "__main__":
    main()
