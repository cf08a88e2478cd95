"""How much of each answer the memories of recipes/sorting/run.sh got right: a table, results.json and a plot.

An answer is 20 symbols, each predicted after the right ones before it. Accuracy is the share of right symbols; a match
is an answer whose symbols are all right, which is what greedy decoding would give as well. Mean and standard deviation
are over seeds, of the test split; results.json has each seed, and the validation split. Of several lengths,
accuracy.png shows accuracy by length (matplotlib: pip install '.[plot]').
"""

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

SYMBOLS = 20
# Under teacher forcing 20, 19, … symbols are left to choose from.
GUESSING = sum(1 / left for left in range(1, SYMBOLS + 1)) / SYMBOLS


def read(file: Path) -> dict[str, Any]:
    """Number of sequences, accuracy and share of matches in what ``infformer-eval --predictions`` wrote."""
    predictions = np.load(file)
    right = (predictions["target"] == predictions["predicted"]).reshape(-1, SYMBOLS)
    return {"sequences": len(right), "accuracy": right.mean(), "matches": right.all(axis=1).mean()}


def parameters(log: Path) -> int:
    """The number of parameters of the model, from the log of its training."""
    return int(re.search(r"num\. shared model params: ([\d,]+)", log.read_text())[1].replace(",", ""))


def summarise(root: Path) -> list[dict[str, Any]]:
    """For each length and memory under ``root`` that was scored, its seeds with mean and standard deviation."""
    runs: dict[tuple[int, str], list[Path]] = {}
    for file in root.glob("*/*-seed*/test.npz"):
        memory = file.parent.name.rsplit("-seed", 1)[0]
        runs.setdefault((int(file.parents[1].name), memory), []).append(file.parent)
    rows = []
    for (length, memory), folders in runs.items():
        row: dict[str, Any] = {"length": length, "memory": memory, "parameters": parameters(folders[0] / "train.log")}
        seeds = {int(folder.name.rsplit("-seed", 1)[1]): folder for folder in folders}
        row["seeds"] = {
            seed: {split: read(seeds[seed] / f"{split}.npz") for split in ("valid", "test")} for seed in sorted(seeds)
        }
        for name in ("accuracy", "matches"):
            values = [found["test"][name] for found in row["seeds"].values()]
            std = statistics.stdev(values) if len(values) > 1 else None
            row[name] = {"mean": statistics.mean(values), "std": std}
        rows.append(row)
    return sorted(rows, key=lambda row: (row["length"], row["accuracy"]["mean"]))


def print_table(rows: list[dict[str, Any]]) -> None:
    def spread(share: dict[str, Any]) -> str:
        std = share["std"]
        return f"{100 * share['mean']:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")

    print(f"{'length':>7}  {'memory':<17}{'parameters':>11}{'seeds':>7}{'accuracy, %':>16}{'all 20 right, %':>17}")
    for row in rows:
        print(
            f"{row['length']:>7,}  {row['memory']:<17}{row['parameters']:>11,}{len(row['seeds']):>7}"
            f"{spread(row['accuracy']):>16}{spread(row['matches']):>17}"
        )
    print(f"A guess among the symbols that are left is right in {100 * GUESSING:.1f} %.")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy against length, a line for each memory, with the standard deviation over seeds."""
    try:
        from matplotlib import pyplot
    except ImportError:
        sys.exit("error: no matplotlib for the plot; pip install '.[plot]'")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for memory in sorted({row["memory"] for row in rows}):
        line = [row for row in rows if row["memory"] == memory]
        accuracy = [row["accuracy"] for row in line]
        means, spreads = ([100 * (share[name] or 0) for share in accuracy] for name in ("mean", "std"))
        axes.errorbar([row["length"] for row in line], means, spreads, label=memory, marker="o", capsize=3)
    axes.axhline(100 * GUESSING, color="grey", linewidth=0.8, linestyle="--", label="guess")
    lengths = sorted({row["length"] for row in rows})
    axes.set(xlabel="symbols of a sequence", ylabel="accuracy, %", title="Sorting", xscale="log", ylim=(0, 100))
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    args = parser.parse_args()
    rows = summarise(args.dir)
    if not rows:
        sys.exit(f"error: nothing was scored under {args.dir}; run.sh's stage 3 does")
    print_table(rows)
    results = args.dir / "results.json"
    results.write_text(json.dumps({"guessing": GUESSING, "rows": rows}, indent=2) + "\n")
    if len({row["length"] for row in rows}) > 1:
        plot(rows, args.dir / "accuracy.png")
    print(f"wrote {results}", file=sys.stderr)


if __name__ == "__main__":
    main()
