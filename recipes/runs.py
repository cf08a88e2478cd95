"""What the runs of a recipe leave behind: how they were launched, how they learned, what they scored.

As a command, ``python -m recipes.runs FOLDER COMMAND...`` notes in FOLDER/launches.jsonl that COMMAND is about to be
run, with the commit and the hardware. As a module it reads such folders into records, which are what
``recipes/results/`` keeps.
"""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Optional

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = "launches.jsonl"

Record = dict[str, Any]


# ---- Launches


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit() -> str:
    """The commit that is checked out; with "+" after it if files differ from it."""
    return _output("git", "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=7") or "unknown"


def cpu(threads: object) -> str:
    """The cores and the model of the CPU, and the threads that each process takes."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {model[1] if model else 'CPU'}, {threads} thread{'s' * (threads != 1)} a process"


def hardware(command: str) -> str:
    """What a training runs on: a GPU for each of its processes, or the CPU."""
    launched = re.search(r"--(?:nproc-per-node|ntasks) (\d+)", command)
    processes = int(launched[1]) if launched else 1
    gpus = [line.split(" (")[0].split(": ", 1)[1] for line in _output("nvidia-smi", "-L").splitlines() if ": " in line]
    if gpus and "--cpu" not in command.split() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        return f"{processes} × {gpus[0]}"
    threads = os.environ.get("OMP_NUM_THREADS") or (1 if processes > 1 else "all")  # torchrun gives each a thread
    threads = int(threads) if str(threads).isdigit() else threads
    return cpu(threads) + (f", {processes} processes" if processes > 1 else "")


def launches(folder: Path) -> list[Record]:
    """What ``note_launch`` has noted in a folder."""
    file = folder / LAUNCHES
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def note_launch(folder: Path, command: Sequence[str]) -> None:
    """Add a line to the launches of a folder whose training is not done; paths are those from the repository's root.

    Exits if the folder holds a training of other arguments.
    """
    command = " ".join(command).replace(f"{ROOT}/", "")
    for before in launches(folder)[:1]:
        old, new = (Counter(text.rpartition("fairseq-train")[2].split()) for text in (before["command"], command))
        if old != new:
            there, here = (" ".join((a - b).elements()) for a, b in ((old, new), (new, old)))
            sys.exit(
                f"error: {folder} is a training of other arguments, with '{there}' where now is '{here}'; give another "
                "--dir, or delete it"
            )
    if (folder / "done").exists():
        return
    launch = {
        "command": command,
        "commit": commit(),
        "hardware": hardware(command),
        "torch": version("torch"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with (folder / LAUNCHES).open("a", encoding="utf-8") as out:
        out.write(strict_json(launch) + "\n")


def here(threads: int) -> Record:
    """What a benchmark on the CPU says of where it comes from, as ``provenance`` reads it."""
    arguments = sys.argv[1:]
    if "--out" in arguments:  # where it was put is nobody's business
        place = arguments.index("--out")
        del arguments[place : place + 2]
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    command = shlex.join(["python", "-m", module, *arguments])
    return {"command": command, "commits": [commit()], "hardware": [cpu(threads)], "torch": version("torch")}


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
    launched = launches(folder)
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


def told(command: str, found: Sequence[Record]) -> str:
    """The command of a recipe with the memories and seeds of its runs, before what goes on to fairseq-train."""
    own, dashes, further = command.partition(" -- ")
    for name, values in (("memory", {run["memory"]: 0 for run in found}), ("seeds", {run["seed"]: 0 for run in found})):
        own += f" --{name} {','.join(map(str, values))}"
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


def grouped(runs: Sequence[Record], *names: str) -> dict[tuple, list[Record]]:
    """Runs that are alike in these fields, such as the seeds of one memory."""
    groups: dict[tuple, list[Record]] = {}
    for run in runs:
        groups.setdefault(tuple(run[name] for name in names), []).append(run)
    return groups


def share_right(run: Record, split: str = "test") -> np.ndarray:
    """The share of right answers in each of a run's groups of questions; NaN where nothing was asked."""
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


if __name__ == "__main__":
    note_launch(Path(sys.argv[1]), sys.argv[2:])
