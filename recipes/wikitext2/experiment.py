"""Train language models with several memories on WikiText-2, word level, on a CPU or one GPU."""

from recipes.commands import Command
from recipes.language_models.experiment import ADAM, LanguageModels, LanguageModelSize

# fmt: off
SIZES = {
    # One pass over the text, 20 to 30 minutes per training on one core.
    "small": LanguageModelSize(
        width=288, heads=8, ffn=1152, segment=32, recent=32, basis=64, batch=64, streams=16, save_interval=200,
        model="--arch infinite_former_lm --decoder-layers 4 --dropout 0",
        training=f"{ADAM} --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 1020"),
}
# fmt: on


class WikiText2(LanguageModels):
    name, sizes, default_size, corpus = "wikitext2", SIZES, "small", "WikiText-2"
    raw_help = "the folder of the published WikiText-2 (wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens)"

    def binarise(self) -> list[Command]:
        return self.prepare(self.options.raw, "--level", "word", "--documents", "wikitext")


EXPERIMENT = WikiText2
