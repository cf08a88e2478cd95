"""Train language models with several memories on long novels, or on PG-19 as it was published."""

from dataclasses import dataclass

from recipes.commands import Command
from recipes.language_models.experiment import ADAM, LanguageModels, LanguageModelSize


@dataclass(frozen=True, kw_only=True)
class BooksSize(LanguageModelSize):
    vocabulary: int  # pieces of sentencepiece


# fmt: off
SIZES = {
    # 20 minutes per training on one core. With few streams, each in the one book that it begins with, a memory learns
    # to recognise these books, and in any other it is worse than no memory: 64 streams are four per book of the novels
    # that this was tried with, and one of the evaluation is about as long as one of the training.
    "small": BooksSize(
        width=256, heads=8, ffn=1024, segment=32, recent=64, basis=128, batch=64, streams=24, save_interval=200,
        vocabulary=8000, model="--arch infinite_former_lm --decoder-layers 4 --dropout 0",
        training=f"{ADAM} --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 800"),
    # For GPUs. The paper starts from GPT-2 small, here all is learned: its size, lengths and memory with a vocabulary
    # of PG-19's own.
    "paper": BooksSize(
        width=768, heads=12, ffn=3072, segment=512, recent=0, basis=512, batch=32, streams=2, save_interval=2000,
        vocabulary=32000,
        model="--arch infinite_former_lm --decoder-layers 12 --ltm-widths 0.005,0.01 --ltm-ridge 0.5 --ltm-tau 0.5",
        training=f"{ADAM} --lr 2.5e-4 --warmup-updates 2000 --max-update 100000"),
}
# fmt: on


class Books(LanguageModels):
    name, sizes, default_size, corpus = "books", SIZES, "small", "novels"
    raw_help = "a folder with folders train, valid (or validation) and, if wanted, test: one text file per book"

    def binarise(self) -> list[Command]:
        vocabulary = ["--vocab-size", str(self.size.vocabulary)]
        return self.prepare(self.options.raw, "--level", "sentencepiece", *vocabulary, "--documents", "file")


EXPERIMENT = Books
