"""Train language models with several memories on WikiText-103, word level (Martins et al. 2022, section 4.2)."""

from recipes.commands import Command
from recipes.language_models.experiment import ADAM, LanguageModels, LanguageModelSize
from recipes.launches import ROOT

# fmt: off
SIZES = {
    # Shows on two cores that all works, with the same text or any other in its form. Narrower bands than WikiText-2's:
    # rare words are most of the dictionary.
    "small": LanguageModelSize(
        width=288, heads=8, ffn=1152, segment=32, recent=32, basis=64, batch=64, streams=16, save_interval=200,
        model="--arch infinite_former_lm --decoder-layers 4 --dropout 0 --adaptive-input "
        "--adaptive-softmax-cutoff 2000,10000 --adaptive-input-factor 4 --adaptive-softmax-factor 4",
        training=f"{ADAM} --lr 2e-3 --adam-betas (0.9,0.98) --warmup-updates 100 --max-update 1000"),
    # From scratch at the paper's size, for GPUs. Optimiser, batch and lengths are those of the Transformer-XL that the
    # paper compares with; N = M = 150 and τ = 0.5 are the paper's.
    "paper": LanguageModelSize(
        width=410, heads=10, ffn=2100, segment=150, recent=150, basis=150, batch=60, streams=16, save_interval=2000,
        model="--arch infinite_former_lm_wt103",
        training=f"{ADAM} --lr 2.5e-4 --warmup-updates 0 --max-update 200000"),
}
# fmt: on


class WikiText103(LanguageModels):
    name, sizes, default_size, corpus = "wikitext103", SIZES, "paper", "WikiText-103"
    raw_help = "the folder of the published WikiText-103 (wiki.{train,valid,test}.tokens) (default: it is downloaded)"

    def check(self) -> None:
        """Without a text, it is downloaded."""

    def binarise(self) -> list[Command]:
        made, raw = [], self.options.raw
        if not raw and not self.is_binarised:
            raw = self.dir / "wikitext-103"
            made.append(Command([str(ROOT / "recipes/wikitext103/download.sh"), str(self.dir)]))
        made += self.prepare(raw, "--level", "word", "--documents", "wikitext")
        if self.options.size == "paper":
            made.append(self.python("recipes.wikitext103.check_counts", self.scored))
        return made


EXPERIMENT = WikiText103
