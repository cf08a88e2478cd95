"""The perplexities of the models of a language-model recipe, such as recipes/wikitext2: a table, and DIR/results.json.

Perplexity is per word (a word is what stands between spaces, and each line's end counts as one), so that vocabularies
can be compared; where tokens are not words it is given per token too. The memory is also scored zeroed, and swapped
between streams: what that costs is what the model has learned to use. Mean and standard deviation are over seeds;
results.json has each run and its training curve.
"""

import argparse
import math
from pathlib import Path

from recipes import headroom, runs
from recipes.memories import LONG, MEMORIES, SHORT
from recipes.runs import Record

ABLATIONS = {"zero": "zeroed", "swap": "swapped"}


def collect(root: Path, corpus: str, command: str) -> Record:
    """All that was scored under ``root``, the folder of run.sh: MEMORY-seedN."""
    last = "test" if any(root.glob("*-seed*/test.json")) else "valid"  # a corpus may have no test split
    found = []
    for folder, run in runs.scored_runs(root, split=last):
        found.append(run | {name: runs.score(folder, f"{last}-{name}") for name in ABLATIONS})
    found.sort(key=lambda run: (run["memory"], run["seed"]))
    names = dict.fromkeys(run["memory"] for run in found)
    memories = [name for name in names if not MEMORIES[name].is_none]
    ends = {"corpus": corpus, "split": last, "short": SHORT, "memories": memories, "long": LONG}
    command = runs.full_command(command, found)
    return {"kind": "language-model", "command": command, "ablated": last, "headroom": ends, "runs": found}


def table(results: Record) -> str:
    """Sizes, time and perplexities of each memory, the worst first."""
    last = results["ablated"]
    splits = ["valid", "test"] if last == "test" else ["valid"]
    words = all(run[last]["words"] == run[last]["tokens"] for run in results["runs"])
    columns = [(split, unit) for unit in (["word"] if words else ["word", "token"]) for split in splits]
    columns += [(name, "word") for name in ABLATIONS]
    shares = {one.memory: one for one in headroom.of(results)}
    rows = []
    for (memory,), seeds in runs.grouped(results["runs"], "memory").items():
        row = [memory, f"{seeds[0]['parameters']:,}", str(len(seeds)), f"{seeds[0]['updates']:,}", runs.duration(seeds)]
        row += [" + ".join(f"{seeds[0][split]['tokens']:,}" for split in splits)]
        row += [_perplexity([run[name] for run in seeds], unit) for name, unit in columns]
        if shares:
            row += headroom.cells(shares[memory])[:1] if memory in shares else [""]
        scores = [run[last]["perplexity_per_word"] for run in seeds]
        rows.append((-math.inf if None in scores else -runs.mean(scores), row))
    header = ["memory", "parameters", "seeds", "updates", "training", "tokens scored"]
    header += [ABLATIONS.get(name, name) + ("" if words else f", per {unit}") for name, unit in columns]
    header += headroom.COLUMNS[:1] if shares else []
    unit = " per word" if words else ""
    return runs.markdown(header, [row for _, row in sorted(rows)]) + (
        f"\n\nPerplexity{unit}; zeroed and swapped: of the {last} split, with nothing read from the memory, and "
        "with that of another stream read."
    )


def headlines(results: Record) -> list[runs.Headline]:
    """The perplexity of the last split."""
    last = results["ablated"]
    by_memory = runs.grouped(results["runs"], "memory").items()
    values = {memory: [run[last]["perplexity_per_word"] for run in seeds] for (memory,), seeds in by_memory}
    known = {memory: scores for memory, scores in values.items() if None not in scores}
    return [runs.Headline(f"perplexity per word, {last} split", known, min)]


def _perplexity(scores: list[Record | None], unit: str) -> str:
    if not all(scores):
        return ""
    values = [score[f"perplexity_per_{unit}"] for score in scores]
    return "∞" if None in values else runs.spread(values, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path, help="the folder of run.sh, --dir")
    parser.add_argument("--corpus", required=True, help="what was read, as tables name it")
    parser.add_argument("--command", required=True, help="what made it")
    args = parser.parse_args()
    runs.show_and_keep(args.dir, collect(args.dir, args.corpus, args.command), table)


if __name__ == "__main__":
    main()
