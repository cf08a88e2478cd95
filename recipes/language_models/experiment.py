"""What is the same for every recipe that trains language models."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Optional

from recipes.commands import Command
from recipes.launches import ROOT, die
from recipes.streaming import StreamingExperiment, StreamingSize

ADAM = "--optimizer adam --lr-scheduler cosine"


@dataclass(frozen=True, kw_only=True)
class LanguageModelSize(StreamingSize):
    segment: int  # tokens of a segment
    recent: int  # tokens of the short-term memory
    streams: int  # of an evaluation
    save_interval: int  # updates between checkpoints, from which a training that was stopped resumes
    model: str  # the architecture
    training: str  # the optimiser, its learning rates, and how long the training takes
    # Of a model that is not pretrained: its width, heads, the feed-forward networks' width with the continuous memory,
    # and the basis functions or compressed vectors.
    width: int = 0
    heads: int = 0
    ffn: int = 0
    basis: int = 0


class LanguageModels(StreamingExperiment):
    stages: ClassVar = {
        "binarise": "binarise the text, with the bounds of its documents",
        "train": "train every memory with every seed",
        "score": "score the validation and test splits, memories also zeroed and swapped between streams",
        "summarize": "perplexity: a table, results.json and plots",
    }
    raw_help = "the folder of the text"
    corpus: ClassVar[str]  # as tables name it

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--raw", type=Path, metavar="DIR", help=cls.raw_help)

    def check(self) -> None:
        if self.options.stage <= 1 <= self.options.stop_stage and not (self.options.raw or self.is_binarised):
            die("give --raw, the folder of the text; docs/recipes.md says where to get it")
        for name in self.memories:
            if (segments := self.known[name].segments) > 1:
                die(
                    f"--memory {name} takes {segments} segments per update, and the updates of a language model are "
                    f"those of a text read once; give --memory {name.split('-')[0]} -- --bptt-segments {segments} "
                    "--max-update N"
                )

    @property
    def shown(self) -> str:
        return "--raw DIR"

    @property
    def scored(self) -> Path:
        return self.dir / "data"

    @property
    def is_binarised(self) -> bool:
        return (self.scored / "dict.txt").exists()

    def prepare(self, raw: Optional[Path], *arguments: str) -> list[Command]:
        """prepare.sh with these arguments; nothing where there is no text, since it is binarised already."""
        folders = ["--raw", str(raw), "--dest", str(self.scored)]
        return [Command([str(ROOT / "preprocess/prepare.sh"), *folders, *arguments])] if raw else []

    def training(self, memory: str, seed: int) -> list[str]:
        size = self.size
        return shlex.split(
            f"--tokens-per-sample {size.segment} --stm-length {size.recent} --document-boundaries reset "
            f"--batch-size {size.batch // self.nproc} {self.model(memory)} {self.memory(memory)} "
            f"--criterion ltm_cross_entropy {size.training} --clip-norm 0.25 --seed {seed} "
            f"--save-interval-updates {size.save_interval} --keep-interval-updates 1 --disable-validation "
            "--num-workers 0"
        )

    def model(self, memory: str) -> str:
        """The arguments of a model; with every memory it has as many parameters."""
        size = self.size
        options = ("--ltm-basis", "--ltm-samples", "--compressive-length", "--hitters-length")
        memories = " ".join(f"{option} {size.basis}" for option in options)
        try:
            from recipes.language_models.parameters import ffn_width
        except ModuleNotFoundError:
            die("the widths of these models are asked of torch, which is not installed yet: run stage 0 first")
        ffn = ffn_width(size.width, size.heads, size.ffn, memory, f"{size.model} {memories}".split())
        return (
            f"{size.model} --decoder-embed-dim {size.width} --decoder-attention-heads {size.heads} "
            f"--decoder-ffn-embed-dim {ffn} {memories}"
        )

    def scoring(self, memory: str, save: Path) -> Iterator[tuple[str, list[str]]]:
        """The validation and test splits, and the last of them again with the memory zeroed and swapped."""
        splits = ["valid", "test"]
        if self.is_binarised and not (self.scored / "test.bin").exists():
            splits = ["valid"]  # a corpus may have no test split
        streams = ["--batch-size", str(self.size.streams)]
        for split in splits:
            yield split, ["--split", split, *streams]
        for ablation in () if self.known[memory].is_none else ("zero", "swap"):
            yield f"{splits[-1]}-{ablation}", ["--split", splits[-1], *streams, "--ablation", ablation]

    def summarize(self) -> list[Command]:
        return [
            self.python(
                "recipes.language_models.summary", self.dir, "--corpus", self.corpus, "--command", self.command
            ),
            self.python("recipes.plot", self.dir / "results.json"),
        ]
