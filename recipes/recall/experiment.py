"""A needle test: facts stated at the start of a document and asked for far behind, for several memories."""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.launches import ROOT, die
from recipes.memories import MEMORIES
from recipes.streaming import StreamingExperiment, StreamingSize


@dataclass(frozen=True, kw_only=True)
class RecallSize(StreamingSize):
    """Training begins with questions that ordinary attention can answer, and the distances grow from epoch to epoch.

    The last epoch has documents enough to last to the last update: to begin again with short distances would unlearn
    the long ones.
    """

    layers: int
    segment: int  # tokens of a segment
    recent: int  # tokens of the short-term memory
    reaches: dict[int, int]  # the longest distance of each epoch: its number of documents
    streams: int  # of an evaluation
    facts: str
    evaluation: str  # what the documents that are scored ask for
    dictionary: str = ""
    model: str
    training: str
    # Of one segment of each stream; a memory whose updates take several segments has as many fewer.
    updates: int
    warmup: int


# fmt: off
SIZES = {
    # Minutes on two cores.
    "tiny": RecallSize(
        layers=2, segment=16, recent=4, reaches={24: 32000, 48: 32000, 96: 24000}, batch=32, streams=60,
        facts="--facts 4 --values 4 --nearest 5",
        evaluation="--distances 16,32,64,128,256,512 --evaluation-documents 60",
        model="--arch infinite_former_lm_tiny --decoder-embed-dim 64 --decoder-ffn-embed-dim 128 "
        "--decoder-attention-heads 8 --position-encoding alibi "
        "--ltm-basis 32 --ltm-samples 64 --ltm-widths 0.02 --compressive-length 16 --hitters-length 16",
        training="--lr 1e-3 --clip-norm 1", updates=9600, warmup=800,
        memories=("none-bptt8", "gibbs-log-bptt8")),
    # Hours there.
    "small": RecallSize(
        layers=2, segment=16, recent=4, reaches={24: 40000, 128: 12000, 512: 4000, 2048: 5500}, batch=32, streams=96,
        facts="--facts 4 --values 4 --nearest 5",
        evaluation="--distances 64,256,1000,4000,16000,64000,256000 --evaluation-documents 96",
        dictionary="--vocab-size 2000",
        model="--arch infinite_former_lm_tiny --decoder-embed-dim 64 --decoder-ffn-embed-dim 128 "
        "--decoder-attention-heads 8 --position-encoding alibi "
        # A smaller ridge shrinks old text less: thousands of updates add up.
        "--ltm-basis 64 --ltm-samples 128 --ltm-widths 0.01 --ltm-ridge 0.01 --compressive-length 128 "
        "--hitters-length 128",
        training="--lr 1e-3 --clip-norm 1", updates=12800, warmup=800,
        memories=("none", "compressive", "continuous", "mixed", "gibbs-log", "none-bptt8", "gibbs-log-bptt8")),
    # For GPUs.
    "large": RecallSize(
        layers=6, segment=512, recent=128, reaches={128: 80000, 512: 40000, 2048: 20000, 8192: 40000},
        batch=32, streams=8,
        facts="--facts 16 --values 16 --nearest 5",
        evaluation="--distances 1000,4000,8000,16000,32000,64000,128000,256000 --evaluation-documents 48",
        dictionary="--vocab-size 30000",
        model="--arch infinite_former_lm --position-encoding alibi --ltm-basis 1024 --ltm-samples 2048 "
        "--ltm-widths 0.002,0.01",
        training="--lr 5e-4 --clip-norm 0.25", updates=25000, warmup=1000),
}
# fmt: on


class Recall(StreamingExperiment):
    name, sizes, default_size = "recall", SIZES, "small"
    stages: ClassVar = {
        "generate": "make the documents",
        "binarise": "binarise them",
        "train": "train every memory with every seed",
        "score": "score the splits",
        "summarize": "accuracy by distance: a table, results.json and plots",
    }

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--text",
            type=Path,
            metavar="DIR",
            help="a folder with folders train and valid of text files, to fill the documents (default: drawn words)",
        )
        parser.add_argument(
            "--splits", default="valid,test", help="to be scored; the table is of the last (default: valid,test)"
        )

    def check(self) -> None:
        if self.options.splits not in ("valid", "test", "valid,test"):
            die(f"--splits must be valid, test or valid,test, got {self.options.splits}")

    @property
    def shown(self) -> str:
        return f"{'--text DIR ' if self.options.text else ''}--splits {self.options.splits}"

    @property
    def last(self) -> int:
        """The longest reach, whose documents are scored."""
        return list(self.size.reaches)[-1]

    def at(self, reach: int) -> Path:
        return self.dir / f"data-{reach}"

    @property
    def scored(self) -> Path:
        return self.at(self.last)

    @property
    def data(self) -> str:
        return ":".join(str(self.at(reach)) for reach in self.size.reaches)

    def generate(self) -> list[Command]:
        made = []
        for reach, documents in self.size.reaches.items():
            text = ["--text", str(self.options.text)] if self.options.text else []
            size = ["--documents", documents, "--reach", reach, "--seed", reach]
            # The splits of the last reach are scored; the others have one since fairseq reads it.
            size += shlex.split(self.size.evaluation if reach == self.last else f"--distances {reach}")
            facts = shlex.split(self.size.facts)
            made.append(
                self.python("preprocess.generate_recall", "--dest", self.dir / f"raw-{reach}", *text, *facts, *size)
            )
        return made

    def binarise(self) -> list[Command]:
        made, dictionary = [], shlex.split(self.size.dictionary)
        for reach in sorted(self.size.reaches, reverse=True):  # the dictionary is that of the last, the longest
            folders = ["--raw", str(self.dir / f"raw-{reach}"), "--dest", str(self.at(reach))]
            level = ["--level", "word", "--documents", "blank-line"]
            made.append(Command([str(ROOT / "preprocess/prepare.sh"), *folders, *level, *dictionary]))
            dictionary = ["--dict", str(self.scored / "dict.txt")]
        return made

    def training(self, memory: str, seed: int) -> list[str]:
        size, segments = self.size, MEMORIES[memory].segments
        return shlex.split(
            f"--score answers --tokens-per-sample {size.segment} --stm-length {size.recent} "
            f"--document-boundaries reset --batch-size {size.batch // self.nproc} "
            f"{size.model} --decoder-layers {size.layers} {self.memory(memory)} "
            "--dropout 0 --criterion ltm_cross_entropy --optimizer adam --adam-betas '(0.9, 0.98)' "
            f"--lr-scheduler cosine {size.training} --warmup-updates {size.warmup // segments} "
            f"--max-update {size.updates // segments} --max-epoch {len(size.reaches)} --seed {seed} --num-workers 0 "
            "--disable-validation --save-interval-updates 200 --keep-interval-updates 1"
        )

    def scoring(self, memory: str, save: Path) -> Iterator[tuple[str, list[str]]]:
        for split in self.options.splits.split(","):
            batch = ["--batch-size", str(self.size.streams)]
            yield split, ["--split", split, *batch, "--predictions", str(save / f"{split}.npz")]

    def summarize(self) -> list[Command]:
        size = self.size
        # The words that attention sees: through each layer but the last a segment more.
        context = size.layers * size.segment + size.recent - 1
        split = self.options.splits.split(",")[-1]
        made_of = ["--raw", self.dir / f"raw-{self.last}", "--data", self.scored]
        options = ["--split", split, "--context", context, "--command", self.command]
        return [
            self.python("recipes.recall.summary", self.dir, *made_of, *options),
            self.python("recipes.plot", self.dir / "results.json"),
        ]


EXPERIMENT = Recall
