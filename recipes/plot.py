"""Plots of what the recipes left in results.json, or of what recipes/results/ keeps of it.

  python -m recipes.plot FILE... [--out DIR]

Training curves; accuracy by length (sorting), accuracy by distance (recall), the gain of a memory by the position in a
document (pretrained), the cost of a token against the tokens read (recipes.benchmarks.cost), the weights of operations
in searches (multi30k), quality over latency and time per segment (digits_speech). Lines are means over seeds, bands and
bars their standard deviation. Needs matplotlib: pip install '.[plot]'.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recipes.digits_speech import plots as speech
from recipes.memories import MEMORIES
from recipes.multi30k import course
from recipes.multi30k.rows import SEARCH
from recipes.pretrained.rows import LONG, ROWS, SHORT
from recipes.runs import Record, grouped, share_right

AVERAGED = 5  # points of a training curve


def look(memory: str) -> dict[str, Any]:
    row = (MEMORIES | ROWS)[memory]
    return {"label": row.label, "color": row.color, "linestyle": row.line}


def memories(runs: list[Record]) -> list[tuple[str, list[Record]]]:
    """The runs of each memory, in the order of ``MEMORIES``."""
    groups = grouped(runs, "memory")
    return [(memory, groups[(memory,)]) for memory in MEMORIES if (memory,) in groups]


def mean_and_deviation(values: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Over the first dimension; no deviation of a single one."""
    array = np.array(values, dtype=float)
    return array.mean(0), array.std(0, ddof=1) if len(array) > 1 else np.zeros(array.shape[1])


def logged(results: Record) -> bool:
    """Whether every training was long enough to have been logged."""
    return all(run["curve"]["update"] for run in results["runs"])


def has(results: Record, memory: str) -> bool:
    """Whether there is a run with a memory."""
    return any(run["memory"] == memory for run in results["runs"])


def one_length(results: Record) -> bool:
    """Whether all sequences are equally long."""
    return len({run["length"] for run in results["runs"]}) == 1


def curves(results: Record, axes: Any) -> None:
    """What was logged in training, averaged over a few points: accuracy where there is one, else perplexity."""
    name = "accuracy" if "accuracy" in results["runs"][0]["curve"] else "nll_loss"
    for memory, seeds in memories(results["runs"]):
        points = min(len(run["curve"]["update"]) for run in seeds)
        window = min(AVERAGED, points)
        kernel = np.ones(window) / window
        smooth = [np.convolve(np.array(run["curve"][name][:points], dtype=float), kernel, "valid") for run in seeds]
        smooth = smooth if name == "accuracy" else [2**values for values in smooth]
        updates = np.array(seeds[0]["curve"]["update"])[window - 1 : points]
        line, deviation = mean_and_deviation(smooth)
        axes.plot(updates, line, **look(memory))
        axes.fill_between(
            updates, line - deviation, line + deviation, color=MEMORIES[memory].color, alpha=0.15, linewidth=0
        )
    axes.set(xlabel="updates", ylabel="accuracy in training, %" if name == "accuracy" else "perplexity in training")
    if name == "nll_loss":
        axes.set_yscale("log")


def accuracy_by_length(results: Record, axes: Any) -> None:
    lengths = sorted({run["length"] for run in results["runs"]})
    for memory, runs in memories(results["runs"]):
        by_length = grouped(runs, "length")
        found = [length for length in lengths if (length,) in by_length]
        accuracy = [[[100 * run["test"]["accuracy"]] for run in by_length[(length,)]] for length in found]
        line, deviation = np.array([mean_and_deviation(values) for values in accuracy])[:, :, 0].T
        axes.errorbar(found, line, deviation, marker="o", capsize=3, **look(memory))
    axes.axhline(100 * results["guessing"], color="grey", linewidth=0.8, linestyle=":", label="guess")
    axes.set(xlabel="symbols per sequence", ylabel="correct symbols, %", xscale="log", ylim=(0, 100))
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()


def accuracy_by_distance(results: Record, axes: Any) -> None:
    distances = results["distances"]
    for memory, seeds in memories(results["runs"]):
        shares = [100 * share_right(run, results["split"]) for run in seeds]
        line, deviation = mean_and_deviation(shares)
        axes.errorbar(distances, line, deviation, marker="o", capsize=3, **look(memory))
    for (label, level), style in zip(results["levels"].items(), (":", "-.")):
        axes.axhline(100 * level, color="grey", linestyle=style, linewidth=1, label=label)
    if distances[0] <= results["context"] <= distances[-1]:
        axes.axvline(results["context"], color="grey", linewidth=1, label="end of what attention sees")
    axes.set(xlabel="distance in words", ylabel="correct answers, %", xscale="log", ylim=(0, 102))
    axes.set_xticks(distances, [f"{distance:,}" for distance in distances], rotation=30)
    axes.minorticks_off()


def cost_by_tokens(results: Record, axes: Any) -> None:
    for run in results["runs"]:
        memory = MEMORIES.get(run["memory"])
        label, color = (memory.label, memory.color) if memory else ("attention to all that was read", "#6b7280")
        axes.plot(run["tokens"], [1e6 * value for value in run["seconds_a_token"]], label=label, color=color)
    axes.set(xlabel="tokens read", ylabel="µs per token", xscale="log", yscale="log")


def gain_by_position(results: Record, axes: Any) -> None:
    """How much lower the loss is than that of the short window, by the position in the document."""
    groups = grouped(results["runs"], "segment", "memory")
    segments = sorted({segment for segment, memory in groups if memory == SHORT})
    for segment, marker in zip(segments, "os^v"):
        short = np.mean([run["by_position"]["loss"] for run in groups[segment, SHORT]], axis=0)
        for memory in ROWS:
            seeds = groups.get((segment, memory)) or (groups.get((None, memory)) if memory == LONG else None)
            if memory == SHORT or not seeds:
                continue
            line, deviation = mean_and_deviation([short - run["by_position"]["loss"] for run in seeds])
            style = look(memory) | {"label": f"{look(memory)['label']}, segments of {segment}"}
            axes.errorbar(seeds[0]["by_position"]["bounds"][1:], line, deviation, marker=marker, capsize=3, **style)
    axes.axhline(0, color="grey", linewidth=1)
    axes.set(xlabel="tokens of the document, up to", ylabel="gain over the short window, nats per token", xscale="log")


def single(plot: Callable[[Record, Any], None]) -> Callable[[Record, Any], None]:
    """A figure with one pair of axes, on which ``plot`` draws."""

    def draw(results: Record, figure: Any) -> None:
        axes = figure.subplots()
        plot(results, axes)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.2)

    return draw


# For each kind of results: the file's name, what it needs, and what draws it on a figure.
Plot = tuple[str, Callable[[Record], bool], Callable[[Record, Any], None]]
PLOTS: dict[str, list[Plot]] = {
    "sorting": [
        ("by-length", lambda results: not one_length(results), single(accuracy_by_length)),
        ("curves", lambda results: one_length(results) and logged(results), single(curves)),
    ],
    "recall": [("by-distance", lambda results: True, single(accuracy_by_distance)), ("curves", logged, single(curves))],
    "language-model": [("curves", logged, single(curves))],
    "pretrained": [("by-position", lambda results: has(results, SHORT), single(gain_by_position))],
    "translation": [("weights", lambda results: has(results, SEARCH), course.draw)],
    "speech-translation": [
        ("quality", lambda results: True, speech.quality_over_latency),
        ("time", speech.has_costs, single(speech.time_by_heard)),
    ],
    "cost": [("by-tokens", lambda results: True, single(cost_by_tokens))],
}


def draw(results: Record, prefix: str, out: Path) -> list[Path]:
    """Draw all plots of some results into a folder; their names start with ``prefix``."""
    # A module of fairseq lets every logger print all it has: here the fonts that were considered.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    for name, has_what_it_takes, plot in PLOTS.get(results["kind"], []):
        if not has_what_it_takes(results):
            continue
        figure = pyplot.figure(figsize=(7, 4), layout="constrained")
        plot(results, figure)
        drawn.append(out / f"{prefix}{name}.png")
        # Without the version of matplotlib, the same figures make the same file.
        figure.savefig(drawn[-1], dpi=120, metadata={"Software": None})
        pyplot.close(figure)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="results.json, or one of recipes/results")
    parser.add_argument("--out", type=Path, help="folder for the plots (default: the file's)")
    args = parser.parse_args()
    for file in args.files:
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {file} holds no results: {error}")
        out = args.out or file.parent
        out.mkdir(parents=True, exist_ok=True)
        for drawn in draw(results, "" if file.stem == "results" else f"{file.stem}-", out):
            print(f"wrote {drawn}", file=sys.stderr)


if __name__ == "__main__":
    main()
