"""The course of a search: the weights of all operations over time, read of its log and drawn."""

import json
import re
from typing import Any

from recipes.multi30k.rows import SEARCH
from recipes.runs import Record, grouped

SIDES = ("encoder", "decoder")
POINTS = 60  # that are kept, and more than that are not seen in a plot


def read(log: str) -> Record:
    """Of ``alpha | {…}`` in a log: the updates, and by side the weights by update, layer, node and operation.

    Updates that were lost when a search was stopped are logged twice: the later ones count.
    """
    points = {point["num_updates"]: point for point in map(json.loads, re.findall(r"alpha \| (\{.*\})$", log, re.M))}
    updates = sorted(points)
    updates = updates[len(updates) - 1 :: -max(1, len(updates) // POINTS)][::-1]  # with the last
    return {"update": updates} | {side: [points[update][side] for update in updates] for side in SIDES}


def draw(results: Record, figure: Any) -> None:
    """A row of plots per search and a column per node, with a line per operation."""
    from matplotlib import colormaps

    searches = grouped(results["runs"], "memory")[(SEARCH,)]
    names = results["operations"]
    colors = dict(zip(names["decoder"], colormaps["tab20"].colors))
    layers, nodes = (
        len(part) for part in (searches[0]["course"]["encoder"][0], searches[0]["course"]["encoder"][0][0])
    )
    columns = [(side, layer, node) for side in SIDES for layer in range(layers) for node in range(nodes)]
    figure.set_size_inches(1.6 * len(columns) + 1, 1.7 * len(searches) + 1.2)
    grid = figure.subplots(len(searches), len(columns), sharex=True, sharey=True, squeeze=False)
    for row, search in zip(grid, searches):
        for axes, (side, layer, node) in zip(row, columns):
            for k, name in enumerate(names[side]):
                weights = [point[layer][node][k] for point in search["course"][side]]
                axes.plot(search["course"]["update"], weights, color=colors[name], label=name, linewidth=1)
            axes.grid(alpha=0.2)
            axes.tick_params(labelsize=6)
        row[0].set_ylabel(f"weight, seed {search['seed']}", fontsize=8)
    for axes, (side, layer, node) in zip(grid[0], columns):
        axes.set_title(f"{side}, layer {layer}, node {node}", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("updates", fontsize=7)
    lines, labels = grid[0][-1].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=7, fontsize=7)
