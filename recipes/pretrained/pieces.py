"""Documents of the length that an experiment wants, from long ones that are binarised already.

  python -m recipes.pretrained.pieces WHOLE DEST --train 4096,16384 --scored 16384,49152

The documents of WHOLE's training split are cut into pieces of random lengths in the range of --train, and the pieces
shuffled, so that streams begin at random places of the text, and an empty memory is as frequent as in use. Of each
document of the other splits, the tokens in the range --scored are one document. DEST is a data folder as prepare.sh
makes one; words and bytes are those of the pieces' own text.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from fairseq_infformer.data.binarised import load_document_starts, load_lines
from fairseq_infformer.data.corpus import SPLITS
from fairseq_infformer.data.data_folder import STATS, check_noted_dictionary, read_stats
from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import make_once, sha256
from fairseq_infformer.vocabulary_files import DICTIONARY, SPELLINGS, load_dictionary, load_tokenizer


def cut(documents: Sequence[np.ndarray], least: int, most: int, seed: int) -> list[np.ndarray]:
    """Pieces of ``least`` to ``most`` tokens in random order; the one that ends a document may be shorter."""
    rng = np.random.default_rng(seed)
    pieces = []
    for document in documents:
        ends = np.cumsum(rng.integers(least, most, size=len(document) // least + 1, endpoint=True))
        pieces += [piece for piece in np.split(document, ends) if len(piece)]
    return [pieces[number] for number in rng.permutation(len(pieces))]


def documents_of(whole: Path, split: str) -> list[np.ndarray]:
    """The tokens of every document of a split."""
    lines = load_lines(whole / split, load_dictionary(whole / DICTIONARY))
    tokens = np.concatenate([np.asarray(lines[number]) for number in range(len(lines))])
    starts = load_document_starts(whole / f"{split}.documents.npy", len(tokens))
    return [tokens[start:end] for start, end in pairwise([*starts, len(tokens)])]


def write(folder: Path, split: str, documents: Sequence[np.ndarray], whole: Path) -> dict[str, int]:
    """Write a split; returns its entry in stats.json."""
    tokenizer = load_tokenizer(whole, str(whole))
    types = len(load_dictionary(whole / DICTIONARY))
    builder = MMapIndexedDatasetBuilder(str(folder / f"{split}.bin"), dtype=best_fitting_int_dtype(types))
    words = size = 0
    for document in documents:
        builder.add_item(torch.from_numpy(document.astype(np.int64)))
        text = tokenizer.decode(document.tolist(), skip_special_tokens=False)
        words += len(text.split()) + text.count("\n")
        size += len(text.encode())
    builder.finalize(str(folder / f"{split}.idx"))
    lengths = np.array([len(document) for document in documents], dtype=np.int64)
    np.save(folder / f"{split}.documents.npy", np.cumsum(lengths) - lengths)
    return {"documents": len(documents), "words": words, "bytes": size, "tokens": int(lengths.sum())}


def make(args: argparse.Namespace, made_from: dict[str, object], folder: Path) -> None:
    """Fill the data folder."""
    for name in (DICTIONARY, *SPELLINGS):
        if (args.whole / name).is_file():
            shutil.copyfile(args.whole / name, folder / name)
    splits = {}
    for split in SPLITS:
        if not (args.whole / f"{split}.idx").exists():
            continue
        documents = documents_of(args.whole, split)
        if split == "train":
            documents = cut(documents, *args.train, args.seed)
        else:
            first, end = args.scored
            if (shortest := min(map(len, documents))) < end:
                raise InputError(
                    f"every document of {split} must have at least {end} tokens, got one of {shortest}; give longer "
                    "texts"
                )
            if len(documents) % args.streams:
                raise InputError(
                    f"{split} has {len(documents)} documents, but is scored in {args.streams} streams of as many "
                    f"documents each; give a multiple of {args.streams}"
                )
            documents = [document[first:end] for document in documents]
        splits[split] = write(folder, split, documents, args.whole)
        print(f"{split}: " + ", ".join(f"{number:,} {name}" for name, number in splits[split].items()), flush=True)
    stats = read_stats(args.whole) | {"splits": splits, "made_from": made_from}
    (folder / STATS).write_text(json.dumps(stats, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def bounds(text: str) -> tuple[int, int]:
    first, _, last = text.partition(",")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"takes two positive numbers, the lower one first, as 4096,16384, got {text}")
    return int(first), int(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path, help="data folder made by prepare.sh with --level tokenizer")
    parser.add_argument("dest", type=Path, help="data folder to write")
    parser.add_argument("--train", type=bounds, required=True, metavar="N,N", help="tokens of a training document")
    parser.add_argument("--scored", type=bounds, required=True, metavar="N,N", help="tokens of the others to keep")
    parser.add_argument(
        "--streams", type=int, default=1, help="in which the other splits will be scored (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the cuts (default: %(default)s)")
    args = parser.parse_args()
    check_noted_dictionary(args.whole)
    made_from = {"train": list(args.train), "scored": list(args.scored), "seed": args.seed}
    made_from["whole"] = sha256(args.whole / STATS)
    make_once(args.dest.resolve(), made_from, STATS, lambda folder: make(args, made_from, folder))


if __name__ == "__main__":
    install_one_line_messages()
    main()
