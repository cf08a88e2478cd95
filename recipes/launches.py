"""How a training or benchmark is launched: its command, the commit and the hardware; a training's are in its folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from recipes.memories import effective

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = "launches.jsonl"

Record = dict[str, Any]


def die(message: str, code: int = 2) -> NoReturn:
    """End the program with one line that names the mistake."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def from_root(text: str) -> str:
    """``text`` with the paths in the repository as they are written at its root."""
    return text.replace(f"{ROOT}/", "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit() -> str:
    """The commit that is checked out; with "+" after it if files differ from it."""
    return _output("git", "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=7") or "unknown"


def cpu(threads: object) -> str:
    """The cores and the model of the CPU, and the threads of each process."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {model[1] if model else 'CPU'}, {threads} thread{'s' * (threads != 1)} per process"


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
    """What ``note`` has noted in a folder."""
    file = folder / LAUNCHES
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def check(folder: Path, command: Sequence[str]) -> None:
    """End the program if the folder holds a training of other arguments than ``command``'s.

    Options of another memory than that of the training have no effect, and may differ.
    """
    for before in launches(folder)[:1]:
        texts = (before["command"], from_root(" ".join(command)))
        both = (effective(text.rpartition("fairseq-train")[2].split()) for text in texts)
        old, new = (Counter(map(_normal, words)) for words in both)
        if old != new:
            was, now = (" ".join((a - b).elements()) or "nothing" for a, b in ((old, new), (new, old)))
            die(
                f"{folder} is a training of other arguments, with {was!r} where {now!r} is given now; give another "
                "--dir, or delete it"
            )


def _normal(word: str) -> str:
    return os.path.normpath(word) if "/" in word else word


def note(folder: Path, command: Sequence[str]) -> None:
    """Add a line to the launches of a folder, whose paths are those from the repository's root."""
    command = from_root(" ".join(command))
    launch = {
        "command": command,
        "commit": commit(),
        "hardware": hardware(command),
        "torch": version("torch"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with (folder / LAUNCHES).open("a", encoding="utf-8") as out:
        out.write(json.dumps(launch, ensure_ascii=False) + "\n")


def of_this_benchmark(threads: int) -> Record:
    """Where the result of a benchmark on the CPU comes from, as ``runs.provenance`` reads it."""
    arguments = sys.argv[1:]
    if "--out" in arguments:  # where it was put is nobody's business
        place = arguments.index("--out")
        del arguments[place : place + 2]
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    command = shlex.join(["python", "-m", module, *arguments])
    return {"command": command, "commits": [commit()], "hardware": [cpu(threads)], "torch": version("torch")}
