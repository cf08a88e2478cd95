"""Score a split with a trained model: perplexity per token, perplexity per word and bits per byte."""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from omegaconf import OmegaConf
from tqdm import tqdm

from fairseq_infformer.cli import loading
from fairseq_infformer.criterions.ltm_cross_entropy import COUNT, SUM, LtmCrossEntropy
from fairseq_infformer.data.data_folder import data_folders, read_stats
from fairseq_infformer.errors import InputError, option
from fairseq_infformer.files import replacing
from fairseq_infformer.models import export_format
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerLM
from fairseq_infformer.models.streaming_lm import check_dictionary
from fairseq_infformer.models.text_stream import Stream
from fairseq_infformer.plugin import collectives
from fairseq_infformer.plugin.launch import ALONE, Launch
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

RESULTS = {
    "tokens": "tokens scored",
    "perplexity_per_token": "perplexity per token",
    "perplexity_per_word": "perplexity per word",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "state_bytes": "bytes kept per stream",
}


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        prog="infformer-eval",
        description=__doc__,
        epilog="Words and bytes are those of the raw text, counted by prepare.sh (words are separated by spaces, and "
        "each line end counts as one), so models with different vocabularies can be compared. Under torchrun "
        "(torchrun --nproc-per-node N -m fairseq_infformer.cli.evaluate …) or srun every process reads its own "
        "streams, and the first one prints the results of all.",
    )
    parser.add_argument("data", help="data folder made by prepare.sh")
    parser.add_argument("--path", required=True, help="checkpoint, or folder made by infformer-export")
    parser.add_argument("--user-dir", metavar="DIR", help="your own plugin, if the model was trained with one")
    parser.add_argument("--split", default="test", help="split of the data to score (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="streams that each process reads in parallel (default: %(default)s)"
    )
    parser.add_argument("--tokens-per-sample", type=int, help="tokens per segment (default: as trained)")
    parser.add_argument(
        "--stm-length", type=int, help="length of the short-term memory in tokens (default: as trained)"
    )
    parser.add_argument(
        "--document-boundaries",
        choices=["ignore", "reset"],
        help="reset: memories start empty in every document; ignore: the text is one stream (default: as trained)",
    )
    parser.add_argument("--score", choices=["all", "answers"], help="which tokens to score (default: as trained)")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE.npz",
        help="also write, for each target, its offset in the text, its number in dict.txt, the number of the most "
        "probable word, and its loss in nats",
    )
    parser.add_argument(
        "--ablation",
        choices=["none", "zero", "swap"],
        default="none",
        help="zero: read nothing from the long-term memory; swap: read the memory of another stream of the same "
        "process, which needs --batch-size 2 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--memory",
        type=Path,
        metavar="FILE",
        help="memory file of this model, from infformer-read: each stream continues after what the model read for it",
    )
    parser.add_argument("--ema", action="store_true", help="score the weights that --store-ema averaged in training")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON, in which null means infinite or unknown"
    )
    return parser


def parse_arguments() -> argparse.Namespace:
    """Read the command line; InputError names a wrong value."""
    args = build_parser().parse_args()
    for name, least in (("batch_size", 1), ("tokens_per_sample", 1), ("stm_length", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            raise InputError(f"{option(name)} must be {least} or more, got {value}")
    if args.memory and not args.memory.is_file():
        raise InputError(f"--memory {args.memory} does not exist; write it with infformer-read")
    if args.memory and args.stm_length is not None:
        raise InputError(f"--stm-length {args.stm_length} cannot be combined with --memory; leave one out")
    if args.predictions and not args.predictions.resolve().parent.is_dir():
        raise InputError(f"the folder of --predictions {args.predictions} does not exist; make it first")
    return args


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    """The model and the task of ``args.path``, with the data and settings in ``args``."""
    loading.import_plugin(args.user_dir)
    if len(data_folders(args.data)) > 1:
        raise InputError(f"{args.data} joins several data folders by ':'; give one folder")
    exported = Path(args.path).is_dir()
    if exported and args.ema:
        raise InputError(f"{args.path} holds one set of weights; leave --ema out here, and give it to infformer-export")
    saved = {} if exported else loading.read(args.path, args.ema)
    settings = export_format.read_config(Path(args.path)) if exported else saved["cfg"]
    reading = loading.task_settings(settings["task"], args.path)
    cfg = StreamingLanguageModelingConfig(
        data=args.data,
        tokens_per_sample=args.tokens_per_sample or reading["tokens_per_sample"],
        document_boundaries=args.document_boundaries or reading["document_boundaries"],
        score=args.score or reading["score"],
        batch_size_valid=None,
    )
    task = StreamingLanguageModelingTask.setup_task(cfg)
    task.load_dataset(args.split)
    overrides = {"ltm_ablation": args.ablation}
    if args.stm_length is not None:
        if "stm_length" not in settings["model"]:
            arch = settings["model"]["_name"]
            raise InputError(
                f"--stm-length {args.stm_length} does not apply, because {arch} has no short-term memory; leave it out"
            )
        overrides["stm_length"] = args.stm_length
    if exported:
        model = InfiniteFormerLM.from_pretrained(args.path, **overrides)
        check_dictionary(model.state_dict(), task.dictionary)
        model.decoder.check_length(cfg.tokens_per_sample)
        return model, task
    state = saved | {"cfg": OmegaConf.create({"model": settings["model"] | overrides})}
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([args.path], task=task, state=state)
    return models[0].eval(), task


def continue_from(file: Path, model: Any, task: Any, batch_size: int) -> None:
    """Let each stream of evaluation start with what a memory file holds; InputError if it does not fit."""
    if str(task.cfg.document_boundaries) == "reset":
        raise InputError(
            f"--memory {file} would be empty after the first document; give --document-boundaries ignore with it"
        )
    stream = Stream.load(file, model, task.cfg.tokens_per_sample)
    if len(stream.tokens_read) != 1:
        raise InputError(f"--memory {file} is of {len(stream.tokens_read)} texts; give one of one text")
    stream.reorder(torch.zeros(batch_size, dtype=torch.int64))
    model.decoder.continue_from(stream.layers)


@torch.no_grad()
def score(
    model: Any,
    task: Any,
    split: str,
    batch_size: int,
    device: torch.device,
    launch: Launch,
    predict: bool = False,
    memory: Optional[Path] = None,
) -> tuple[dict[str, float], np.ndarray]:
    """Score all targets of the split.

    Each process reads ``batch_size`` streams, and gets the sums over all processes. With ``memory``, a file, each
    stream continues after what the model has read for it.

    Returns:
        sums: ``nll_loss`` in nats, ``ntokens``, and what the criterion logs about the memory; and, with ``predict``,
        (targets, 4): offset in the text, word, most probable word, and loss in nats.
    """
    answers = str(task.cfg.score) == "answers"
    criterion = LtmCrossEntropy(task, answers=answers)
    batches = task.get_batch_iterator(
        task.dataset(split), max_sentences=batch_size, num_shards=launch.world_size, shard_id=launch.rank
    ).next_epoch_itr(shuffle=False)
    if memory is not None:
        continue_from(memory, model, task, batch_size)
    totals: dict[str, float] = {}
    predictions = [np.empty((0, 4))]
    no_bar = True if launch.rank else None  # None: unless the output is a terminal
    for sample in tqdm(batches, unit="segment", disable=no_bar, file=sys.stderr, leave=False):
        sample = utils.move_to_cuda(sample, device) if device.type == "cuda" else sample
        if memory is not None:
            sample["net_input"]["reset"][:] = False
        net_output = criterion.output(model, sample)
        _, _, log = criterion.loss(model, net_output, sample)
        for key, value in log.items():
            totals[key] = totals.get(key, 0.0) + float(value)
        if answers:
            totals["correct"] = totals.get("correct", 0.0) + float(criterion.correct(model, net_output, sample))
        if predict:
            row, position = sample["target"].ne(task.dictionary.pad()).nonzero().cpu().numpy().T
            figures = [figure.cpu().numpy() for figure in criterion.predictions(model, net_output, sample)]
            predictions.append(np.column_stack([sample["start"][row] + position, *figures]))
    return collectives.summed(totals), collectives.joined(np.concatenate(predictions))


def perplexity(nll: float, count: float) -> float:
    """``exp(nll / count)``; infinite if a float cannot hold it, as for a line without spaces, which is one word."""
    try:
        return math.exp(nll / count)
    except OverflowError:
        return math.inf


def results(totals: dict[str, float], stats: dict[str, int]) -> dict[str, Any]:
    """The results by name. ``stats`` is the split's entry in stats.json; empty if it has none."""
    nll, tokens = totals["nll_loss"], totals["ntokens"]
    words, size = stats.get("words"), stats.get("bytes")
    if "correct" in totals:  # under --score answers, the words and bytes of the whole text do not count
        figures = {"tokens": int(tokens), "nll": nll, "perplexity_per_token": perplexity(nll, tokens)}
        figures["accuracy"] = totals["correct"] / tokens
    else:
        figures = {
            "tokens": int(tokens),
            "words": words,
            "bytes": size,
            "nll": nll,
            "perplexity_per_token": perplexity(nll, tokens),
            "perplexity_per_word": perplexity(nll, words) if words else None,
            "bits_per_byte": nll / math.log(2) / size if size else None,
        }
    for key, count in totals.items():
        if key.startswith(COUNT) and count:
            name = key.removeprefix(COUNT)
            figures[name] = totals[SUM + name] / count
    return figures


def write_predictions(file: Path, predictions: np.ndarray) -> None:
    """Write the predictions that ``score`` returned, in the order of the text."""
    *words, loss = predictions[np.argsort(predictions[:, 0])].T
    offset, target, predicted = (column.astype(np.int64) for column in words)
    with replacing(file) as new, new.open("wb") as out:
        np.savez(out, offset=offset, target=target, predicted=predicted, loss=loss)


def evaluate(args: argparse.Namespace, launch: Launch = ALONE) -> dict[str, Any]:
    """Load the model, score the split, and return the results of all processes by name."""
    model, task = load(args)
    device = torch.device("cpu")
    if torch.cuda.is_available() and not args.cpu:
        device = torch.device("cuda", launch.local_rank % torch.cuda.device_count())
    started = time.time()
    model = model.to(device)
    totals, predictions = score(
        model, task, args.split, args.batch_size, device, launch, bool(args.predictions), args.memory
    )
    if args.predictions and not launch.rank:
        write_predictions(args.predictions, predictions)
    stats = read_stats(Path(args.data))["splits"].get(args.split, {})
    return (
        {"path": args.path, "split": args.split}
        | results(totals, stats)
        | {"state_bytes": model.decoder.state_bytes(), "seconds": round(time.time() - started, 3)}
    )


def main() -> None:
    """Entry point of ``infformer-eval``."""
    args = parse_arguments()
    with collectives.process_group() as launch:
        figures = evaluate(args, launch)
    if launch.rank:
        return
    if args.json:
        # JSON has no infinite numbers.
        finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in figures.items()}
        print(json.dumps(finite, indent=2, allow_nan=False))
        return
    for name, label in RESULTS.items():
        if name in figures:
            value = figures[name]
            unknown = "unknown, because no stats.json beside the data counts them"
            print(f"{label:<22}{unknown if value is None else f'{value:,.6g}'}")


if __name__ == "__main__":
    main()
