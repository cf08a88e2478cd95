"""Train language models with several memories on source text: that of Python's standard library, or your own."""

from pathlib import Path
from typing import ClassVar

from recipes.books.experiment import BooksSize
from recipes.commands import Command
from recipes.language_models.experiment import ADAM, LanguageModels
from recipes.memories import LONG, SHORT

# fmt: off
SIZES = {
    # One pass over the text, half an hour per training on one core.
    "small": BooksSize(
        width=256, heads=8, ffn=1024, segment=32, recent=64, basis=128, batch=64, streams=16, save_interval=200,
        vocabulary=8000, model="--arch infinite_former_lm --decoder-layers 4 --dropout 0",
        training=f"{ADAM} --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 1000",
        memories=(SHORT, "compressive", "continuous", "heavy-hitters", "pointer", LONG)),
}
# fmt: on


class Code(LanguageModels):
    name, sizes, default_size, corpus = "code", SIZES, "small", "Python's library"
    stages: ClassVar = {"collect": "copy the standard library's text, one file per module"} | LanguageModels.stages
    raw_help = "a folder with folders train, valid and test, one text file per document (default: the standard library)"

    def check(self) -> None:
        """Without a text, the standard library is taken."""

    @property
    def shown(self) -> str:
        return "--raw DIR" if self.options.raw else ""

    @property
    def raw(self) -> Path:
        return self.options.raw or self.dir / "raw"

    def collect(self) -> list[Command]:
        return [] if self.options.raw else [self.python("recipes.code.collect", self.raw)]

    def binarise(self) -> list[Command]:
        vocabulary = ["--vocab-size", str(self.size.vocabulary)]
        return self.prepare(self.raw, "--level", "sentencepiece", *vocabulary, "--documents", "file")


EXPERIMENT = Code
