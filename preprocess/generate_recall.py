"""A needle test: facts told at the start of a document and asked for again after thousands of words of real text.

A document tells pairs, "<fact> key value" each, and goes on with a stretch of the text under --text, lower-cased and
with its punctuation apart. In between it asks "<ask> key <answer> value </answer>", once for each pair. Keys and values
are words of their own that are paired anew in each document, so that nothing but memory tells which value goes with
which key. In training the distances of the questions are spread evenly on a logarithmic scale; validation and test ask
at the distances of --distances in turn. The result is text for prepare.sh, one document a line.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fairseq_infformer.errors import InputError, print_in_one_line
from fairseq_infformer.tasks.streaming_language_modeling import ANSWER, END_OF_ANSWER

FACT, ASK = "<fact>", "<ask>"
SPLITS = ("train", "valid", "test")


def words_of(folder: Path) -> list[str]:
    """The words and punctuation marks of all files in ``folder``, in lower case."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise InputError(f"{folder} holds no files; put text there")
    text = "\n".join(file.read_text(encoding="utf-8") for file in files).lower()
    return re.findall(r"\w+|[^\w\s]", text)


def document(rng: np.random.Generator, filler: list[str], distances: Sequence[int], values: int) -> str:
    """One document that asks for its pairs ``distances`` words after they were told.

    Where questions would meet, the later ones move on: a distance is that at least.
    """
    facts = len(distances)
    keys, told = rng.permutation(facts), rng.integers(values, size=facts)
    words = [word for key, value in zip(keys, told) for word in (FACT, f"key{key}", f"value{value}")]
    # What is asked soonest was told last, so that questions meet as little as can be.
    order = np.argsort(distances, kind="stable")
    at = int(rng.integers(len(filler)))
    for place, question in enumerate(order):
        fact = facts - 1 - place
        until = 3 * fact + 2 + distances[question] - 3  # the value is three words after <ask>
        missing = max(0, until - len(words))
        words += [filler[(at + step) % len(filler)] for step in range(missing)]
        at += missing
        words += [ASK, f"key{keys[fact]}", ANSWER, f"value{told[fact]}", END_OF_ANSWER]
    return " ".join(words)


def whole_numbers(text: str) -> list[int]:
    """Numbers with commas between, for argparse."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        help="folder with a folder of text files for each of train and valid; test, if it is there",
    )
    parser.add_argument("--dest", type=Path, required=True, help="folder for train.txt, valid.txt and test.txt")
    parser.add_argument("--facts", type=int, default=16, help="pairs a document tells, and asks for once")
    parser.add_argument("--values", type=int, default=16, help="different values; one in so many is guessed")
    parser.add_argument("--documents", type=int, default=2000, help="for training")
    parser.add_argument("--reach", type=int, default=8000, help="longest distance in training, in words")
    parser.add_argument(
        "--distances", type=whole_numbers, default="1000,2000,4000,8000,16000", help="in validation and test"
    )
    parser.add_argument("--evaluation-documents", type=int, default=32, help="for validation, and as many for test")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    args.dest.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        folder = args.text / split
        filler = words_of(folder if folder.is_dir() else args.text / "valid")
        count = args.documents if split == "train" else args.evaluation_documents
        partial = args.dest / f"{split}.txt.partial"
        with partial.open("w", encoding="utf-8") as out:
            for _ in tqdm(range(count), desc=split, disable=None):
                if split == "train":
                    distances = (
                        np.exp(rng.uniform(np.log(100), np.log(args.reach), size=args.facts)).astype(int).tolist()
                    )
                else:
                    distances = [args.distances[number % len(args.distances)] for number in range(args.facts)]
                out.write(document(rng, filler, distances, args.values) + "\n\n")
        partial.rename(args.dest / f"{split}.txt")


if __name__ == "__main__":
    print_in_one_line()
    main()
