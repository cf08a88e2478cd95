"""Documents that keep their own word frequencies to their end: what was read long ago pays.

The words of a document are drawn, each independently of the others, from a distribution of the document's own,
which is drawn from a symmetric Dirichlet distribution. A model predicts them the better, the more of the document
it remembers; the order and the neighbourhood of the words say nothing.
"""

import argparse
from functools import cache
from pathlib import Path

import numpy as np

SPLITS = {"train": 1.0, "valid": 1 / 24, "test": 1 / 24}


@cache
def word_types(count: int) -> np.ndarray:
    """As many words, all of one length."""
    return np.array([f"w{number:0{len(str(count - 1))}d}" for number in range(count)])


def documents(rng: np.random.Generator, count: int, length: int, types: int, concentration: float) -> list[str]:
    """``count`` documents of ``length`` words over ``types`` word types, as lines of text."""
    frequencies = rng.dirichlet(np.full(types, concentration), size=count)
    return [" ".join(rng.choice(word_types(types), size=length, p=own)) for own in frequencies]


def build_parser() -> argparse.ArgumentParser:
    """The options of this command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dest", type=Path, required=True, help="folder for train.txt, valid.txt and test.txt")
    parser.add_argument("--documents", type=int, default=3072, help="training documents; a 24th of it for the others")
    parser.add_argument("--length", type=int, default=1022, help="words a document; two line ends come on top")
    parser.add_argument("--types", type=int, default=64, help="word types")
    parser.add_argument("--concentration", type=float, default=0.2, help="of the Dirichlet; smaller: fewer words each")
    parser.add_argument("--seed", type=int, default=1, help="of all draws")
    return parser


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    for name in ("documents", "length", "types", "concentration"):
        if (value := getattr(args, name)) <= 0:
            parser.error(f"--{name} must be positive, got {value}")
    args.dest.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for split, share in SPLITS.items():
        count = max(1, round(args.documents * share))
        texts = documents(rng, count, args.length, args.types, args.concentration)
        partial = args.dest / f"{split}.txt.partial"
        partial.unlink(missing_ok=True)  # were it a link, the text would go where it leads
        partial.write_text("".join(f"{text}\n\n" for text in texts), encoding="utf-8")
        partial.rename(args.dest / f"{split}.txt")
        print(f"{split}: {count} documents of {args.length} words")


if __name__ == "__main__":
    main()
