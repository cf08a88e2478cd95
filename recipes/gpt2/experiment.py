"""Fine-tune a pretrained GPT-2 with several memories (Martins et al. 2022, section 4.3)."""

import argparse
from pathlib import Path

from recipes.commands import Command
from recipes.language_models.experiment import LanguageModels, LanguageModelSize
from recipes.launches import die

# Learning rates, one epoch and lengths are the paper's, and so are N, M, widths, λ and τ. It does not give the batch.
RATE = "--lr 5e-5 --lr-scheduler fixed"
MEMORY = (
    "--ltm-basis 512 --ltm-samples 512 --ltm-widths 0.005,0.01 --ltm-ridge 0.5 --ltm-tau 0.5 --compressive-length 512 "
    "--hitters-length 512"
)
# fmt: off
SIZES = {
    # Shows on two cores that all works.
    "small": LanguageModelSize(
        segment=64, recent=0, batch=8, streams=4, save_interval=50, training=f"{RATE} --max-update 100",
        model=f"{MEMORY} --ltm-basis 64 --ltm-samples 64 --compressive-length 64 --hitters-length 64"),
    # One epoch in segments of 512, for GPUs.
    "paper": LanguageModelSize(
        segment=512, recent=0, batch=8, streams=8, save_interval=1000, training=f"{RATE} --max-epoch 1", model=MEMORY),
}
# fmt: on


class GPT2(LanguageModels):
    name, sizes, default_size, extras, corpus = "gpt2", SIZES, "paper", "plot,hf", "text for GPT-2"
    raw_help = "the text: train, valid and test by name, as WikiText-103 or PG-19 were published, or your own"

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        parser.add_argument(
            "--gpt2",
            type=Path,
            metavar="DIR",
            help="a folder with a GPT-2 as Hugging Face publishes it: weights, config.json, tokenizer.json",
        )
        parser.add_argument(
            "--documents",
            default="wikitext",
            help="what is a document of the text, as in preprocess/prepare.sh (default: wikitext; PG-19: file)",
        )

    def check(self) -> None:
        if not self.options.gpt2:
            die("give --gpt2, the folder of a GPT-2; docs/pretrained.md says what it has")
        super().check()

    @property
    def shown(self) -> str:
        return f"--gpt2 GPT2 --documents {self.options.documents} --raw DIR"

    def binarise(self) -> list[Command]:
        how = ["--level", "tokenizer", "--tokenizer", str(self.options.gpt2), "--documents", self.options.documents]
        return self.prepare(self.options.raw, *how)

    def model(self, memory: str) -> str:
        """The sizes and dropout are the folder's, and the memory's parameters come on top of them."""
        optimizer = "adam" if self.known[memory].is_none else "ltm_adam --ltm-lr-scale 5"
        return f"--arch infinite_former_pretrained {self.size.model} --optimizer {optimizer}"

    def training(self, memory: str, seed: int) -> list[str]:
        return [*super().training(memory, seed), "--pretrained", str(self.options.gpt2)]


EXPERIMENT = GPT2
