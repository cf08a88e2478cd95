"""BLEU of the models that recipes/multi30k trains, with what the searches have found: a table, and DIR/results.json.

Mean and standard deviation are over seeds. results.json also has the weights of all operations over each search.
"""

import argparse
import json
from pathlib import Path

from recipes import runs, train
from recipes.multi30k import course
from recipes.multi30k.plot_search import OPERATIONS
from recipes.multi30k.rows import FOUND, ROWS, SEARCH
from recipes.runs import Record


def collect(root: Path, split: str, beam: int, command: str) -> Record:
    """All runs under ``root``, the folder of run.sh, of which ``split`` was scored, and the searches."""
    found = []
    for folder, run in runs.scored_runs(root, split=split):
        file = root / f"{folder.name}.json"
        found.append(run | {"architecture": json.loads(file.read_text()) if file.exists() else None})
    found.sort(key=lambda run: (list(ROWS).index(run["memory"]), run["seed"]))
    command = runs.full_command(command, found, "model")
    for folder in sorted(root.glob(f"{SEARCH}-seed*")) if found else []:
        if (folder / train.DONE).exists():
            search = {"memory": SEARCH, "seed": int(folder.name.partition("-seed")[2])} | runs.training(folder)
            log = (folder / train.LOG).read_text(encoding="utf-8")
            found.append(search | {"valid": None, "test": None, "course": course.read(log)})
    return {"kind": "translation", "command": command, "beam": beam, "operations": OPERATIONS, "runs": found}


def table(results: Record) -> str:
    """Sizes, time and BLEU of each model, and the architectures that were found."""
    splits = [name for name in ("valid", "test") if any(run[name] for run in results["runs"])]
    rows = []
    for (model,), seeds in runs.grouped(results["runs"], "memory").items():
        row = [model, counts(seeds), str(len(seeds)), f"{seeds[0]['updates']:,}", runs.duration(seeds)]
        for split in splits:
            scored = [run[split]["bleu"] for run in seeds if run[split]]
            row.append(runs.spread(scored) if scored else "")
        rows.append(row)
    header = ["model", "parameters", "seeds", "updates", "training", *(f"BLEU, {split}" for split in splits)]
    score = next(run[split] for run in results["runs"] for split in splits if run[split])
    lines = [
        f"BLEU of detokenised text, beam search of {results['beam']}; sacrebleu: `{score['bleu_signature']}`. "
        "Found by each search, a layer between semicolons:"
    ]
    for run in results["runs"]:
        if run["memory"] == FOUND:
            sides = (f"{side} {shown(layers)}" for side, layers in run["architecture"].items())
            lines.append(f"- seed {run['seed']}: {', '.join(sides)}")
    return "\n\n".join((runs.markdown(header, rows), lines[0], "\n".join(lines[1:])))


def counts(seeds: list[Record]) -> str:
    """Numbers of parameters, from the least to the most."""
    least, most = (of(run["parameters"] for run in seeds) for of in (min, max))
    return f"{least:,}" if least == most else f"{least:,}–{most:,}"


def shown(layers: list[list[str]]) -> str:
    return "(" + "; ".join(" + ".join(layer) for layer in layers) + ")"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--split", required=True, choices=["valid", "test"], help="that must have been scored")
    parser.add_argument("--beam", type=int, required=True, help="of the translations")
    parser.add_argument("--command", required=True, help="what made it")
    args = parser.parse_args()
    runs.show_and_keep(args.dir, collect(args.dir, args.split, args.beam, args.command), table)


if __name__ == "__main__":
    main()
