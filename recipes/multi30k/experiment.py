"""Search for a Transformer that translates, and compare what is found with a Transformer and with random nets.

English to German on the captions of Multi30k, or other pairs of sentences in the same form.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.experiment import BIN, CHECKPOINT, Experiment, Size, is_made
from recipes.launches import LAUNCHES, ROOT, die
from recipes.multi30k.rows import FOUND, RANDOM, ROWS, SEARCH, TRANSFORMER


@dataclass(frozen=True, kw_only=True)
class TranslationSize(Size):
    """The found net and the random ones have the width at which the search was made."""

    pieces: int  # of the vocabulary, at most
    search: str  # how it is searched
    net: str  # sizes that the search and its nets have
    transformer: str  # of about as many parameters as a found net
    training: str  # of all nets
    beam: int
    memories: tuple[str, ...] = (TRANSFORMER, FOUND, RANDOM)


ADAM = "--adam-betas (0.9,0.98) --lr-scheduler inverse_sqrt"


def transformer(layers: int, width: int, hidden: int, heads: int) -> str:
    """A Transformer of as many layers on both sides."""
    sides = (
        f"--{side}-layers {layers} --{side}-embed-dim {width} --{side}-ffn-embed-dim {hidden} "
        f"--{side}-attention-heads {heads}"
        for side in ("encoder", "decoder")
    )
    return f"--arch transformer --share-all-embeddings {' '.join(sides)}"


# fmt: off
SIZES = {
    # Shows in minutes that all works, and learns little.
    "tiny": TranslationSize(
        pieces=1000, batch=500, beam=2,
        net="--embed-dim 48 --factor-dim 32 --encoder-layers 2 --decoder-layers 2 --attention-heads 4",
        search="--max-update 8 --lr 1e-3 --warmup-updates 4 --architecture-lr 3e-3 --log-interval 2",
        transformer=transformer(2, 32, 64, 4), 
        training="--max-update 16 --lr 2e-3 --warmup-updates 8 --log-interval 4"),
    # On one core 15 minutes per search, and as long for each other training.
    "small": TranslationSize(
        pieces=4000, batch=1500, beam=5, seeds=(1, 2, 3),
        net="--embed-dim 192 --factor-dim 96 --encoder-layers 2 --decoder-layers 2 --attention-heads 4",
        search="--max-update 600 --lr 3e-3 --warmup-updates 100 --architecture-lr 3e-3",
        transformer=transformer(2, 96, 288, 4), training="--max-update 3500 --lr 4e-3 --warmup-updates 300"),
    # The paper's base, for GPUs.
    "paper": TranslationSize(
        pieces=32000, batch=40000, beam=5,
        net="--embed-dim 960 --factor-dim 256 --encoder-layers 12 --decoder-layers 12 --attention-heads 8",
        search="--max-update 60000 --lr 5e-4 --warmup-updates 10000 --architecture-lr 3e-4",
        transformer=transformer(6, 512, 2048, 8), training="--max-update 100000 --lr 5e-4 --warmup-updates 10000"),
}
# fmt: on


class Multi30k(Experiment):
    name, sizes, default_size, rows, differ, known = "multi30k", SIZES, "small", "tokens", "model", ROWS
    stages: ClassVar = {
        "prepare": "cut the sentences into the pieces of one vocabulary, and binarise them",
        "search": "search for an architecture with every seed",
        "derive": "write what was found, and draw a random architecture of as many parameters",
        "train": "train every model with every seed",
        "translate": "translate the splits",
        "score": "score the translations",
        "summarize": "BLEU: a table, results.json and a plot of the searches",
    }
    side_by_side = ("search", "train", "translate")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--raw",
            type=Path,
            metavar="DIR",
            help="folder of the sentences: train, val and test_2016_flickr, each .en and .de",
        )
        parser.add_argument(
            "--splits", default="valid,test", help="to be translated: valid, test or valid,test (default: valid,test)"
        )

    def check(self) -> None:
        if self.options.splits not in ("valid", "test", "valid,test"):
            die(f"--splits must be valid, test or valid,test, got {self.options.splits}")
        if self.options.stage <= 1 <= self.options.stop_stage and not (self.options.raw or self.is_prepared):
            die("give --raw, the folder of the sentences; recipes/multi30k/README.md says where to get them")

    @property
    def shown(self) -> str:
        return f"--raw DIR --splits {self.options.splits}"

    @property
    def splits(self) -> list[str]:
        return self.options.splits.split(",")

    @property
    def text(self) -> Path:
        """The folder of the sentences in pieces."""
        return self.dir / "text"

    @property
    def data(self) -> str:
        return str(self.dir / "data")

    @property
    def is_prepared(self) -> bool:
        return Path(self.data).exists()

    @property
    def searched(self) -> list[int]:
        """The seeds with which it is searched: all, if a model comes of a search."""
        return self.seeds if {FOUND, RANDOM} & set(self.memories) else []

    def architecture(self, model: str, seed: int) -> Path:
        """The file of an architecture."""
        return self.dir / f"{model}-seed{seed}.json"

    # ---- Stages

    def prepare(self) -> list[Command]:
        commands = []
        if self.options.raw:
            folders = ["--raw", self.options.raw, "--dest", self.text]
            commands.append(self.python("recipes.multi30k.text", *folders, "--vocab-size", self.size.pieces))
        if not self.is_prepared:
            partial = f"{self.data}.partial"
            words = [str(BIN / "fairseq-preprocess"), "--source-lang", "en", "--target-lang", "de"]
            words += [f"--{split}pref={self.text / split}" for split in ("train", "valid", "test")]
            commands.append(Command([*words, "--joined-dictionary", "--destdir", partial]))
            commands.append(Command(["mv", partial, self.data]))
        return commands

    def search(self) -> list[Command]:
        return self.trainings((SEARCH, seed) for seed in self.searched)

    def derive(self) -> list[Command]:
        """What each search has found and a random architecture, unless they were made of its last checkpoint."""
        commands = []
        for seed in self.searched:
            checkpoint = self.trained(SEARCH, seed) / CHECKPOINT
            found, drawn = (self.architecture(model, seed) for model in (FOUND, RANDOM))
            if not is_made(found, checkpoint):
                # infformer-architecture by its module, as older installations lack the command
                shown = self.python("fairseq_infformer.cli.architecture", checkpoint, "--output", found)
                commands.append(shown._replace(note=f"what the search with seed {seed} has found: {found}"))
            if not is_made(drawn, checkpoint):
                draw = ("recipes.multi30k.random_nets", checkpoint, "--seed", seed, "--output", drawn)
                commands.append(self.python(*draw))
        return commands

    def train(self) -> list[Command]:
        """Ends the program also if a net was trained before its architecture was made."""
        for memory, seed in self.runs():
            launched, file = self.save(memory, seed) / LAUNCHES, self.architecture(memory, seed)
            if launched.exists() and not is_made(launched, file):
                die(f"{launched.parent} is a net from before {file} was made; delete it, or give another --dir")
        return super().train()

    def task(self, memory: str) -> str:
        return "translation_search" if memory == SEARCH else "translation"

    def training(self, memory: str, seed: int) -> list[str]:
        size = self.size
        if memory == TRANSFORMER:
            model = size.transformer
        elif memory == SEARCH:
            model = f"--arch dartsformer_search {size.net} --share-all-embeddings"
        else:
            file = shlex.quote(str(self.architecture(memory, seed)))
            model = f"--arch dartsformer {size.net} --share-all-embeddings --architecture {file}"
        steps = f"--optimizer search_adam {size.search}" if memory == SEARCH else f"--optimizer adam {size.training}"
        return shlex.split(
            f"--source-lang en --target-lang de {model} --dropout 0.1 --max-tokens {size.batch // self.nproc} "
            f"--criterion label_smoothed_cross_entropy --label-smoothing 0.1 {ADAM} {steps} --clip-norm 1 "
            f"--seed {seed} --disable-validation --save-interval-updates 200 --keep-interval-updates 1 --num-workers 0"
        )

    def translate(self) -> list[Command]:
        """fairseq-generate for each run and split, unless that was made of the last checkpoint."""
        commands = []
        for memory, seed in self.runs():
            save = self.trained(memory, seed)
            for split in self.splits:
                file = save / f"{split}.txt"
                if is_made(file, save / CHECKPOINT):
                    continue
                words = [str(BIN / "fairseq-generate"), self.data, "--user-dir", str(ROOT / "fairseq_infformer")]
                words += shlex.split(
                    f"--source-lang en --target-lang de --gen-subset {split} --beam {self.size.beam} --max-len-a 1.5 "
                    "--max-len-b 10 --max-tokens 2000 --remove-bpe sentencepiece --scoring sacrebleu --num-workers 0"
                )
                words += ["--path", str(save / CHECKPOINT)]
                commands.append(Command(words, f"translating {save}: {split}", output=file))
        return commands

    def score(self) -> list[Command]:
        """sacrebleu for the translations of each split that were not scored."""
        commands = []
        for split in self.splits:
            files = [self.save(memory, seed) / f"{split}.txt" for memory, seed in self.runs()]
            if new := [file for file in files if not is_made(file.with_suffix(".json"), file)]:
                reference = self.text / f"{split}.raw.de"
                commands.append(self.python("recipes.multi30k.bleu", *new, "--reference", reference))
        return commands

    def summarize(self) -> list[Command]:
        options = ["--split", self.splits[-1], "--beam", self.size.beam, "--command", self.command]
        return [
            self.python("recipes.multi30k.summary", self.dir, *options),
            self.python("recipes.plot", self.dir / "results.json"),
        ]


EXPERIMENT = Multi30k
