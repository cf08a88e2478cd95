"""Gradients through K segments: time, and memory that the backward pass needs, of three ways to keep activations.

  .venv/bin/python -m recipes.benchmarks.replay [--model memformer|memformer-wt103] [--segments 1,4,16] [--repeats 3]
                                                [--threads 2] [--device cuda] [--out DIR]

plain         keeps the activations of all K segments
checkpointed  keeps the input of every layer of every segment (``--checkpoint-activations``)
replayed      keeps the states between segments (``--bptt-replay``)

The models, with segments and streams that --length and --batch replace:

infformer        that of row 4 of ``recipes.benchmarks.memory``: 6 layers, 300 wide, segments and memories of 512
memformer        4 + 8 layers of 64, segments of 64, for a CPU
memformer-wt103  the paper's, 512 wide with 32 slots, for a GPU (Wu et al. 2020, section 3.1)

Times are measured in turn. Memory is what a forward and backward pass adds at its peak, on a CPU to the resident memory
of a fresh process (Linux); beside it stands what is kept between the segments, which no way does without: states, and
of Memformer what its encoder made. --out gets replay.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data import Dictionary
from torch import Tensor
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from fairseq_infformer.criterions.ltm_cross_entropy import LtmCrossEntropy
from fairseq_infformer.models.infinite_former_lm import InfiniteFormerConfig, InfiniteFormerLM
from fairseq_infformer.models.memformer_lm import MemformerConfig, MemformerLM
from fairseq_infformer.models.streaming_lm import StreamingLanguageModel
from recipes import runs
from recipes.benchmarks.measure import in_use, peak_on_gpu, resident, seconds

WAYS = ("plain", "checkpointed", "replayed")


class Size(NamedTuple):
    """A model as it is measured."""

    length: int  # tokens of a segment
    batch: int  # streams
    types: int  # of the dictionary
    build: Callable[[Dictionary, int, bool], StreamingLanguageModel]  # of the length, and whether it is checkpointed


def infformer(dictionary: Dictionary, length: int, checkpointed: bool) -> InfiniteFormerLM:
    cfg = InfiniteFormerConfig(
        decoder_embed_dim=300,
        decoder_ffn_embed_dim=1200,
        decoder_layers=6,
        decoder_attention_heads=6,
        stm_length=length,
        ltm_basis=length,
        ltm_samples=length,
        checkpoint_activations=checkpointed,
    )
    return InfiniteFormerLM.build(cfg, dictionary)


def memformer(dictionary: Dictionary, length: int, checkpointed: bool, width: int = 64) -> MemformerLM:
    cfg = MemformerConfig(
        decoder_embed_dim=width,
        decoder_ffn_embed_dim=4 * width,
        dropout=0.0,
        checkpoint_activations=checkpointed,
    )
    return MemformerLM.build(cfg, dictionary)


SIZES = {
    "infformer": Size(512, 4, 1000, infformer),
    "memformer": Size(64, 32, 1000, memformer),
    "memformer-wt103": Size(64, 64, 50000, partial(memformer, width=512)),
}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.peak:
        print(peak(args.peak, args.segments[0], args))
        return
    rows = []
    for count in args.segments:
        passes = {way: Passes(way, count, args) for way in WAYS}
        times = {way: [] for way in WAYS}
        for each in passes.values():
            each()  # solves the operators
        for _ in tqdm(range(args.repeats), desc=f"{count} segments", leave=False, disable=None):
            for way in WAYS:
                times[way].append(seconds(passes[way]))
        held = passes["plain"].state_bytes() * (count - 1)
        for way in WAYS:
            rows.append(
                {
                    "segments": count,
                    "way": way,
                    "seconds": statistics.median(times[way]),
                    "samples": times[way],
                    "bytes": fresh_peak(way, count, args),
                    "states": held,
                }
            )
    show(rows)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        runs.write(
            args.out / "replay.json",
            {"rows": rows, "threads": args.threads, "device": str(args.device), "model": args.model},
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser.add_argument("--segments", type=numbers, default=[1, 4, 16], help="K, with commas between (default: 1,4,16)")
    parser.add_argument("--repeats", type=int, default=3, help="passes of each (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--model", choices=list(SIZES), default="infformer", help="(default: infformer)")
    parser.add_argument("--batch", type=int, help="streams (default: the model's)")
    parser.add_argument("--length", type=int, help="tokens of a segment (default: the model's)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=WAYS, help=argparse.SUPPRESS)  # a process that measures one peak
    args = parser.parse_args()
    args.batch, args.length = args.batch or SIZES[args.model].batch, args.length or SIZES[args.model].length
    return args


class Passes:
    """A model and a sample of K segments; each call is a forward and backward pass over them."""

    def __init__(self, way: str, segments: int, args: argparse.Namespace) -> None:
        dictionary = Dictionary()
        for number in range(SIZES[args.model].types - len(dictionary)):
            dictionary.add_symbol(str(number))
        torch.manual_seed(0)
        model = SIZES[args.model].build(dictionary, args.length, way == "checkpointed")
        self.model = model.to(args.device).train()
        self.criterion = LtmCrossEntropy(SimpleNamespace(target_dictionary=dictionary))
        self.tokens = torch.randint(4, len(dictionary), (args.batch, segments * args.length), device=args.device)
        self.shape, self.replayed = (args.batch, segments), way == "replayed"

    def __call__(self) -> None:
        reset = np.zeros(self.shape, dtype=bool)
        reset[:, 0] = True
        sample = {
            "net_input": {
                "src_tokens": self.tokens,
                "segment": 0,
                "lengths": np.full(self.shape, self.tokens.shape[1] // self.shape[1]),
                "reset": reset,
                "replayed": self.replayed,
            },
            "target": self.tokens.roll(1),
            "ntokens": self.tokens.numel(),
        }
        self.criterion(self.model, sample)[0].backward()

    def state_bytes(self) -> int:
        """Bytes of the states of all layers between two segments."""
        states = self.model.decoder.streams[True].after
        return sum(part.nbytes for part in tree_leaves(states) if isinstance(part, Tensor))


def peak(way: str, segments: int, args: argparse.Namespace) -> int:
    """Bytes that the second pass adds at its peak, when gradients and states have their memory already."""
    run: Callable[[], None] = Passes(way, segments, args)
    run()
    if args.device.type == "cuda":
        return peak_on_gpu(run)
    before = in_use(args.device)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    run()
    return resident("VmHWM") - before


def fresh_peak(way: str, segments: int, args: argparse.Namespace) -> int:
    command = [sys.executable, "-m", __spec__.name, "--peak", way, "--segments", segments, "--threads", args.threads]
    command += ["--model", args.model, "--device", args.device, "--batch", args.batch, "--length", args.length]
    # Every array is given back to the system as soon as it is freed, so that the peak is that of live memory.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.check_output([str(part) for part in command], env=environment, text=True)
    return int(output.split()[-1])


def show(rows: list[dict]) -> None:
    mib = 2**20
    base = next(row["bytes"] for row in rows if row["way"] == "plain")
    print("| segments | | seconds | of plain | MiB | states, MiB | without them, of the first row |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        plain = next(r for r in rows if r["segments"] == row["segments"] and r["way"] == "plain")
        print(
            f"| {row['segments']} | {row['way']} | {row['seconds']:.2f} | {row['seconds'] / plain['seconds']:.2f} "
            f"| {row['bytes'] / mib:,.0f} | {row['states'] / mib:,.0f} | {(row['bytes'] - row['states']) / base:.2f} |"
        )


if __name__ == "__main__":
    main()
