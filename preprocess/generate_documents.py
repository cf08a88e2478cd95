"""Generate documents, each with its own word distribution, so that remembering all of a document pays.

The words of a document are drawn independently from a distribution that belongs to this document, which is itself
drawn from a symmetric Dirichlet distribution. The more of a document a model remembers, the better it predicts the next
word; the order of the words carries no information.
"""

import argparse
from functools import cache
from pathlib import Path

import numpy as np

from fairseq_infformer.errors import InputError, install_one_line_messages
from fairseq_infformer.files import replacing

SPLITS = {"train": 1.0, "valid": 1 / 24, "test": 1 / 24}


@cache
def word_types(count: int) -> np.ndarray:
    """``count`` different words, all of one length."""
    return np.array([f"w{number:0{len(str(count - 1))}d}" for number in range(count)])


def documents(rng: np.random.Generator, count: int, length: int, types: int, concentration: float) -> list[str]:
    """``count`` documents of ``length`` words over ``types`` word types, as lines of text."""
    frequencies = rng.dirichlet(np.full(types, concentration), size=count)
    return [" ".join(rng.choice(word_types(types), size=length, p=own)) for own in frequencies]


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dest", type=Path, required=True, help="folder for train.txt, valid.txt and test.txt")
    parser.add_argument(
        "--documents", type=int, default=3072, help="training documents; a 24th of it each for validation and test"
    )
    parser.add_argument("--length", type=int, default=1022, help="words per document, without its two line ends")
    parser.add_argument("--types", type=int, default=64, help="number of different words")
    parser.add_argument(
        "--concentration",
        type=float,
        default=0.2,
        help="of the Dirichlet distribution; the smaller, the fewer different words a document has",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    for name in ("documents", "length", "types", "concentration"):
        if (value := getattr(args, name)) <= 0:
            raise InputError(f"--{name} must be positive, got {value}")
    args.dest.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for split, share in SPLITS.items():
        count = max(1, round(args.documents * share))
        texts = documents(rng, count, args.length, args.types, args.concentration)
        with replacing(args.dest / f"{split}.txt") as new:
            new.write_text("".join(f"{text}\n\n" for text in texts), encoding="utf-8")
        print(f"{split}: {count} documents of {args.length} words")


if __name__ == "__main__":
    install_one_line_messages()
    main()
