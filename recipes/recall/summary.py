"""Accuracy of recall by distance, for each memory: a table, recall.json and recall.png.

Reads the documents' recall.json, the binarised data, and the answers that each run gave, MEMORY-seedN/SPLIT.npz. The
distance of an answer is counted in the data: from the value told last for its key to the answer itself. The plot needs
matplotlib (pip install '.[plot]').
"""

import argparse
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "preprocess"))

from generate_recall import FACT, NOTES

from fairseq_infformer.errors import InputError, print_in_one_line


def distances_of(tokens: np.ndarray, fact: int, answers: np.ndarray) -> np.ndarray:
    """Tokens between each answer's value and where that value was told.

    Args:
        tokens: of the split. fact: the word that starts a fact.
        answers: offsets of values asked for, rising; their keys stand two tokens before them.
    """
    told_at: dict[int, int] = {}  # where the value of each key was told last
    facts, found = np.flatnonzero(tokens == fact), []
    seen = 0
    for place in answers:
        while seen < len(facts) and facts[seen] < place:
            told_at[int(tokens[facts[seen] + 1])] = int(facts[seen]) + 2
            seen += 1
        found.append(int(place) - told_at[int(tokens[place - 2])])
    return np.array(found)


def accuracy_by_distance(file: Path, tokens: np.ndarray, fact: int, distances: list[int]) -> list[float]:
    """Of one run: the share of answers that are right at each of ``distances``, from it to the next; NaN for none."""
    answers = np.load(file)
    if (tokens[answers["offset"]] != answers["target"]).any():
        raise InputError(f"{file} was scored on other data; run stage 4 again")
    right = answers["predicted"] == answers["target"]
    group = np.searchsorted(distances, distances_of(tokens, fact, answers["offset"]), side="right") - 1
    return [float(right[group == number].mean()) for number in range(len(distances))]


def collect(folder: Path, data: Path, split: str, distances: list[int]) -> dict[str, dict[int, list[float]]]:
    """Accuracy by distance of every run: of each memory, of each seed."""
    dtype = MMapIndexedDataset.Index(str(data / f"{split}.idx")).dtype
    tokens = np.memmap(data / f"{split}.bin", dtype=dtype, mode="r")
    fact = Dictionary.load(str(data / "dict.txt")).index(FACT)
    found: dict[str, dict[int, list[float]]] = {}
    for file in sorted(folder.glob(f"*-seed*/{split}.npz")):
        memory, seed = re.fullmatch(r"(.+)-seed(\d+)", file.parent.name).groups()
        found.setdefault(memory, {})[int(seed)] = accuracy_by_distance(file, tokens, fact, distances)
    if not found:
        raise InputError(f"{folder} holds no MEMORY-seedN/{split}.npz; run the stages before")
    return found


def table(means: dict[str, np.ndarray], spreads: dict[str, np.ndarray], distances: list[int]) -> str:
    """Accuracy in per cent, mean ± standard deviation over the seeds where there are several."""
    width = 8 if all(np.isnan(spread).all() for spread in spreads.values()) else 13
    rows = [f"{'distance in words':<18}" + "".join(f"{distance:>{width},}" for distance in distances)]
    for memory, mean in means.items():
        cells = [
            f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread == spread else "")
            for value, spread in zip(mean, spreads[memory])
        ]
        rows.append(f"{memory:<18}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(rows)


def plot(
    means: dict[str, np.ndarray], spreads: dict[str, np.ndarray], distances: list[int], levels: dict[str, float],
    context: int, path: Path,
) -> None:  # fmt: skip
    """Accuracy against distance, on a logarithmic axis, a line for each memory."""
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq has set the root logger to tell everything
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for memory, mean in means.items():
        axes.errorbar(distances, 100 * mean, 100 * np.nan_to_num(spreads[memory]), marker="o", capsize=3, label=memory)
    for (label, level), style in zip(levels.items(), (":", "-.")):
        axes.axhline(100 * level, color="grey", linestyle=style, linewidth=1, label=label)
    if distances[0] <= context <= distances[-1]:
        axes.axvline(context, color="grey", linestyle="--", linewidth=1, label="end of segment and short-term memory")
    axes.set(xscale="log", xlabel="distance in words", ylabel="right answers, %", ylim=(0, 102))
    axes.set_xticks(distances, [f"{distance:,}" for distance in distances], rotation=30)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def best_guess(facts: int, values: int, draws: int = 20_000) -> float:
    """How often one is right who knows which values a document told, but not for which keys."""
    told = np.random.default_rng(0).integers(values, size=(draws, facts))
    counts = (told[:, :, None] == np.arange(values)).sum(1)
    return float(counts.max(1).mean() / facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the runs; the results go there too")
    parser.add_argument("--raw", type=Path, required=True, help="folder made by generate_recall.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made of it by prepare.sh")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--context", type=int, default=0, help="words of a segment and the short-term memory")
    args = parser.parse_args()
    notes: dict[str, Any] = json.loads((args.raw / NOTES).read_text())
    distances, facts, values = notes["distances"], notes["facts"], notes["values"]
    found = collect(args.folder, args.data, args.split, distances)
    means = {memory: np.mean(list(runs.values()), axis=0) for memory, runs in found.items()}
    spreads = {
        memory: np.std(list(runs.values()), axis=0, ddof=1) if len(runs) > 1 else np.full(len(distances), np.nan)
        for memory, runs in found.items()
    }
    levels = {"chance": 1 / values, "knowing the values told, not their keys": best_guess(facts, values)}
    print(
        f"right answers of the {args.split} split in %, " + "; ".join(f"{k}: {100 * v:.1f}" for k, v in levels.items())
    )
    print(table(means, spreads, distances))
    result = {"split": args.split, "distances": distances, "context": args.context, "levels": levels, "accuracy": found}
    (args.folder / "recall.json").write_text(json.dumps(result, indent=2) + "\n")
    plot(means, spreads, distances, levels, args.context, args.folder / "recall.png")
    print(f"wrote {args.folder / 'recall.json'} and {args.folder / 'recall.png'}")


if __name__ == "__main__":
    print_in_one_line()
    main()
