"""Accuracy of recall by distance, for each memory: a table, and DIR/results.json.

Reads the documents' recall.json, the binarised data, and the answers that each run gave, MEMORY-seedN/SPLIT.npz. The
distance of an answer is counted in the data: from the value stated last for its key to the answer itself.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from fairseq_infformer.errors import InputError, install_one_line_messages
from preprocess.generate_recall import FACT, NOTES
from recipes import runs
from recipes.runs import Record


def distances_of(tokens: np.ndarray, fact: int, answers: np.ndarray) -> np.ndarray:
    """Tokens between each answer's value and where that value was stated.

    Args:
        tokens: of the split. fact: the word that starts a fact.
        answers: offsets of values asked for, rising; their keys stand two tokens before them.
    """
    stated_at: dict[int, int] = {}  # where the value of each key was stated last
    facts, distances = np.flatnonzero(tokens == fact), []
    seen = 0
    for answer in answers:
        while seen < len(facts) and facts[seen] < answer:
            stated_at[int(tokens[facts[seen] + 1])] = int(facts[seen]) + 2
            seen += 1
        distances.append(int(answer) - stated_at[int(tokens[answer - 2])])
    return np.array(distances)


def read(file: Path, tokens: np.ndarray, fact: int, distances: list[int]) -> Record:
    """Of one run: how many answers were asked for from each of ``distances`` to the next, and how many are correct."""
    answers = np.load(file)
    if (tokens[answers["offset"]] != answers["target"]).any():
        raise InputError(f"{file} was scored on other data; run stage 4 again")
    right = answers["predicted"] == answers["target"]
    group = np.searchsorted(distances, distances_of(tokens, fact, answers["offset"]), side="right") - 1
    groups = range(len(distances))
    return {
        "asked": [int((group == number).sum()) for number in groups],
        "right": [int(right[group == number].sum()) for number in groups],
    }


def collect(folder: Path, raw: Path, data: Path, split: str, context: int, command: str) -> Record:
    """All runs of a folder of which ``split`` was scored, with what was asked for; the table and plot are of it."""
    # Before the package, fairseq would set up the program's logging.
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    notes = json.loads((raw / NOTES).read_text())["made_from"]
    distances = notes["distances"]
    fact = Dictionary.load(str(data / "dict.txt")).index(FACT)
    tokens = {}
    for name in ("valid", "test"):
        dtype = MMapIndexedDataset.Index(str(data / f"{name}.idx")).dtype
        tokens[name] = np.memmap(data / f"{name}.bin", dtype=dtype, mode="r")
    found = []
    for place, run in runs.scored_runs(folder, split=split):
        for name in tokens:
            if run[name]:
                run[name] |= read(place / f"{name}.npz", tokens[name], fact, distances)
        found.append(run)
    if not found:
        raise InputError(f"{folder} holds no scored MEMORY-seedN; run the stages before")
    values = notes["values"]
    levels = {"chance": 1 / values, "knowing the values stated, not their keys": best_guess(notes["facts"], values)}
    settings = {"distances": distances, "context": context, "facts": notes["facts"], "values": values, "levels": levels}
    return {"kind": "recall", "command": runs.full_command(command, found), "split": split, **settings, "runs": found}


def table(results: Record) -> str:
    """Accuracy in per cent by distance, mean ± standard deviation over the seeds where there are several."""
    rows, split = [], results["split"]
    for (memory,), seeds in runs.grouped(results["runs"], "memory").items():
        shares = np.array([100 * runs.share_right(run, split) for run in seeds]).T
        row = [memory, f"{seeds[0]['parameters']:,}", str(len(seeds)), f"{seeds[0]['updates']:,}", runs.duration(seeds)]
        rows.append([*row, *("–" if np.isnan(share).any() else runs.spread(share.tolist()) for share in shares)])
    header = ["memory", "parameters", "seeds", "updates", "training", *(f"{d:,}" for d in results["distances"])]
    asked = results["runs"][0][split]["asked"]
    levels = "; ".join(f"{name}: {100 * level:.1f} %" for name, level in results["levels"].items())
    return (
        f"{runs.markdown(header, rows)}\n\nCorrect answers of the {split} split in %, by distance in words; "
        f"{min(asked)} or more at each distance and seed. {levels[0].upper()}{levels[1:]}. Through all layers "
        f"attention sees at most {results['context']} words back."
    )


def headlines(results: Record) -> list[runs.Headline]:
    """The accuracy at the first, a middle and the last distance that attention does not see."""
    distances, split = results["distances"], results["split"]
    beyond = [place for place, distance in enumerate(distances) if distance > results["context"]]
    shares = {
        memory: [100 * runs.share_right(run, split) for run in seeds]
        for (memory,), seeds in runs.grouped(results["runs"], "memory").items()
    }
    return [
        runs.Headline(
            f"correct answers {distances[place]:,} words later, %",
            {memory: [share[place] for share in found] for memory, found in shares.items()},
            max,
        )
        for place in dict.fromkeys((beyond[0], beyond[len(beyond) // 2], beyond[-1]))
    ]


def best_guess(facts: int, values: int, draws: int = 20_000) -> float:
    """How often a guess is correct that knows which values a document stated, but not for which keys."""
    stated = np.random.default_rng(0).integers(values, size=(draws, facts))
    counts = (stated[:, :, None] == np.arange(values)).sum(1)
    return float(counts.max(1).mean() / facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--raw", type=Path, required=True, help="folder made by generate_recall.py")
    parser.add_argument("--data", type=Path, required=True, help="folder made of it by prepare.sh")
    parser.add_argument(
        "--split", default="test", choices=["valid", "test"], help="of the table (default: %(default)s)"
    )
    parser.add_argument("--context", type=int, default=0, help="words that attention sees, through all layers")
    parser.add_argument("--command", default="recipes/recall/run.sh", help="what made it (default: %(default)s)")
    args = parser.parse_args()
    results = collect(args.dir, args.raw, args.data, args.split, args.context, args.command)
    runs.show_and_keep(args.dir, results, table)


if __name__ == "__main__":
    install_one_line_messages()
    main()
