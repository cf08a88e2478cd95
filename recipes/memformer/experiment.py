"""Memformer, and its slots in each layer, against the other memories: recall and language modelling."""

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.launches import ROOT, die
from recipes.memories import MEMORIES
from recipes.recall.experiment import SIZES as RECALL
from recipes.recall.experiment import Recall

THROUGH = ("none", "compressive", "gibbs", "slots1", "slots", "memformer")
TINY = replace(
    RECALL["tiny"],
    model=f"{RECALL['tiny'].model} --slots-count 8 --long-term-memory slots",
    memories=tuple(f"{name}-bptt8" for name in THROUGH),
    seeds=(1, 2, 3),
)
# fmt: off
SIZES = {
    # Shows in seconds that all works, and learns nothing.
    "tiny": replace(
        TINY, reaches={24: 1200}, updates=80, warmup=8, streams=8, memories=("slots-bptt8", "memformer-bptt8"),
        seeds=(1,), evaluation="--distances 16,32 --evaluation-documents 8"),
    # recipes/recall/run.sh --tiny, with three seeds: minutes per training.
    "small": TINY,
}
# fmt: on
REFERENCE = "slots"  # whose models have the width of recipes/recall; with them, others have as many parameters


class Memformer(Recall):
    name, sizes, default_size = "memformer", SIZES, "small"
    stages: ClassVar = Recall.stages | {
        "language": "with --raw: recipes/wikitext2/run.sh with gradients through 4 segments, in DIR/wikitext2"
    }

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.add_argument(
            "--raw", type=Path, metavar="DIR", help="the folder of the published WikiText-2, for the last stage"
        )

    def training(self, memory: str, seed: int) -> list[str]:
        words = super().training(memory, seed)
        if MEMORIES[memory].options.get("arch"):
            return words
        try:
            from recipes.language_models.parameters import ffn_width
        except ModuleNotFoundError:
            die("the widths of these models are asked of torch, which is not installed yet: run stage 0 first")
        given, names = dict(pairwise(words)), ("embed-dim", "attention-heads", "ffn-embed-dim")
        width = ffn_width(*(int(given[f"--decoder-{name}"]) for name in names), memory, words, REFERENCE)
        return [*words, "--decoder-ffn-embed-dim", str(width)]

    def language(self) -> list[Command]:
        if not self.options.raw:
            return []
        options = ["--raw", self.options.raw, "--dir", self.dir / "wikitext2", "--stage", 1, "--jobs", self.jobs]
        memories = ["--memory", "none,compressive,continuous,slots,memformer"]
        # As much text as one segment per update.
        further = ["--", "--bptt-segments", 4, "--max-update", 255, "--warmup-updates", 25]
        words = [ROOT / "recipes/wikitext2/run.sh", *options, *memories, *further]
        return [Command([str(word) for word in words])]


EXPERIMENT = Memformer
