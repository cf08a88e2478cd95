"""Spoken English digits to German number words while they are spoken, with several encoders.

Each encoder learns speech recognition first, and then, with k drawn per batch, to translate by wait-k.
"""

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recipes.commands import Command
from recipes.digits_speech.rows import ROWS
from recipes.experiment import CHECKPOINT, Experiment, Size, is_made
from recipes.launches import ROOT, die

RECOGNITION = "recognition"  # begins the name of its runs
UNBROKEN = "unbroken"


@dataclass(frozen=True, kw_only=True)
class SpeechSize(Size):
    short: int  # utterances of 1 to 5 digits, for recognition
    utterances: int  # of 2 to 10 digits, for translation
    evaluation: int  # utterances of validation, and of the test
    model: str
    recognition: str  # how it is trained
    translation: str
    waits: tuple[str, ...] = ("1", "3", "5", "inf")
    streams: tuple[int, ...] = (5, 30, 120)  # seconds
    heard: tuple[int, ...] = (10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds after which an encoder is timed
    memories: tuple[str, ...] = tuple(ROWS)


# fmt: off
SIZES = {
    # Shows in minutes that all works, and learns nothing.
    "tiny": SpeechSize(
        short=40, utterances=40, evaluation=2, batch=2000, waits=("1", "inf"), streams=(5,), heard=(5, 10),
        model="--decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2 --encoder-layers 1 "
        "--decoder-layers 1",
        recognition="--max-update 8 --lr 3e-3 --warmup-updates 4 --log-interval 2",
        translation="--max-update 8 --lr 3e-3 --warmup-updates 4 --log-interval 2", memories=("bank", "full")),
    # 10 to 25 minutes per encoder on one core.
    "small": SpeechSize(
        short=8000, utterances=8000, evaluation=100, batch=6000,
        # The bank keeps as many segments as the longest utterance of training has: streams show it no more.
        model="--decoder-embed-dim 64 --decoder-ffn-embed-dim 256 --decoder-attention-heads 4 --encoder-layers 2 "
        "--decoder-layers 2 --bank-length 12",
        recognition="--max-update 2000 --lr 3e-3 --warmup-updates 100",
        translation="--max-update 5000 --lr 3e-3 --warmup-updates 100"),
}
# fmt: on


class DigitsSpeech(Experiment):
    name, sizes, default_size, rows, differ, known = "digits_speech", SIZES, "small", "frames", "encoder", ROWS
    stages: ClassVar = {
        "generate": "join recordings of digits to utterances",
        "prepare": "compute their features",
        "pretrain": "train every encoder with every seed to recognise what is said",
        "train": "train every encoder with every seed to translate, from where recognition has ended",
        "score": "translate streams while they would be heard, by several k",
        "measure": "measure how long each encoder works on a segment, by how long it has heard",
        "summarize": "quality and latency: tables, results.json and plots",
    }
    side_by_side = ("pretrain", "train", "score")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--raw", type=Path, metavar="DIR", help="folder of the recordings, recordings/ of the dataset"
        )
        parser.add_argument(
            "--split", default="test", help="to be scored: valid, to tune with, or test (default: test)"
        )

    def check(self) -> None:
        if self.options.split not in ("valid", "test"):
            die(f"--split must be valid or test, got {self.options.split}")
        if self.options.stage <= 1 <= self.options.stop_stage and not self.options.raw:
            die("give --raw, the folder of the recordings; recipes/digits_speech/README.md says where to get them")

    @property
    def shown(self) -> str:
        return f"--raw DIR --split {self.options.split}"

    @property
    def data(self) -> str:
        return str(self.dir / "data")

    @property
    def recognised(self) -> Path:
        """The folder of the data of recognition."""
        return self.dir / f"data-{RECOGNITION}"

    def recognition(self, encoder: str) -> str:
        """The name of an encoder's training in recognition."""
        return f"{RECOGNITION}-{encoder}"

    # ---- Stages

    def generate(self) -> list[Command]:
        commands = []
        # Few digits first: which of them a word is about is learned soon.
        for name, count, digits in (
            (f"raw-{RECOGNITION}", self.size.short, (1, 5)),
            ("raw", self.size.utterances, (2, 10)),
        ):
            size = ["--utterances", count, "--evaluation-utterances", self.size.evaluation, "--digits", *digits]
            folders = ["--raw", self.options.raw, "--dest", self.dir / name]
            commands.append(self.python("preprocess.generate_digit_speech", *folders, *size))
        return commands

    def prepare(self) -> list[Command]:
        commands = []
        for raw, data, text in ((f"raw-{RECOGNITION}", self.recognised, "src_text"), ("raw", self.data, "tgt_text")):
            words = [str(ROOT / "preprocess/prepare_speech.sh"), "--raw", str(self.dir / raw), "--dest", str(data)]
            words += ["--rate", "8000", "--bins", "40", "--text", text]
            commands.append(Command(words))
        return commands

    def pretrain(self) -> list[Command]:
        return self.trainings((self.recognition(encoder), seed) for encoder, seed in self.runs())

    def task(self, memory: str) -> str:
        return "streaming_speech_translation"

    def train_arguments(self, memory: str, seed: int) -> list[str]:
        data, *rest = super().train_arguments(memory, seed)
        return [str(self.recognised) if memory.startswith(RECOGNITION) else data, *rest]

    def training(self, memory: str, seed: int) -> list[str]:
        size = self.size
        encoder = memory.removeprefix(f"{RECOGNITION}-")
        if encoder != memory:
            steps = f"{size.recognition} --wait-k inf"
        else:
            start = shlex.quote(str(self.save(self.recognition(encoder), seed) / CHECKPOINT))
            # r is what a word, two digits with their pauses, takes on the average.
            steps = f"{size.translation} --wait-k {','.join(size.waits)} --pre-decision 22"
            steps += f" --load-pretrained-encoder-from {start}"
        return shlex.split(
            f"{ROWS[encoder].arguments} {size.model} --dropout 0.1 --max-tokens {size.batch // self.nproc} "
            "--criterion translation_cross_entropy --label-smoothing 0.1 --report-accuracy --optimizer adam "
            f"--adam-betas '(0.9, 0.98)' --clip-norm 1 --lr-scheduler cosine {steps} --seed {seed} --num-workers 0 "
            "--disable-validation --save-interval-updates 200 --keep-interval-updates 1"
        )

    def score(self) -> list[Command]:
        """infformer-simultaneous for each run, length of streams and k, unless that was made of the last checkpoint."""
        commands = []
        for encoder, seed in self.runs():
            save = self.trained(encoder, seed)
            for name, arguments in self.scoring(encoder):
                file = save / f"{self.options.split}-{name}.json"
                if is_made(file, save / CHECKPOINT):
                    continue
                words = ["--data", self.data, "--path", save / CHECKPOINT, "--split", self.options.split, "--json"]
                # infformer-simultaneous, which an installation from before this recipe lacks
                scoring = self.python("fairseq_infformer.cli.simultaneous", *words, *arguments)
                commands.append(scoring._replace(note=f"translating with {save}: {name}", output=file))
        return commands

    def scoring(self, encoder: str) -> Iterator[tuple[str, list[str]]]:
        """For each score of an encoder, its name and arguments of infformer-simultaneous."""
        for k in self.size.waits:
            for seconds in self.size.streams:
                yield f"k{k}-{seconds}s", ["--wait-k", k, "--join", str(seconds)]
        if not ROWS[encoder].whole:  # whose work would grow and grow
            k = self.size.waits[len(self.size.waits) // 2 - 1]
            yield f"k{k}-{UNBROKEN}", ["--wait-k", k, "--join", "inf", "--unbroken"]

    def measure(self) -> list[Command]:
        commands = []
        for encoder, seed in self.runs():
            save = self.trained(encoder, seed)
            if not is_made(save / "cost.json", save / CHECKPOINT):
                heard = ",".join(map(str, self.size.heard))
                words = self.python("recipes.digits_speech.cost", save / CHECKPOINT, self.data, "--heard", heard)
                commands.append(words._replace(note=f"measuring {save}", output=save / "cost.json"))
        return commands

    def summarize(self) -> list[Command]:
        options = ["--split", self.options.split, "--command", self.command]
        return [
            self.python("recipes.digits_speech.summary", self.dir, *options),
            self.python("recipes.plot", self.dir / "results.json"),
        ]


EXPERIMENT = DigitsSpeech
