"""Rewrite the tables of recipes/RESULTS.md, and the plots beside it, from the logs that recipes/results/ keeps.

  python -m recipes.report [--check]

A table stands between <!-- NAME --> and <!-- end of NAME -->, and is made of recipes/results/NAME.json: the
results.json that a recipe left, or the JSON of a benchmark, copied there. Those named overview and headroom are made
of all that compare memories. --check changes nothing, and fails if a table is not what its log gives.
"""

import argparse
import json
import re
import sys
from importlib import import_module
from pathlib import Path

from recipes import headroom, plot, runs
from recipes.memories import LONG, MEMORIES

RECIPES = Path(__file__).resolve().parent
RESULTS = RECIPES / "RESULTS.md"
# What makes the table of each kind of results.
TABLES = {
    "sorting": "recipes.sorting.summary",
    "recall": "recipes.recall.summary",
    "language-model": "recipes.language_models.summary",
    "pretrained": "recipes.pretrained.summary",
    "translation": "recipes.multi30k.summary",
    "speech-translation": "recipes.digits_speech.summary",
    "retention": "recipes.benchmarks.retention",
    "memory": "recipes.benchmarks.memory",
    "cost": "recipes.benchmarks.cost",
    "gpu": "recipes.gpu.check",
}
# What older logs say, in today's words; and the baseline has the name of its model, not that of its flag.
WORDING = {
    '"memory": "none"': '"memory": "Transformer-XL"',
    "1 threads a process": "1 thread a process",
    " a process": " per process",
    "values told": "values stated",
    "τ = .": "τ = 0.",
}
OVERVIEW, HEADROOM = "overview", "headroom"  # made of all logs
MARKED = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end of (?P=name) -->", re.DOTALL)


def section(name: str, log: str) -> str:
    """The table of the results in a log and where they come from, between the marks."""
    for old, new in WORDING.items():
        log = log.replace(old, new)
    results = json.loads(log)
    table = import_module(TABLES[results["kind"]]).table(results)
    source = f"{runs.provenance(results)} Log: [{name}.json](results/{name}.json)."
    return f"<!-- {name} -->\n{table}\n\n{source}\n<!-- end of {name} -->"


def overview(kept: Path) -> str:
    """One table of the kept results that compare memories, a column for each memory they have, the best in bold."""
    measured: list[tuple[list[str], dict[str, str]]] = []  # the beginning of a row, and its cells by memory
    for file in sorted(kept.glob("*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        for measure, values, best in getattr(import_module(TABLES[results["kind"]]), "headlines", lambda _: [])(
            results
        ):
            means = {memory: runs.mean(seeds) for memory, seeds in values.items()}
            rivals = [name for name in means if name != LONG]  # that is no memory of fixed size
            winner = best(rivals, key=means.get) if len(rivals) > 1 else None
            cells = {memory: runs.spread(seeds) for memory, seeds in values.items()}
            cells |= {winner: f"**{cells[winner]}**"} if winner else {}
            measured.append(([f"[{file.stem}](results/{file.name})", measure], cells))
    columns = [name for name in MEMORIES if any(name in cells for _, cells in measured)]
    rows = [[*beginning, *(cells.get(name, "") for name in columns)] for beginning, cells in measured]
    table = runs.markdown(["results", "measure", *(MEMORIES[name].label for name in columns)], rows)
    return f"<!-- {OVERVIEW} -->\n{table}\n<!-- end of {OVERVIEW} -->"


def report(text: str, kept: Path) -> str:
    """``text`` with each marked table made anew of the logs in a folder."""

    def made(found: re.Match) -> str:
        if found["name"] == OVERVIEW:
            return overview(kept)
        if found["name"] == HEADROOM:
            logs = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(kept.glob("*.json"))}
            return f"<!-- {HEADROOM} -->\n{headroom.table(logs)}\n<!-- end of {HEADROOM} -->"
        file = kept / f"{found['name']}.json"
        if not file.exists():
            sys.exit(f"error: RESULTS.md has a table {found['name']}, but there is no {file}")
        return section(found["name"], file.read_text(encoding="utf-8"))

    return MARKED.sub(made, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a table is out of date")
    args = parser.parse_args()
    kept = RECIPES / "results"
    before = RESULTS.read_text(encoding="utf-8")
    after = report(before, kept)
    if args.check:
        sys.exit(f"error: {RESULTS.name} differs from its logs; run python -m recipes.report" if after != before else 0)
    RESULTS.write_text(after, encoding="utf-8")
    for file in sorted(kept.glob("*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if results["kind"] in plot.PLOTS:
            plot.draw(results, f"{file.stem}-", kept)
        else:
            import_module(TABLES[results["kind"]]).plot(results, kept / f"{file.stem}.png")


if __name__ == "__main__":
    main()
