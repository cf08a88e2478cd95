"""Sort 20 symbols by how often they occur in a sequence, with several memories (Martins et al. 2022, section 4.1)."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.experiment import positive
from recipes.memories import MEMORIES
from recipes.streaming import StreamingExperiment, StreamingSize


@dataclass(frozen=True, kw_only=True)
class SortingSize(StreamingSize):
    length: int  # symbols of a sequence
    sequences: int
    segment: int  # tokens of a segment, and of the short-term memory
    updates: int
    model: str
    training: str
    seeds: tuple[int, ...] = (1, 2, 3)


SMALL_MODEL = (
    "--arch infinite_former_lm --decoder-layers 2 --decoder-embed-dim 64 --decoder-ffn-embed-dim 128 "
    "--decoder-attention-heads 4 --dropout 0 --untie-embeddings --ltm-basis 64 --ltm-samples 64 "
    "--compressive-length 64 --hitters-length 64"
)
SMALL_TRAINING = "--lr 3e-3 --adam-betas (0.9,0.98) --warmup-updates 50 --num-workers 0"
# fmt: off
SIZES = {
    # Minutes on two cores.
    "tiny": SortingSize(
        length=490, sequences=6400, segment=64, batch=16, updates=400, model=SMALL_MODEL, training=SMALL_TRAINING,
        memories=("none", "compressive", "continuous"), seeds=(1,), jobs=2),
    # 10 minutes per training there.
    "small": SortingSize(
        length=2000, sequences=8000, segment=128, batch=16, updates=600, model=SMALL_MODEL, training=SMALL_TRAINING),
    # For GPUs.
    "paper": SortingSize(
        length=8000, sequences=8000, segment=1024, batch=8, updates=20000, training="--lr 2e-4",
        model="--arch infinite_former_lm_sort --untie-embeddings"),
}
# fmt: on


class Sorting(StreamingExperiment):
    name, sizes, default_size, rows = "sorting", SIZES, "small", "sequences"
    stages: ClassVar = {
        "generate": "generate the sequences",
        "train": "train every memory with every seed",
        "score": "score the validation and test splits",
        "summarize": "accuracy and exact matches: a table, results.json and plots",
    }

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        lengths = "; ".join(f"{name}: {size.length}" for name, size in SIZES.items())
        parser.add_argument(
            "--length",
            type=positive,
            metavar="N",
            help=f"symbols of a sequence (default: {lengths}); run several lengths one after the other",
        )

    @property
    def length(self) -> int:
        return self.options.length or self.size.length

    @property
    def scored(self) -> Path:
        return self.dir / str(self.length) / "data"

    def save(self, memory: str, seed: int) -> Path:
        return self.dir / str(self.length) / f"{memory}-seed{seed}"

    def generate(self) -> list[Command]:
        size = ("--length", self.length, "--sequences", self.size.sequences)
        return [self.python("preprocess.generate_sorting", "--dest", self.scored, *size)]

    def training(self, memory: str, seed: int) -> list[str]:
        size = self.size
        # An update is one sequence of each stream: its answer, <answer> and </answer> follow the symbols.
        segments = -(-(self.length + 22) // size.segment)
        samples = -(-segments // MEMORIES[memory].bptt_segments)
        return shlex.split(
            f"--score answers --tokens-per-sample {size.segment} --stm-length {size.segment} "
            f"--document-boundaries reset --batch-size {size.batch // self.nproc} "
            f"{size.model} {self.memory(memory)} --update-freq {samples} "
            "--criterion ltm_cross_entropy --optimizer adam --clip-norm 0.25 --lr-scheduler cosine "
            f"{size.training} --max-update {size.updates} --seed {seed} "
            "--save-interval-updates 200 --keep-interval-updates 1 --disable-validation"
        )

    def scoring(self, memory: str, save: Path) -> Iterator[tuple[str, list[str]]]:
        for split in ("valid", "test"):
            batch = ["--batch-size", str(self.size.batch)]
            yield split, ["--split", split, *batch, "--predictions", str(save / f"{split}.npz")]

    def summarize(self) -> list[Command]:
        return [
            self.python("recipes.sorting.summary", self.dir, "--command", self.command),
            self.python("recipes.plot", self.dir / "results.json"),
        ]


EXPERIMENT = Sorting
