"""Experiments in which language models with several memories read streams of text."""

import shlex
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes import launches
from recipes.commands import Command
from recipes.experiment import BIN, CHECKPOINT, Experiment, Size, is_made
from recipes.memories import MEMORIES, TABLE, Memory


@dataclass(frozen=True, kw_only=True)
class StreamingSize(Size):
    memories: tuple[str, ...] = tuple(memory.name for memory in TABLE)


class StreamingExperiment(Experiment):
    """One whose runs are scored by infformer-eval."""

    known: ClassVar[Mapping[str, Memory]] = MEMORIES

    def score(self) -> list[Command]:
        """infformer-eval for each run and part of the text, unless that was made of the last checkpoint."""
        commands = []
        for memory, seed in self.runs():
            save = self.trained(memory, seed)
            checkpoint = save / CHECKPOINT
            for name, arguments in self.scoring(memory, save):
                file = save / f"{name}.json"
                if is_made(file, checkpoint):
                    continue
                words = [str(BIN / "infformer-eval"), str(self.scored), "--path", str(checkpoint), "--json", *arguments]
                commands.append(Command(words, f"scoring {save}: {name}", output=file))
        return commands

    @classmethod
    def memory(cls, name: str) -> str:
        """What fairseq-train is given for a memory."""
        return shlex.join(cls.known[name].arguments)

    def task(self, memory: str) -> str:
        return "streaming_language_modeling"

    def model_and_training(self, memory: str, seed: int) -> list[str]:
        words = self.training(memory, seed)
        if "memformer_lm" not in words:
            return words
        try:
            from recipes.memformer.model import as_memformer
        except ModuleNotFoundError:
            launches.die("the width of this model is asked of torch, which is not installed yet: run stage 0 first")
        return as_memformer(words)

    @property
    def data(self) -> str:
        return str(self.scored)

    @property
    @abstractmethod
    def scored(self) -> Path:
        """The folder of the data that is scored."""

    @abstractmethod
    def scoring(self, memory: str, save: Path) -> Iterator[tuple[str, list[str]]]:
        """For each score of a run, its name and the arguments of infformer-eval."""
