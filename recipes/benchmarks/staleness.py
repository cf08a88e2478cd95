"""Whether a model can use a memory that its final weights have written, or only the one that its training has left.

What a long-term memory holds of long ago was written, in training, by earlier weights. A checkpoint in the middle of an
epoch has that memory. From there on the training text is scored three times: with the memory of the checkpoint, with
one that the final weights have written from the segments before, and with none. A model for which the second is worse
than none has learned to read what it will not meet again: train with more streams, on shorter documents, or with a
shorter horizon (--ltm-horizon, or --ltm-contraction fixed).
"""

import argparse
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fairseq_infformer.cli import evaluate, loading
from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy, LtmCrossEntropyConfig
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.modules.memories import ablate


@torch.no_grad()
def perplexity(model: Any, task: Any, streams: Any, first: int, scored: range, memory: dict | None) -> float:
    """Perplexity per token of the segments ``scored``, read on from ``first``: from a memory, or from none (None)."""
    model.decoder.streams.clear()
    if memory is not None:
        model.decoder.load_memory_state(memory)
        model.decoder.streams[False] = model.decoder.streams.pop(True)
    criterion = LtmCrossEntropy.build_criterion(LtmCrossEntropyConfig(), task)
    nll, count = 0.0, 0
    for number in tqdm(range(first, scored.stop), unit="segment", leave=False, disable=None):
        rows = streams.num_streams
        sample = streams.collater([streams[number * rows + row] for row in range(rows)])
        if memory is None and number == first:
            sample["net_input"]["reset"] = np.full(rows, True)
        net_output = criterion.output(model, sample)
        if number in scored:
            _, ntokens, log = criterion.loss(model, net_output, sample)
            nll, count = nll + float(log["nll_loss"]), count + ntokens
    return evaluate.perplexity(nll, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="directory made by prepare.sh, that the model was trained on")
    parser.add_argument("--path", required=True, help="checkpoint of a training that has not ended its epoch")
    parser.add_argument("--segments", type=int, default=40, help="to score (default: %(default)s)")
    parser.add_argument("--before", type=int, default=400, help="for the final weights to read (default: %(default)s)")
    args = parser.parse_args()
    position = loading.read(args.path)["extra_state"]["train_iterator"]
    if not position.get("memory"):
        raise InputError(f"{args.path} has no memory: it stands at the end of an epoch; take another checkpoint")
    as_trained = dict.fromkeys(("user_dir", "tokens_per_sample", "stm_length", "document_boundaries", "score"))
    settings = argparse.Namespace(**vars(args) | as_trained, split="train", ablation="none", ema=False)
    model, task = evaluate.load(settings)
    reading = position["streams"]
    streams = task.dataset("train").in_streams(reading["--batch-size"] * reading["processes"])
    now = position["iterations_in_epoch"]
    scored = range(now, min(now + args.segments, streams.num_segments // streams.num_streams))
    before = max(0, now - args.before)
    found = {"the memory that training has left": perplexity(model, task, streams, now, scored, position["memory"])}
    name = f"one that the final weights have written from {now - before} segments before"
    found[name] = perplexity(model, task, streams, before, scored, None)
    for layer in model.decoder.layers:
        if layer.long_term_memory is not None:
            ablate(layer.long_term_memory, "zero")
    found["none"] = perplexity(model, task, streams, before, scored, None)
    for name, value in found.items():
        print(f"{value:8.2f}  {name}")


if __name__ == "__main__":
    install_one_line_messages()
    main()
