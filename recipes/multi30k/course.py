"""The course of a search: the weights of all operations over time, read of its log and drawn."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from recipes.multi30k.rows import SEARCH
from recipes.runs import Record

SIDES = ("encoder", "decoder")
POINTS = 60  # that are kept, and more than that are not seen in a plot


def read(log: str) -> Record:
    """Of ``alpha | {…}`` in a log: the updates, and by side the weights by update, layer, node and operation.

    Updates that were lost when a search was stopped are logged twice: the later ones count.
    """
    points = {point["num_updates"]: point for point in map(json.loads, re.findall(r"alpha \| (\{.*\})$", log, re.M))}
    updates = sorted(points)
    updates = updates[:: -max(1, len(updates) // POINTS)][::-1]  # with the last
    return {"update": updates} | {side: [points[update][side] for update in updates] for side in SIDES}


def draw(results: Record, figure: Any) -> None:
    """A row of plots per search and a column per node, with a line per operation."""
    searches = {f"weight, seed {run['seed']}": run["course"] for run in results["runs"] if run["memory"] == SEARCH}
    draw_courses(searches, results["operations"], figure)


def draw_courses(searches: Mapping[str, Record], names: Mapping[str, Sequence[str]], figure: Any) -> None:
    """The same for courses by label.

    Args:
        names: of the operations, by side.
    """
    from matplotlib import colormaps

    colors = dict(zip(dict.fromkeys(name for side in names for name in names[side]), cycle(colormaps["tab20"].colors)))
    first = next(iter(searches.values()))
    nodes = {side: [range(len(layer)) for layer in first[side][0]] for side in names}
    columns = [(side, k, node) for side, layers in nodes.items() for k, layer in enumerate(layers) for node in layer]
    figure.set_size_inches(1.6 * len(columns) + 1, 1.7 * len(searches) + 1.2)
    grid = figure.subplots(len(searches), len(columns), sharex=True, sharey=True, squeeze=False)
    lines = {}
    for row, (label, course) in zip(grid, searches.items()):
        for axes, (side, layer, node) in zip(row, columns):
            for k, name in enumerate(names[side]):
                weights = [point[layer][node][k] for point in course[side]]
                (lines[name],) = axes.plot(course["update"], weights, color=colors[name], linewidth=1)
            axes.grid(alpha=0.2)
            axes.tick_params(labelsize=6)
        row[0].set_ylabel(label, fontsize=8)
    for axes, (side, layer, node) in zip(grid[0], columns):
        axes.set_title(f"{side}, layer {layer}, node {node}", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("updates", fontsize=7)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, fontsize=7)
