"""Plots of recipes/digits_speech: quality over latency, and what an encoder's segment costs."""

from typing import Any

import numpy as np

from recipes.digits_speech.rows import ROWS
from recipes.digits_speech.summary import NAMES, conditions, encoders, scored
from recipes.runs import Record

MARKERS = "os^vD"


def quality_over_latency(results: Record, figure: Any) -> None:
    """Word accuracy over AL, and over AL with the time that computation takes: a point per k and stream."""
    streams, waits = conditions(results)
    figure.set_size_inches(10, 4.5)
    both = figure.subplots(1, 2, sharey=True)
    for axes, measure in zip(both, ("AL", "AL_CA")):
        for encoder in encoders(results):
            for stream, marker in zip(streams, MARKERS):
                points = []
                for k in waits:
                    scores = [score for score in scored(results, encoder, stream, k) if measure in score]
                    if scores:
                        x, y = (np.mean([score[name] for score in scores]) for name in (measure, "word accuracy"))
                        points.append((x, y))
                        axes.annotate(NAMES.get(k, k), (x, y), fontsize=6)
                if points:
                    row = ROWS[encoder]
                    style = {"color": row.color, "linestyle": row.line, "marker": marker, "markersize": 4}
                    axes.plot(*zip(*points), label=f"{row.label}, {stream}", **style)
        axes.set(xlabel=f"{measure} in ms")
        axes.grid(alpha=0.2)
    both[0].set_ylabel("word accuracy")
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)


def has_costs(results: Record) -> bool:
    """Whether an encoder was timed."""
    return any(run["cost"] for run in results["runs"])


def time_by_heard(results: Record, axes: Any) -> None:
    """An encoder's time per segment, by how long it has heard."""
    for encoder, seeds in encoders(results).items():
        known = [run["cost"] for run in seeds if run["cost"]]
        if known:
            row = ROWS[encoder]
            times = np.mean([cost["milliseconds"] for cost in known], axis=0)
            axes.plot(known[0]["heard"], times, label=row.label, color=row.color, linestyle=row.line, marker="o")
    axes.set(xlabel="seconds heard", ylabel="ms per segment", xscale="log", yscale="log")
