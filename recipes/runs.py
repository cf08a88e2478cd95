"""What the runs of a recipe leave behind, as records, which are what ``recipes/results/`` keeps, and as tables."""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, Optional

import numpy as np

from recipes import launches
from recipes.launches import Record

# ---- Records


def logged(log: str, kind: str) -> Iterator[dict[str, float]]:
    """What a training logged with ``--log-format json``, of ``kind``: train_inner, train or a split's name."""
    for line in log.splitlines():
        _, found, figures = line.partition(f"| {kind} | {{")
        try:
            entry = json.loads("{" + figures) if found else {}
        except json.JSONDecodeError:  # a line that a kill has cut
            continue
        if entry:
            yield {name: float(value) for name, value in entry.items() if value is not None}


def training(folder: Path) -> Record:
    """How the run of a folder was trained: launches, parameters, seconds, and the curve of what was logged."""
    log = (folder / "train.log").read_text(encoding="utf-8")
    launched = launches.launches(folder)
    entries = list(logged(log, "train_inner"))
    seconds, before = 0.0, 0.0
    for point in entries:  # fairseq counts from the start of each launch
        seconds += point["wall"] - (before if point["wall"] >= before else 0)
        before = point["wall"]
    # Updates that were lost when a run was stopped are logged twice: the later ones are in the model.
    points = {int(point["num_updates"]): point for point in entries}
    points = [points[update] for update in sorted(points)]
    shown = [name for name in ("nll_loss", "accuracy") if points and name in points[0]]
    return {
        "command": launched[0]["command"],
        "commits": sorted({launch["commit"] for launch in launched}),
        "hardware": sorted({launch["hardware"] for launch in launched}),
        "started": launched[0]["started"],
        "launches": len(launched),
        "parameters": int(re.search(r"num\. shared model params: ([\d,]+)", log)[1].replace(",", "")),
        "updates": int(points[-1]["num_updates"]) if points else 0,
        "seconds": seconds,
        "curve": {"update": [int(point["num_updates"]) for point in points]}
        | {name: [point[name] for point in points] for name in shown},
    }


def score(folder: Path, split: str) -> Optional[Record]:
    """What ``infformer-eval --json`` wrote of a split, but for where; None if it was not scored."""
    file = folder / f"{split}.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name not in ("path", "split")}


def scored_runs(root: Path, pattern: str = "*-seed*", split: str = "test") -> Iterator[tuple[Path, Record]]:
    """The folder and the record of each run MEMORY-seedN under ``root`` of which ``split`` was scored."""
    for file in sorted(root.glob(f"{pattern}/{split}.json")):
        name = re.fullmatch(r"(.+)-seed(\d+)", file.parent.name)
        if not name:  # such as one that was put aside
            continue
        record = {"memory": name[1], "seed": int(name[2])} | training(file.parent)
        yield file.parent, record | {name: score(file.parent, name) for name in ("valid", "test")}


def full_command(command: str, found: Sequence[Record], differ: str = "memory") -> str:
    """The command of a recipe with the memories and seeds of its runs, before the arguments of fairseq-train.

    Args:
        differ: the option in which the runs differ.
    """
    own, dashes, further = command.partition(" -- ")
    for name, field in ((differ, "memory"), ("seeds", "seed")):
        own += f" --{name} {','.join(dict.fromkeys(str(run[field]) for run in found))}"
    return own + dashes + further


def strict_json(value: Any, indent: Optional[int] = None) -> str:
    """JSON that every reader takes: null for what is not finite, such as the loss of a training that diverged."""

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def write(file: Path, results: Record) -> None:
    """Write results with one line for each run, at once."""
    settings = {name: value for name, value in results.items() if name != "runs"}
    lines = ",\n".join("    " + strict_json(run) for run in results["runs"])
    text = strict_json(settings, indent=2)[:-2] + f',\n  "runs": [\n{lines}\n  ]\n}}\n'
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(file)


def show_and_keep(folder: Path, results: Record, table: Callable[[Record], str]) -> None:
    """Print the table of the runs in a recipe's folder and leave them there as results.json; exit if there are none."""
    if not results["runs"]:
        sys.exit(f"error: nothing was scored under {folder}; run.sh's stage 3 does")
    print(table(results))
    write(folder / "results.json", results)


# ---- Tables


class Headline(NamedTuple):
    """A figure of some results that is worth standing in one table with those of all others."""

    measure: str
    values: dict[str, list[float]]  # of each memory, by seed
    best: Callable[..., float]  # min or max


def grouped(runs: Sequence[Record], *names: str) -> dict[tuple, list[Record]]:
    """Runs that are alike in these fields, such as the seeds of one memory."""
    groups: dict[tuple, list[Record]] = {}
    for run in runs:
        groups.setdefault(tuple(run[name] for name in names), []).append(run)
    return groups


def share_right(run: Record, split: str = "test") -> np.ndarray:
    """The share of correct answers in each of a run's groups of questions; NaN where nothing was asked."""
    asked = np.array(run[split]["asked"], dtype=float)
    return np.array(run[split]["right"]) / np.where(asked, asked, np.nan)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and, of several, standard deviation, as text."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {stdev(values):.{digits}f}"


def duration(runs: Sequence[Record]) -> str:
    """The time that training took, from the shortest to the longest of the runs."""
    minutes = sorted(run["seconds"] / 60 for run in runs)
    first, last = (f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in (minutes[0], minutes[-1]))
    return f"{first} min" if first == last else f"{first}–{last} min"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is read as Markdown and, its columns aligned, on a terminal."""
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [" | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)) for row in [header, *rows]]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def provenance(results: Record) -> str:
    """One line on where results come from: the command, commits, and hardware."""
    sources = [source for source in (results, *results.get("runs", [])) if "commits" in source]
    commits, machines = ({x for source in sources for x in source[name]} for name in ("commits", "hardware"))
    return f"`{results['command']}`, commit {', '.join(sorted(commits))}; {'; '.join(sorted(machines))}."
