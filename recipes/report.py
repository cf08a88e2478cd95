"""Rewrite the tables of recipes/RESULTS.md, and the plots beside it, from the logs that recipes/results/ keeps.

  python recipes/report.py [--check]

A table stands between <!-- NAME --> and <!-- end of NAME -->, and is made of recipes/results/NAME.json: the
results.json that a recipe left, or the JSON of a benchmark, copied there. --check changes nothing, and fails if a
table is not what its log gives.
"""

import argparse
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent / "benchmarks"))

import plot
import runs
from runs import Record

RECIPES = Path(__file__).resolve().parent
RESULTS = RECIPES / "RESULTS.md"
# What makes the table of each kind of results.
TABLES = {
    "sorting": "sorting/summary.py",
    "recall": "recall/summary.py",
    "language-model": "language_models.py",
    "retention": "benchmarks/retention.py",
    "memory": "benchmarks/memory.py",
    "cost": "benchmarks/cost.py",
    "gpu": "gpu/check.py",
}
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end of (?P=name) -->", re.DOTALL)


def module(path: Path) -> ModuleType:
    """A script, imported under a name of its own: several are called summary.py."""
    spec = importlib.util.spec_from_file_location("_".join(path.relative_to(RECIPES).with_suffix("").parts), path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def section(name: str, results: Record) -> str:
    """The table of some results and where they come from, between the marks."""
    table = module(RECIPES / TABLES[results["kind"]]).table(results)
    source = f"{runs.provenance(results)} Log: [{name}.json](results/{name}.json)."
    return f"<!-- {name} -->\n{table}\n\n{source}\n<!-- end of {name} -->"


def report(text: str, kept: Path) -> str:
    """``text`` with each marked table made anew of the logs in a folder."""

    def made(found: re.Match) -> str:
        file = kept / f"{found['name']}.json"
        if not file.exists():
            sys.exit(f"error: RESULTS.md has a table {found['name']}, but there is no {file}")
        return section(found["name"], json.loads(file.read_text(encoding="utf-8")))

    return MARKED.sub(made, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    args = parser.parse_args()
    kept = RECIPES / "results"
    before = RESULTS.read_text(encoding="utf-8")
    after = report(before, kept)
    if args.check:
        sys.exit(f"error: {RESULTS.name} differs from its logs; run recipes/report.py" if after != before else 0)
    RESULTS.write_text(after, encoding="utf-8")
    for file in sorted(kept.glob("*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["kind"] in plot.PLOTS:
            plot.draw(results, f"{file.stem}-", kept)
        else:
            module(RECIPES / TABLES[results["kind"]]).plot(results, kept / f"{file.stem}.png")


if __name__ == "__main__":
    main()
