"""What all experiments have in common: models that differ in one respect, trained alike, scored and compared."""

import argparse
import os
import re
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from recipes import launches, train
from recipes.commands import Command
from recipes.launches import ROOT

BIN = ROOT / ".venv/bin"
PYTHON = BIN / "python"
CHECKPOINT = "checkpoint_last.pt"  # of a run


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large an experiment is."""

    batch: int  # streams of a training, in all its processes together
    memories: tuple[str, ...]  # or what else the models differ in
    seeds: tuple[int, ...] = (1,)
    jobs: int = 1  # trainings side by side


class Experiment(ABC):
    """An experiment at one size, with what the user chose of it.

    Stage n > 0 is the nth of ``stages``: the method of its name gives the commands. ``install`` is stage 0.
    """

    name: ClassVar[str]  # its folder
    sizes: ClassVar[dict[str, Size]]
    default_size: ClassVar[str]
    stages: ClassVar[dict[str, str]]  # what each does
    side_by_side: ClassVar[tuple[str, ...]] = ("train", "score")  # stages whose commands do not need each other
    rows: ClassVar[str] = "streams"
    extras: ClassVar[str] = "plot"  # of setup.py
    differ: ClassVar[str] = "memory"  # what the models differ in: the option --memory
    known: ClassVar[Mapping[str, Any]]  # what that option takes

    def __init__(self, options: argparse.Namespace) -> None:
        """Ends the program if options are wrong, before any work."""
        self.options = options
        self.size: Any = self.sizes[options.size]
        self.memories: list[str] = options.memory or list(self.size.memories)
        self.seeds: list[int] = options.seeds or list(self.size.seeds)
        self.jobs: int = options.jobs or self.size.jobs
        self.nproc: int = options.nproc
        self.dir = Path(options.dir or ROOT / f"runs/{self.name}-{options.size}")
        if self.size.batch % self.nproc:
            launches.die(f"--nproc {self.nproc} does not divide the batch of {self.size.batch} {self.rows}")
        self.check()

    @classmethod  # noqa: B027 (some have none)
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add the experiment's own options."""

    def check(self) -> None:  # noqa: B027
        """End the program if one of its own options is wrong."""

    @property
    def shown(self) -> str:
        """The experiment's own options, as results name them."""
        return ""

    @property
    def command(self) -> str:
        """What made the results; their memories and seeds are added where they are read."""
        text = f"recipes/{self.name}/run.sh --size {self.options.size}" + (self.shown and f" {self.shown}")
        text += f" --nproc {self.nproc}" if self.nproc > 1 else ""
        return text + (f" -- {shlex.join(self.options.further)}" if self.options.further else "")

    # ---- Stages that all have

    def install(self) -> list[Command]:
        return [Command([str(ROOT / "recipes/setup.sh"), "--extras", self.extras])]

    def train(self) -> list[Command]:
        """A training for each memory and seed; ends the program if one of other arguments is in its folder."""
        return self.trainings(self.runs())

    def trainings(self, runs: Iterable[tuple[str, int]]) -> list[Command]:
        """The trainings of ``runs`` that have not ended."""
        commands = []
        for memory, seed in runs:
            save = self.save(memory, seed)
            words = [*self.launcher(), *self.train_arguments(memory, seed)]
            launches.check(save, words)
            if (save / train.DONE).exists():
                print(f"{save} is trained already", file=sys.stderr)
                continue
            log = save / train.LOG
            wrapped = [str(PYTHON), "-m", "recipes.train", str(save), *words]
            commands.append(Command(wrapped, f"training {save}: log in {log}", log=log))
        return commands

    @abstractmethod
    def score(self) -> list[Command]:
        """A score of each run and part of the text, unless that was made of the last checkpoint."""

    def trained(self, memory: str, seed: int) -> Path:
        """The folder of a run; ends the program if it is not trained to its end."""
        save = self.save(memory, seed)
        if not (self.options.dry_run or (save / train.DONE).exists()):
            launches.die(f"{save} is not trained to its end; the stage before does that")
        return save

    def python(self, module: str, *arguments: object) -> Command:
        return Command([str(PYTHON), "-m", module, *map(str, arguments)])

    # ---- Runs

    def runs(self) -> Iterator[tuple[str, int]]:
        """Each memory with each seed."""
        return ((memory, seed) for seed in self.seeds for memory in self.memories)

    def save(self, memory: str, seed: int) -> Path:
        """The folder of a run."""
        return self.dir / f"{memory}-seed{seed}"

    def launcher(self) -> list[str]:
        """fairseq-train in ``nproc`` processes: srun's in a SLURM job of several nodes, else torchrun's."""
        program = str(BIN / "fairseq-train")
        if self.nproc == 1:
            return [program, "--distributed-world-size", "1"]  # or fairseq starts one for each GPU
        if int(os.environ.get("SLURM_JOB_NUM_NODES") or 1) > 1:
            return ["srun", "--ntasks", str(self.nproc), "--kill-on-bad-exit=1", program]
        return [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", str(self.nproc), program]

    def train_arguments(self, memory: str, seed: int) -> list[str]:
        """Arguments of fairseq-train."""
        save = self.save(memory, seed)
        return [
            *(self.data, "--user-dir", str(ROOT / "fairseq_infformer"), "--task", self.task(memory)),
            *("--save-dir", str(save), "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "10"),
            *("--tensorboard-logdir", str(save / "tensorboard"), *self.model_and_training(memory, seed)),
            *self.options.further,
        ]

    def model_and_training(self, memory: str, seed: int) -> list[str]:
        """``training``, for the model that the memory belongs to."""
        return self.training(memory, seed)

    @property
    @abstractmethod
    def data(self) -> str:
        """What is trained on: folders with ":" between."""

    @abstractmethod
    def task(self, memory: str) -> str:
        """fairseq's name of what a model learns."""

    @abstractmethod
    def training(self, memory: str, seed: int) -> list[str]:
        """Arguments of fairseq-train for a run, but for its data, task and folders."""

    @abstractmethod
    def summarize(self) -> list[Command]:
        """The table, results.json and plots."""


def is_made(file: Path, source: Path) -> bool:
    """Whether a file is there, and newer than what it is made of, as far as that is there."""
    return file.exists() and not (source.exists() and source.stat().st_mtime_ns > file.stat().st_mtime_ns)


# ---- Types of options


def number(lowest: int, what: str) -> Callable[[str], int]:
    """Reads a number that is ``lowest`` or more; errors say ``what`` it must be."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be {what}, got {text}")
        return int(text)

    return read


positive = number(1, "a positive number")
