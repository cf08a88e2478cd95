"""Generate speech translation of digits: recordings of single English digits joined to utterances, in German words.

Digits are read in pairs, 10a + b as one number: "four seven" is siebenundvierzig, units first, so that a translator
has to wait. The first of a pair is 1 to 9; an odd last digit stands alone. Speech is real, sentences are made. No
speaker is in two splits. The result has train.tsv, valid.tsv and test.tsv in fairseq's form and wav files, which
prepare_speech.sh reads.

--raw is a folder with the recordings of the Free Spoken Digit Dataset: wav files named DIGIT_SPEAKER_NUMBER.wav.
"""

import argparse
import csv
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fairseq_infformer.errors import InputError, install_one_line_messages, option
from fairseq_infformer.files import make_once, sha256
from fairseq_infformer.speech.wav import read_wav

RATE = 8000
ENGLISH = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
UNITS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
TEENS = ["zehn", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"]
TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
NOTES, SPLITS = "notes.json", ("train", "valid", "test")
FIELDS = ("id", "audio", "speaker", "src_text", "tgt_text")
# In milliseconds, from and to: between two digits, and after an utterance.
PAUSE, SILENCE = (50, 200), (400, 800)
# Deviation of the noise that is everywhere, in steps of 16 bits. Without it the logarithm of a pause's energy is so far
# below all others that little of the normalised features is left to tell sounds apart.
NOISE = 5.0

# A speaker's recordings of each digit.
Recordings = dict[int, list[np.ndarray]]


def german(number: int) -> str:
    """A number of 0 to 99 in German."""
    tens, unit = divmod(number, 10)
    if tens == 0:
        return UNITS[unit]
    if tens == 1:
        return TEENS[unit]
    if unit == 0:
        return TENS[tens - 2]
    return f"{'ein' if unit == 1 else UNITS[unit]}und{TENS[tens - 2]}"


def translation(digits: list[int]) -> str:
    """The German words of digits that are read in pairs."""
    pairs = [digits[start : start + 2] for start in range(0, len(digits), 2)]
    return " ".join(german(10 * pair[0] + pair[1] if len(pair) == 2 else pair[0]) for pair in pairs)


def draw_digits(rng: np.random.Generator, shortest: int, longest: int) -> list[int]:
    """Digits of an utterance: the first of each pair is no zero."""
    count = int(rng.integers(shortest, longest + 1))
    paired = count - count % 2
    return [int(rng.integers(1 if place % 2 == 0 and place < paired else 0, 10)) for place in range(count)]


def utterance(rng: np.random.Generator, digits: list[int], recordings: Recordings) -> np.ndarray:
    """Samples (S,) int16 of a speaker who says the digits in a quiet room, with pauses."""
    parts = []
    for place, digit in enumerate(digits):
        last = place == len(digits) - 1
        silence = int(rng.integers(*(SILENCE if last else PAUSE))) * RATE // 1000
        takes = recordings[digit]
        parts += [takes[int(rng.integers(len(takes)))], np.zeros(silence, dtype=np.int16)]
    samples = np.concatenate(parts)
    noisy = samples + rng.normal(0, NOISE, len(samples))
    return noisy.round().clip(-32768, 32767).astype(np.int16)


def read_recordings(raw: Path) -> dict[str, dict[int, list[Path]]]:
    """The files of each speaker and digit; InputError if there are none, or a speaker lacks a digit."""
    found: dict[str, dict[int, list[Path]]] = {}
    for file in sorted(raw.glob("[0-9]_*_*.wav")):
        digit, speaker, _ = file.stem.split("_", 2)
        found.setdefault(speaker, {}).setdefault(int(digit), []).append(file)
    if not found:
        raise InputError(f"--raw {raw} has no files DIGIT_SPEAKER_NUMBER.wav; give the dataset's folder recordings")
    for speaker, digits in found.items():
        if missing := sorted(set(range(10)) - set(digits)):
            raise InputError(f"--raw {raw} has no {missing[0]} of speaker {speaker}; add it, or take the speaker out")
    return found


def write_split(folder: Path, split: str, speakers: list[Recordings], names: list[str], args: Any, seed: int) -> None:
    """Write the utterances of a split, and their table."""
    rng = np.random.default_rng([args.seed, seed])
    (folder / split).mkdir()
    with (folder / f"{split}.tsv").open("w", encoding="utf-8") as out:
        table = csv.DictWriter(out, FIELDS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        table.writeheader()
        count = args.utterances if split == "train" else args.evaluation_utterances
        for number in tqdm(range(count), desc=split, disable=None):
            who = number * len(names) // count  # a speaker's utterances follow each other, so that they can be joined
            digits = draw_digits(rng, *args.digits)
            name = f"{split}/{number:06}.wav"
            with wave.open(str(folder / name), "wb") as audio:
                audio.setparams((1, 2, RATE, 0, "NONE", None))
                audio.writeframes(utterance(rng, digits, speakers[who]).tobytes())
            english = " ".join(ENGLISH[digit] for digit in digits)
            table.writerow(dict(zip(FIELDS, (f"{split}-{number}", name, names[who], english, translation(digits)))))


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help="folder of the recordings")
    parser.add_argument("--dest", type=Path, required=True, help="folder to write")
    parser.add_argument("--valid-speaker", default="lucas", help="who speaks in validation (default: %(default)s)")
    parser.add_argument("--test-speaker", default="theo", help="who speaks in the test (default: %(default)s)")
    parser.add_argument("--utterances", type=int, default=8000, help="of training (default: %(default)s)")
    parser.add_argument(
        "--evaluation-utterances",
        type=int,
        default=200,
        metavar="N",
        help="of validation, and of the test (default: %(default)s)",
    )
    parser.add_argument(
        "--digits",
        type=int,
        nargs=2,
        default=[2, 10],
        metavar=("LEAST", "MOST"),
        help="digits per utterance (default: 2 10)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    return parser


def parse() -> argparse.Namespace:
    """Read the command line; InputError names a wrong value."""
    args = build_parser().parse_args()
    for name in ("utterances", "evaluation_utterances"):
        if getattr(args, name) < 1:
            raise InputError(f"{option(name)} must be 1 or more, got {getattr(args, name)}")
    if not 1 <= args.digits[0] <= args.digits[1]:
        raise InputError(f"--digits must be positive and increase, got {args.digits[0]} {args.digits[1]}")
    return args


def main() -> None:
    args = parse()
    files = read_recordings(args.raw)
    for name in ("valid_speaker", "test_speaker"):
        if getattr(args, name) not in files:
            raise InputError(f"{option(name)} must be one of {', '.join(files)}, got {getattr(args, name)!r}")
    others = [speaker for speaker in files if speaker not in (args.valid_speaker, args.test_speaker)]
    if args.valid_speaker == args.test_speaker or not others:
        raise InputError(f"--raw {args.raw} needs three speakers, one for each split at least; got {', '.join(files)}")
    of_split = dict(zip(SPLITS, (others, [args.valid_speaker], [args.test_speaker])))
    made_from = {name: value for name, value in vars(args).items() if name not in ("raw", "dest")}
    made_from["files"] = [sha256(file) for digits in files.values() for takes in digits.values() for file in takes]

    def recordings(speaker: str) -> Recordings:
        return {
            digit: [(read_wav(file, RATE) * 32768).short().numpy() for file in takes]
            for digit, takes in files[speaker].items()
        }

    def write_all(folder: Path) -> None:
        for number, (split, names) in enumerate(of_split.items()):
            write_split(folder, split, [recordings(name) for name in names], names, args, number)
        notes = {"made_from": made_from, "speakers": of_split}
        (folder / NOTES).write_text(json.dumps(notes, indent=2, allow_nan=False) + "\n")

    make_once(args.dest.resolve(), made_from, NOTES, write_all)


if __name__ == "__main__":
    install_one_line_messages()
    main()
