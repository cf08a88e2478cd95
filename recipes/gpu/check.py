"""The steps of ``recipes/gpu_check.sh``, each in a process of its own: a table, and a JSON of all figures."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from recipes import launches, runs
from recipes.runs import Record

ROOT = Path(__file__).resolve().parents[2]


class Step(NamedTuple):
    """A part of the check."""

    what: str
    needs_fairseq: bool
    seconds: float  # with less time left it is not begun


STEPS = {
    "modules": Step("the modules against float64 on the CPU", False, 20),
    "precision": Step("trainings in every precision, with a resume", True, 30),
    "ranks": Step("a training over NCCL in as many processes as there are cards", True, 20),
    "speed": Step("the memory and attention, timed", True, 20),
    "compile": Step("torch.compile of read and write", False, 90),
    "sorting": Step("the sorting task at the paper's size, for the time that is left", True, 20),
}


def main() -> None:
    args = parse()
    if args.step:
        run_step(args)
        return
    record = begun(args)
    deadline = time.monotonic() + 60 * args.minutes
    for name in args.only:
        if record["steps"].get(name, {}).get("ok"):
            print(f"{name}: done before", flush=True)
            continue
        print(f"{name}: {STEPS[name].what}", flush=True)
        record["steps"][name] = in_process(name, args, deadline - time.monotonic())
        keep(record, args.dest)
    print(f"\n{table(record)}\n\n{runs.provenance(record)} Kept in {args.dest}.")
    failed = [name for name, step in record["steps"].items() if not (step["ok"] or step.get("left_out"))]
    for name, step in record["steps"].items():
        if reason := step.get("left_out"):
            print(f"{name} was left out: {reason}")
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; the rows marked FAILED say how")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="recipes/gpu_check.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="time for all steps together (default: 8)")
    parser.add_argument("--dest", type=Path, help="JSON of results (default: recipes/results/gpu.json)")
    parser.add_argument("--only", help=f"steps, with commas between (default: {','.join(STEPS)})")
    parser.add_argument("--dry-run", action="store_true", help="all steps in small on the CPU")
    parser.add_argument("--work", type=Path, help="folder for data and checkpoints (default: runs/gpu-check)")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.only = args.only.split(",") if args.only else list(STEPS)
    if unknown := [name for name in args.only if name not in STEPS]:
        parser.error(f"--only has {unknown[0]!r}; choose from {', '.join(STEPS)}")
    if not args.minutes > 0:
        parser.error(f"--minutes must be positive, got {args.minutes:g}")
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --dry-run runs the same steps in small on the CPU")
    if args.dry_run and args.dest is None:
        parser.error("give --dry-run a --dest: what the CPU shows in small is no result to keep")
    args.dest = args.dest or ROOT / "recipes/results/gpu.json"
    if not args.dest.resolve().parent.is_dir():
        parser.error(f"--dest {args.dest}: there is no such folder; make it first")
    args.work = args.work or ROOT / "runs/gpu-check"
    return args


def begun(args: argparse.Namespace) -> Record:
    """The record of a check on this machine at this commit: the one in ``args.dest``, if it is, or a new one."""
    device = "cpu" if args.dry_run else "cuda"
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    record = {
        "kind": "gpu",
        "command": "recipes/gpu_check.sh" + " --dry-run" * args.dry_run,
        "commits": [launches.commit()],
        "hardware": [f"{len(cards)} × {cards[0]}" if device == "cuda" else launches.cpu(torch.get_num_threads())],
        "torch": torch.__version__,
    }
    try:
        before = json.loads(args.dest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = {}
    same = {name: before.get(name) for name in record} == record
    return {**record, "steps": before["steps"] if same else {}}


def in_process(name: str, args: argparse.Namespace, seconds: float) -> Record:
    """The result of a step, run in a process that nothing else depends on."""
    step = STEPS[name]
    if step.needs_fairseq and find_spec("fairseq") is None:
        return {"ok": False, "left_out": "fairseq is not installed; recipes/setup.sh installs it", "rows": []}
    if name == "sorting" and not (ROOT / ".venv/bin/fairseq-train").exists():
        return {"ok": False, "left_out": "its recipe needs .venv, which recipes/setup.sh makes", "rows": []}
    if seconds < step.seconds:
        return {"ok": False, "left_out": f"{max(0, seconds):.0f} s were left; give more --minutes", "rows": []}
    rows = args.work / f"{name}.jsonl"
    args.work.mkdir(parents=True, exist_ok=True)
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", __spec__.name, "--step", name, "--rows", rows, "--work", args.work]
    command += ["--minutes", seconds / 60]
    command += ["--dry-run", "--dest", args.dest] if args.dry_run else []
    started = time.monotonic()
    log = args.work / f"{name}.log"
    failure = ""
    with log.open("w", encoding="utf-8") as out:
        try:
            code = subprocess.run([str(word) for word in command], stdout=out, stderr=out, timeout=seconds).returncode
            failure = f"it ended with exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            failure = f"it was not done in {seconds:.0f} s"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if failure:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        found.append({"what": name, "failed": f"{failure}: {lines[-1] if lines else ''}"[:300], "ok": False})
    for row in found:
        print(f"  {line(row)}", flush=True)
    return {"ok": all(row["ok"] for row in found), "seconds": round(time.monotonic() - started, 1), "rows": found}


def run_step(args: argparse.Namespace) -> None:
    """Run a step in this process; its rows go to ``args.rows`` as they come."""
    device = torch.device("cpu" if args.dry_run else "cuda:0")
    with args.rows.open("w", encoding="utf-8") as out:
        for row in rows_of(args, device):
            out.write(json.dumps(row) + "\n")
            out.flush()


def rows_of(args: argparse.Namespace, device: torch.device) -> Iterator[Record]:
    small = args.dry_run
    if args.step in ("modules", "compile"):
        from recipes.gpu import modules

        yield from (modules.check if args.step == "modules" else modules.check_compiled)(device, small)
    elif args.step == "speed":
        from recipes.gpu import speed

        yield from speed.measure(device, small)
    else:
        from recipes.gpu import trainings

        if args.step == "sorting":
            yield from trainings.sort(device, small, args.work, 60 * args.minutes - 15)  # to end, and to read the log
        else:
            check = trainings.check_precisions if args.step == "precision" else trainings.check_ranks
            yield from check(device, small, args.work)


def keep(record: Record, dest: Path) -> None:
    partial = dest.with_name(dest.name + ".partial")
    partial.write_text(runs.strict_json(record, indent=1) + "\n", encoding="utf-8")
    partial.rename(dest)


def line(row: Record) -> str:
    return f"{'ok' if row['ok'] else 'FAILED':<7}{row['what']}  {figures(row)}"


def figures(row: Record) -> str:
    """What a row has found, in words."""
    if "failed" in row:
        return row["failed"]
    if "error" in row:
        return f"{row['error']:.1e}, allowed {row['allowed']:.1e}"
    if "ceilings" in row:
        found = row["ceilings"]
        products = ", ".join(f"{found[name] / 1e12:.3g} TFLOP/s in {name}" for name in ("float32", "bfloat16"))
        return f"a copy moves {found['copy'] / 1e9:.4g} GB/s, a matrix product reaches {products}"
    if "ratio" in row:
        scale, unit = (1e3, "ms") if row["unit"] == "s" else (2**-20, "MiB")
        text = f"{row['ours'] * scale:.3f} {unit} against {row['other'] * scale:.3f}, ratio {row['ratio']:.3f}"
        if "flops" in row:
            text += f"; {row['flops'] / row['ours'] / 1e12:.3g} TFLOP/s, {row['bytes'] / row['ours'] / 1e9:.4g} GB/s"
        return text
    return ""


def table(record: Record) -> str:
    """What every step has found."""
    rows: list[list[str]] = []
    for name, step in record["steps"].items():
        if step.get("left_out"):
            rows.append([name, f"left out: {step['left_out']}", "", ""])
        rows += [[name, row["what"], figures(row), "ok" if row["ok"] else "FAILED"] for row in step["rows"]]
    return runs.markdown(["step", "what", "found", ""], rows)


def short(what: str) -> str:
    """What a row of figures is about, in few words."""
    first, *_, last = what.split(", ")
    return what if what.startswith("attention") else f"{first}, {last}"


def plot(record: Record, path: Path) -> None:
    """Time of the memory and of each attention, as a part of what it is measured against."""
    timed = [row for step in record["steps"].values() for row in step["rows"] if row.get("unit") == "s"]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.3 * len(timed)))
    axes.barh(range(len(timed)), [row["ratio"] for row in timed], color="tab:blue")
    axes.axvline(1, color="black")
    axes.set_yticks(range(len(timed)), [short(row["what"]) for row in timed], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time, in parts of what it is measured against")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
