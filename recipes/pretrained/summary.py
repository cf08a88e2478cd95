"""Perplexities of pretrained models with memories, and the memories' share of the headroom: a table, and
DIR/results.json.

Perplexity per word counts what stands between spaces, and each line's end; swapped: with the memory of another document
of the split. Mean and standard deviation are over seeds.
"""

import argparse
import math
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from recipes import headroom, runs
from recipes.pretrained.rows import BASE, LONG, ROWS, SHORT
from recipes.runs import Record

ABLATIONS = ("zero", "swap")
FIRST = 256  # tokens; the bounds in a document by which losses are averaged are doubles of it


def by_position(losses: np.ndarray, starts: np.ndarray) -> dict[str, list]:
    """The mean loss per token by the position in the document: bounds, and the losses between them.

    Args:
        losses: of all tokens of a split, in nats. starts: the offsets (D,) of its documents.
    """
    position = np.arange(len(losses)) - np.repeat(starts, np.diff([*starts, len(losses)]))
    longest = int(position.max()) + 1
    first = min(FIRST, max(1, longest // 8))
    bounds = [0, *(first << n for n in range(64) if first << n < longest), longest]
    means = [losses[(position >= low) & (position < high)].mean() for low, high in pairwise(bounds)]
    return {"bounds": bounds, "loss": [round(float(mean), 5) for mean in means]}


def collect(root: Path, split: str, model: str, command: str) -> Record:
    """All that was scored under ``root``, the folder of run.sh: SEGMENT/ROW-seedN, and the long window's ROW-seedN."""
    found = []
    starts = np.load(root / f"data/{split}.documents.npy")
    scored = (runs.scored_runs(root, pattern, split) for pattern in (f"{LONG}-seed*", "*/*-seed*"))
    for folder, run in chain.from_iterable(scored):
        segment = None if folder.parent == root else int(folder.parent.name)
        ablated = {name: runs.score(folder, f"{split}-{name}") for name in ABLATIONS}
        losses = np.load(folder / f"{split}.npz")["loss"]
        found.append(run | {"segment": segment} | ablated | {"by_position": by_position(losses, starts)})
    order = list(ROWS)
    found.sort(key=lambda run: (run["segment"] or math.inf, order.index(run["memory"]), run["seed"]))
    memories = [name for name in order if name not in (BASE, SHORT, LONG)]
    segments = " and ".join(str(segment) for segment in dict.fromkeys(run["segment"] for run in found) if segment)
    own, dashes, further = command.partition(" -- ")
    return {
        "kind": "pretrained",
        "command": runs.full_command(f"{own} --segment {segments}{dashes}{further}", found),
        "model": model,
        "headroom": {
            "corpus": "novels",
            "split": split,
            "short": SHORT,
            "memories": memories,
            "long": LONG,
            "by": "segment",
        },
        "runs": found,
    }


def table(results: Record) -> str:
    """Sizes, costs, perplexities and shares of each row."""
    split = results["headroom"]["split"]
    shares = {(one.group, one.memory): one for one in headroom.of(results)}
    splits = [name for name in ("valid", "test") if all(run[name] for run in results["runs"])]
    least = min(run["parameters"] for run in results["runs"])
    rows = []
    for (segment, memory), seeds in runs.grouped(results["runs"], "segment", "memory").items():
        row = [f"{segment or ''}", memory, f"{seeds[0]['parameters'] - least:,}", str(len(seeds))]
        row += [f"{seeds[0]['updates']:,}", runs.duration(seeds), f"{seeds[0][split]['state_bytes'] / 1e6:.1f}"]
        for name in splits:
            row += [
                runs.spread([run[name][f"perplexity_per_{unit}"] for run in seeds], 2) for unit in ("token", "word")
            ]
        one = shares.get((segment, memory))
        row += headroom.cells(one) if one else [""] * len(headroom.COLUMNS)
        rows.append(row)
    header = ["segment", "row", "parameters added", "seeds", "updates", "training", "MB per stream"]
    header += [f"{name}, per {unit}" for name in splits for unit in ("token", "word")]
    return runs.markdown([*header, *headroom.COLUMNS], rows) + (
        f"\n\nPerplexity of {results['model']}; share, swapped and zeroed are of the {split} split. Times: of an "
        "update of the training and of scoring a token, as multiples of the fine-tuned model's."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--split", required=True, choices=["valid", "test"], help="of shares and ablations")
    parser.add_argument("--model", required=True, help="its name")
    parser.add_argument("--command", required=True, help="what made it")
    args = parser.parse_args()
    runs.show_and_keep(args.dir, collect(args.dir, args.split, args.model, args.command), table)


if __name__ == "__main__":
    main()
