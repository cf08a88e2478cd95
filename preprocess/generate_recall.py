"""Generate a recall test: facts at the start of a document, and questions about them thousands of words later.

A document states facts, each of them "<fact> key value", and continues with a stretch of the text in --text,
lower-cased and with punctuation separated; without --text, with random words. In between it asks
"<ask> key <answer> value </answer>", once per fact, in random order. Keys and values are paired anew in each document,
and spelt so that no text contains them: only memory can say which value belongs to a key.

In training, the distances from a stated value to the value asked for are spread evenly on a logarithmic scale. A
document for validation or test asks for all of its facts at one of --distances. Documents of all distances follow each
other in turn, so that --evaluation-documents streams, or a divisor of that number, have equal lengths and cut no
document in two. The result is text for prepare.sh, one document per line with a blank line after it, and recall.json,
which records what it was made from.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

import numpy as np
from tqdm import tqdm

from fairseq_infformer.data.answers import ANSWER, END_OF_ANSWER
from fairseq_infformer.data.corpus import read_lines
from fairseq_infformer.errors import InputError, install_one_line_messages, option
from fairseq_infformer.files import make_once, sha256
from preprocess.generate_documents import documents

FACT, ASK = "<fact>", "<ask>"
SPLITS = ("train", "valid", "test")
NOTES = "recall.json"
# Without --text: the number of different words, and how evenly a document uses them.
TYPES, CONCENTRATION = 64, 1.0

# Returns as many words as requested, to fill a document between its facts and questions.
Filler = Callable[[np.random.Generator, int], list[str]]


def files_of_text(text: Path) -> dict[str, list[Path]]:
    """The files of each split under ``text``; a missing test split gets those of valid."""
    splits = {}
    for split in SPLITS:
        folder = text / split
        if split == "test" and not folder.is_dir():
            folder = text / "valid"
        files = sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise InputError(f"--text {text} has no files in {folder}; give a folder with folders train and valid")
        splits[split] = files
    return splits


def text_filler(files: Sequence[Path]) -> Filler:
    """Stretches of the joined files from random positions on; after the end, they continue at the start."""
    lines = (line.lower() for file in files for line in read_lines(file))
    words = [word for line in lines for word in re.findall(r"\w+|[^\w\s]", line)]
    if not words:
        raise InputError(f"the files in {files[0].parent} have no words; put text there")

    def filler(rng: np.random.Generator, count: int) -> list[str]:
        start = int(rng.integers(len(words)))
        return [words[(start + step) % len(words)] for step in range(count)]

    return filler


def random_filler(rng: np.random.Generator, count: int) -> list[str]:
    """Random words like those of generate_documents.py."""
    return documents(rng, 1, count, TYPES, CONCENTRATION)[0].split()


def document(
    rng: np.random.Generator, filler: Filler, distances: Sequence[int], values: int, length: Optional[int] = None
) -> str:
    """One document that states one fact per distance, and asks for each at its distance.

    Where questions would overlap each other or the facts, the later ones move back: a distance is a minimum. If
    ``length`` is given, the filler continues up to that many words.
    """
    facts = len(distances)
    keys, stated = rng.permutation(facts), rng.integers(values, size=facts)
    words = [word for key, value in zip(keys, stated) for word in (FACT, f"<key{key}>", f"<value{value}>")]
    asked_at = 3 * np.arange(facts) + 2 + np.array(distances)
    between, used = filler(rng, max(int(asked_at.max()), length or 0)), 0
    for fact in np.argsort(asked_at, kind="stable"):
        missing = max(0, asked_at[fact] - 3 - len(words))  # the value is three words after <ask>
        words += between[used : used + missing]
        used += missing
        words += [ASK, f"<key{keys[fact]}>", ANSWER, f"<value{stated[fact]}>", END_OF_ANSWER]
    if length is not None:
        words += between[used : used + length - len(words)]
    return " ".join(words)


def training_distances(rng: np.random.Generator, args: argparse.Namespace) -> list[int]:
    """A distance for each fact of a document, log-uniform from --nearest to --reach."""
    return np.exp(rng.uniform(np.log(args.nearest), np.log(args.reach + 1), size=args.facts)).astype(int).tolist()


def write_split(folder: Path, split: str, rng: np.random.Generator, filler: Filler, args: argparse.Namespace) -> None:
    """Write the documents of a split."""
    with (folder / f"{split}.txt").open("w", encoding="utf-8") as out:
        if split == "train":
            for _ in tqdm(range(args.documents), desc=split, disable=None):
                out.write(document(rng, filler, training_distances(rng, args), args.values) + "\n\n")
            return
        for distance in tqdm(args.distances * args.evaluation_documents, desc=split, disable=None):
            length = distance + 8 * args.facts  # each fact takes 3 words to state and 5 to ask for
            out.write(document(rng, filler, [distance] * args.facts, args.values, length) + "\n\n")


def whole_numbers(text: str) -> list[int]:
    """Numbers separated by commas, for argparse."""
    return [int(number) for number in text.split(",")]


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text",
        type=Path,
        metavar="DIR",
        help="folder with folders train and valid, and optionally test, of text files to fill documents with (default: "
        "random words)",
    )
    parser.add_argument("--dest", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--facts", type=int, default=8, help="facts per document, each asked once (default: %(default)s)"
    )
    parser.add_argument(
        "--values",
        type=int,
        default=8,
        help="different values, one of which is correct: a random guess is correct once in so many times "
        "(default: %(default)s)",
    )
    parser.add_argument("--documents", type=int, default=2000, help="training documents (default: %(default)s)")
    parser.add_argument(
        "--nearest", type=int, default=8, help="shortest distance in training, in words (default: %(default)s)"
    )
    parser.add_argument(
        "--reach", type=int, default=4000, help="longest distance in training, in words (default: %(default)s)"
    )
    parser.add_argument(
        "--distances",
        type=whole_numbers,
        default=[1000, 2000, 4000, 8000, 16000],
        metavar="N,N",
        help="distances in validation and test, in words (default: 1000,2000,4000,8000,16000)",
    )
    parser.add_argument(
        "--evaluation-documents",
        type=int,
        default=40,
        metavar="N",
        help="documents per distance, in validation and in test (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    return parser


def parse() -> argparse.Namespace:
    """Read the command line; InputError names a wrong value."""
    args = build_parser().parse_args()
    for name in ("facts", "values", "documents", "nearest", "evaluation_documents"):
        if getattr(args, name) < 1:
            raise InputError(f"{option(name)} must be 1 or more, got {getattr(args, name)}")
    if args.reach < args.nearest:
        raise InputError(f"--reach {args.reach} is less than --nearest {args.nearest}; give a longer one")
    if min(args.distances) < 1 or sorted(set(args.distances)) != args.distances:
        raise InputError(f"--distances must be positive and increase, got {','.join(map(str, args.distances))}")
    return args


def main() -> None:
    args = parse()
    texts = args.text and files_of_text(args.text)
    made_from = {name: value for name, value in vars(args).items() if name not in ("text", "dest")}
    made_from["text"] = texts and {split: [sha256(file) for file in files] for split, files in texts.items()}

    def write_all(folder: Path) -> None:
        rng = np.random.default_rng(args.seed)
        for split in SPLITS:
            write_split(folder, split, rng, text_filler(texts[split]) if texts else random_filler, args)
        (folder / NOTES).write_text(json.dumps({"made_from": made_from}, indent=2, allow_nan=False) + "\n")

    make_once(args.dest.resolve(), made_from, NOTES, write_all)


if __name__ == "__main__":
    install_one_line_messages()
    main()
