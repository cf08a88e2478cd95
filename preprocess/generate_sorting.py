"""Generate sequences to sort: 20 symbols whose frequencies drift, then the symbols in decreasing order of their counts.

In a sequence of n symbols, number j is drawn from (1 - r) p₀ + r p₁ with r = j / n. For each sequence, p₀ and p₁ are 20
integers drawn from 1 … 9 and normalised (Martins et al. 2022, section 4.1). Then follow <answer>, the 20 symbols in
decreasing order of their counts (the lower number first if counts are equal) and </answer>. The start of a sequence
matters as much as its end. The result is a binarised data folder in which each sequence is a document.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from tqdm import tqdm

from fairseq_infformer.data.answers import ANSWER, END_OF_ANSWER
from fairseq_infformer.data.data_folder import STATS, refuse_colon
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import make_once, sha256
from fairseq_infformer.vocabulary_files import DICTIONARY

SYMBOLS = 20
SPLITS = {"train": 1.0, "valid": 0.1, "test": 0.1}


def sequences(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Symbols (count, length) in 0 … 19, uint16."""
    symbols = np.empty((count, length), dtype=np.uint16)
    second = np.arange(length) / length  # the probability of p₁ at each position
    for row in symbols:
        weights = rng.integers(1, 10, size=(2, SYMBOLS))
        edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        chosen = rng.random(length, dtype=np.float32) < second
        drawn = rng.random(length, dtype=np.float32)
        row[:] = np.where(chosen, *(edge.searchsorted(drawn, side="right") for edge in edges[::-1]))
    return symbols


def answers(symbols: np.ndarray) -> np.ndarray:
    """The symbols (count, 20) in decreasing order of their counts in ``symbols`` (count, length)."""
    count = len(symbols)
    cells = symbols + np.arange(count, dtype=np.int64)[:, None] * SYMBOLS  # of a table with a row per sequence
    counts = np.bincount(cells.ravel(), minlength=count * SYMBOLS).reshape(count, SYMBOLS)
    return np.argsort(-counts, axis=1, kind="stable")


def write_split(rng: np.random.Generator, path: Path, dictionary: Dictionary, count: int, length: int) -> None:
    """Write ``count`` sequences as ``path``.bin, .idx and .documents.npy."""
    first, start, stop = (dictionary.index(word) for word in (symbol(0), ANSWER, END_OF_ANSWER))
    total = length + SYMBOLS + 2
    chunk = max(1, 4_000_000 // length)
    with path.with_suffix(".bin").open("wb") as data, tqdm(total=count, desc=path.name, disable=None) as bar:
        for done in range(0, count, chunk):
            symbols = sequences(rng, min(chunk, count - done), length)
            rows = np.empty((len(symbols), total), dtype=np.uint16)
            rows[:, :length], rows[:, length + 1 : -1] = symbols + first, answers(symbols) + first
            rows[:, length], rows[:, -1] = start, stop
            data.write(rows.tobytes())
            bar.update(len(rows))
    with MMapIndexedDataset.Index.writer(path.with_suffix(".idx"), np.uint16) as index:
        index.write([total] * count)
    np.save(path.with_suffix(".documents.npy"), np.arange(count, dtype=np.int64) * total)


def symbol(number: int) -> str:
    """The word for a symbol."""
    return f"s{number:02d}"


def write_all(folder: Path, made_from: dict[str, Any]) -> None:
    """Write the dictionary, the splits and stats.json."""
    dictionary = Dictionary()
    for word in [*map(symbol, range(SYMBOLS)), ANSWER, END_OF_ANSWER]:
        dictionary.add_symbol(word)
    dictionary.save(str(folder / DICTIONARY))
    rng, splits = np.random.default_rng(made_from["seed"]), {}
    for split, share in SPLITS.items():
        count = max(1, round(made_from["sequences"] * share))
        write_split(rng, folder / split, dictionary, count, made_from["length"])
        splits[split] = {"documents": count, "tokens": count * (made_from["length"] + SYMBOLS + 2)}
    types = {"types": SYMBOLS + 2, "size": len(dictionary), "sha256": sha256(folder / DICTIONARY)}
    stats = {"level": "word", "documents_rule": "sequence", "dictionary": types, "splits": splits}
    (folder / STATS).write_text(json.dumps(stats | {"made_from": made_from}, indent=2, allow_nan=False) + "\n")


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dest", type=Path, required=True, help="folder for the binarised data")
    parser.add_argument("--length", type=int, default=4000, help="symbols per sequence (default: %(default)s)")
    parser.add_argument(
        "--sequences",
        type=int,
        default=8000,
        help="training sequences; validation and test get a tenth of it each (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: %(default)s)")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    for name in ("length", "sequences"):
        if (value := getattr(args, name)) < 1:
            raise InputError(f"--{name} must be 1 or more, got {value}")
    refuse_colon(args.dest)
    made_from = {"length": args.length, "sequences": args.sequences, "seed": args.seed}
    make_once(args.dest.resolve(), made_from, STATS, lambda folder: write_all(folder, made_from))


if __name__ == "__main__":
    install_one_line_messages()
    main()
