"""How much of each answer the memories of recipes/sorting/run.sh got correct: a table, and DIR/results.json.

An answer is 20 symbols, each predicted after the correct ones before it. Accuracy is the share of correct symbols; a
match is an answer whose symbols are all correct, which is what greedy decoding would give as well. Mean and standard
deviation are over seeds, of the test split; results.json has each run, its training curve, and the validation split
too.
"""

import argparse
from pathlib import Path

import numpy as np

from recipes import runs
from recipes.runs import Record

SYMBOLS = 20
# Under teacher forcing 20, 19, … symbols are left to choose from.
GUESSING = sum(1 / left for left in range(1, SYMBOLS + 1)) / SYMBOLS


def read(file: Path) -> Record:
    """Of what ``infformer-eval --predictions`` wrote: how many answers, and which shares of them are correct."""
    predictions = np.load(file)
    right = (predictions["target"] == predictions["predicted"]).reshape(-1, SYMBOLS)
    return {
        "sequences": len(right),
        "accuracy": float(right.mean()),
        "matches": float(right.all(axis=1).mean()),
        "accuracy_by_place": right.mean(axis=0).round(4).tolist(),  # of the most frequent symbol first
    }


def collect(root: Path, command: str) -> Record:
    """All that was scored under ``root``, the folder of run.sh: LENGTH/MEMORY-seedN."""
    found = []
    for folder, run in runs.scored_runs(root, "*/*-seed*"):
        for split in ("valid", "test"):
            run[split] |= read(folder / f"{split}.npz")
        found.append({"length": int(folder.parent.name)} | run)
    found.sort(key=lambda run: (run["length"], run["memory"], run["seed"]))
    own, *further = command.partition(" -- ")
    lengths = {run["length"] for run in found}
    own += f" --length {lengths.pop() if len(lengths) == 1 else 'N'}"
    return {
        "kind": "sorting",
        "command": runs.full_command(own + "".join(further), found),
        "guessing": GUESSING,
        "runs": found,
    }


def table(results: Record) -> str:
    """Accuracy and matches for each length and memory, the worst first."""
    rows = []
    for (length, memory), seeds in runs.grouped(results["runs"], "length", "memory").items():
        accuracy, matches = ([100 * run["test"][name] for run in seeds] for name in ("accuracy", "matches"))
        row = [f"{length:,}", memory, f"{seeds[0]['parameters']:,}", str(len(seeds)), f"{seeds[0]['updates']:,}"]
        row += [f"{SYMBOLS * seeds[0]['test']['sequences']:,}", runs.duration(seeds)]
        rows.append(((length, runs.mean(accuracy)), [*row, runs.spread(accuracy), runs.spread(matches)]))
    header = [
        "length",
        "memory",
        "parameters",
        "seeds",
        "updates",
        "targets",
        "training",
        "correct, %",
        "all 20 correct, %",
    ]
    guess = f"A guess among the symbols that are left is correct in {100 * results['guessing']:.1f} % of the cases."
    return runs.markdown(header, [row for _, row in sorted(rows)]) + f"\n\n{guess}"


def headlines(results: Record) -> list[runs.Headline]:
    """The accuracy at each length."""
    lengths = runs.grouped(results["runs"], "length")
    return [
        runs.Headline(
            f"correct symbols of {length:,}, %",
            {memory: [100 * run["test"]["accuracy"] for run in seeds] for (memory,), seeds in by_memory.items()},
            max,
        )
        for (length,), found in lengths.items()
        for by_memory in [runs.grouped(found, "memory")]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--command", default="recipes/sorting/run.sh", help="what made it (default: %(default)s)")
    args = parser.parse_args()
    runs.show_and_keep(args.dir, collect(args.dir, args.command), table)


if __name__ == "__main__":
    main()
