"""A needle test: facts told at the start of a document and asked for again after thousands of other words.

A document tells pairs, "<fact> key value" each, and goes on with a stretch of the text under --text, lower-cased and
with its punctuation apart; without --text, with words of a vocabulary of its own. In between it asks
"<ask> key <answer> value </answer>", once for each pair, in any order. Keys and values are paired anew in each
document, and written so that no text can hold them: nothing but memory tells which value goes with which key.

In training the distances of the questions, from the value told to the value asked for, are spread evenly on a
logarithmic scale. A document of validation or test asks for all its pairs at one of --distances; documents of all
distances follow each other, again and again, so that --evaluation-documents streams, or a divisor of them, are of equal
length and cut none in two. The result is text for prepare.sh, one document a line with a blank line after it, and
recall.json, which says what it was made from.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
from tqdm import tqdm

from fairseq_infformer.cli.stages import make_once
from fairseq_infformer.data.corpus import read_lines, sha256
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.tasks.streaming_language_modeling import ANSWER, END_OF_ANSWER
from preprocess.generate_documents import documents

FACT, ASK = "<fact>", "<ask>"
SPLITS = ("train", "valid", "test")
NOTES = "recall.json"
# Without --text: how many words there are, and how evenly a document uses them.
TYPES, CONCENTRATION = 64, 1.0

# Gives the words, as many as it is asked for, that go between facts and questions of a document.
Filler = Callable[[np.random.Generator, int], list[str]]


def files_of_text(text: Path) -> dict[str, list[Path]]:
    """The files of each split under ``text``; test has those of valid where it has none of its own."""
    found = {}
    for split in SPLITS:
        folder = text / split
        if split == "test" and not folder.is_dir():
            folder = text / "valid"
        files = sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise InputError(f"{folder} is no folder with files; --text takes a folder with folders train and valid")
        found[split] = files
    return found


def text_filler(files: Sequence[Path]) -> Filler:
    """Stretches of the joined files from random places on, round their end."""
    lines = (line.lower() for file in files for line in read_lines(file))
    words = [word for line in lines for word in re.findall(r"\w+|[^\w\s]", line)]
    if not words:
        raise InputError(f"{files[0].parent} holds no words; put text there")

    def filler(rng: np.random.Generator, count: int) -> list[str]:
        start = int(rng.integers(len(words)))
        return [words[(start + step) % len(words)] for step in range(count)]

    return filler


def drawn_filler(rng: np.random.Generator, count: int) -> list[str]:
    """Words like those of generate_documents.py."""
    return documents(rng, 1, count, TYPES, CONCENTRATION)[0].split()


def document(
    rng: np.random.Generator, filler: Filler, distances: Sequence[int], values: int, length: Optional[int] = None
) -> str:
    """One document that tells as many pairs as there are distances, and asks for each at its distance.

    Where questions would meet each other or the facts, the later ones move on: a distance is that at least. Filler goes
    on to ``length`` words, if that is given.
    """
    facts = len(distances)
    keys, told = rng.permutation(facts), rng.integers(values, size=facts)
    words = [word for key, value in zip(keys, told) for word in (FACT, f"<key{key}>", f"<value{value}>")]
    asked_at = 3 * np.arange(facts) + 2 + np.array(distances)
    between, used = filler(rng, max(int(asked_at.max()), length or 0)), 0
    for fact in np.argsort(asked_at, kind="stable"):
        missing = max(0, asked_at[fact] - 3 - len(words))  # the value stands three words after <ask>
        words += between[used : used + missing]
        used += missing
        words += [ASK, f"<key{keys[fact]}>", ANSWER, f"<value{told[fact]}>", END_OF_ANSWER]
    if length is not None:
        words += between[used : used + length - len(words)]
    return " ".join(words)


def training_distances(rng: np.random.Generator, args: argparse.Namespace) -> list[int]:
    """A distance for each pair of a document, log-uniform from --nearest to --reach."""
    return np.exp(rng.uniform(np.log(args.nearest), np.log(args.reach + 1), size=args.facts)).astype(int).tolist()


def write_split(made: Path, split: str, rng: np.random.Generator, filler: Filler, args: argparse.Namespace) -> None:
    """Write the documents of a split."""
    with (made / f"{split}.txt").open("w", encoding="utf-8") as out:
        if split == "train":
            for _ in tqdm(range(args.documents), desc=split, disable=None):
                out.write(document(rng, filler, training_distances(rng, args), args.values) + "\n\n")
            return
        for distance in tqdm(args.distances * args.evaluation_documents, desc=split, disable=None):
            length = distance + 8 * args.facts  # each pair takes 3 words to tell and 5 to ask for
            out.write(document(rng, filler, [distance] * args.facts, args.values, length) + "\n\n")


def whole_numbers(text: str) -> list[int]:
    """Numbers with commas between, for argparse."""
    return [int(number) for number in text.split(",")]


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text",
        type=Path,
        metavar="DIR",
        help="folder with a folder of text files for each of train and valid, and test if it has its own (default: "
        "words that are drawn)",
    )
    parser.add_argument("--dest", type=Path, required=True, help="folder to make")
    parser.add_argument("--facts", type=int, default=8, help="pairs a document tells and asks for (default: 8)")
    parser.add_argument(
        "--values", type=int, default=8, help="different values; one in so many is guessed (default: %(default)s)"
    )
    parser.add_argument("--documents", type=int, default=2000, help="for training (default: 2000)")
    parser.add_argument("--nearest", type=int, default=8, help="shortest distance in training, in words (default: 8)")
    parser.add_argument("--reach", type=int, default=4000, help="longest distance in training (default: 4000)")
    parser.add_argument(
        "--distances",
        type=whole_numbers,
        default=[1000, 2000, 4000, 8000, 16000],
        metavar="N,N",
        help="in validation and test (default: 1000,2000,4000,8000,16000)",
    )
    parser.add_argument("--evaluation-documents", type=int, default=40, help="of each distance and split (default: 40)")
    parser.add_argument("--seed", type=int, default=1, help="of all draws (default: 1)")
    return parser


def parse() -> argparse.Namespace:
    """Read the command line; InputError if a value cannot be."""
    args = build_parser().parse_args()
    for name in ("facts", "values", "documents", "nearest", "evaluation_documents"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be positive, got {getattr(args, name)}")
    if args.reach < args.nearest:
        raise InputError(f"--reach {args.reach} is less than --nearest {args.nearest}; give a longer one")
    if min(args.distances) < 1 or sorted(set(args.distances)) != args.distances:
        raise InputError(f"--distances must be positive and rise, got {','.join(map(str, args.distances))}")
    return args


def main() -> None:
    args = parse()
    texts = args.text and files_of_text(args.text)
    made_from = {name: value for name, value in vars(args).items() if name not in ("text", "dest")}
    made_from["text"] = texts and {split: [sha256(file) for file in files] for split, files in texts.items()}

    def write_all(made: Path) -> None:
        rng = np.random.default_rng(args.seed)
        for split in SPLITS:
            write_split(made, split, rng, text_filler(texts[split]) if texts else drawn_filler, args)
        (made / NOTES).write_text(json.dumps({"made_from": made_from}, indent=2, allow_nan=False) + "\n")

    make_once(args.dest.resolve(), made_from, NOTES, write_all)


if __name__ == "__main__":
    install_one_line_messages()
    main()
