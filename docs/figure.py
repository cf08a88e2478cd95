"""Draw docs/figure.svg, the idea in one picture: python -m docs.figure [FILE] (matplotlib: pip install '.[plot]').

What is drawn is computed: a memory of 32 basis functions that has read one text and then a second one.
"""

import math
import sys
from pathlib import Path

import torch
from matplotlib import pyplot
from matplotlib.patches import ConnectionPatch

from fairseq_infformer.modules import ContinuousMemory, GaussianBasis

TAU = 0.6
MEAN, SIGMA = 0.33, 0.05
# Colours that can be read on white and on black.
BELOW = -2.1  # the line of the tick labels
OLD, NEW, DENSITY, GREY = "#3b82f6", "#e8792b", "#22a06b", "#7d8590"


def main() -> None:
    pyplot.rcParams.update({"svg.hashsalt": "figure", "font.size": 11, "mathtext.fontset": "cm"})
    basis = GaussianBasis(32, widths=(0.03,))
    memory = ContinuousMemory(basis, samples=256, contraction="fixed", tau=TAU, ridge=1e-3)
    age = torch.linspace(0, 1, 40)
    old = torch.sin(7 * age + 0.4) * 0.7 + torch.sin(17 * age) * 0.35
    new = torch.sin(9 * age + 4.2) * 0.6 + 0.25 * torch.cos(21 * age)
    before = memory.write(memory.initial_state(1, 1), old[None, :, None])
    after = memory.write(before, new[None, :, None])

    t = torch.linspace(0, 1, 400)
    signals = [(basis.evaluate(t) @ state.coefficients[0])[:, 0] for state in (before, after)]
    figure, rows = pyplot.subplots(3, 1, figsize=(8.4, 4.8), gridspec_kw={"hspace": 0.62})
    for axes, title in zip(rows, ("memory before", "update", "read")):
        axes.set(xlim=(-0.005, 1.005), ylim=(-1.35, 1.35), yticks=[])
        axes.set_ylabel(title, color=GREY, rotation=0, ha="right", va="center", labelpad=12)
        axes.tick_params(colors=GREY, length=3)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(GREY)
    rows[0].set_xticks([0, 1], ["0", "1"])
    for axes in rows[1:]:
        axes.set_xticks([0, TAU, 1], ["0", "τ", "1"])
        axes.plot(t[t <= TAU], signals[1][t <= TAU], color=OLD, linewidth=2)
        axes.plot(t[t > TAU], signals[1][t > TAU], color=NEW, linewidth=2)
        axes.axvline(TAU, ymax=0.8, color=GREY, linewidth=0.8, linestyle=":")
    rows[0].plot(t, signals[0], color=OLD, linewidth=2)
    positions = TAU + (1 - TAU) * (torch.arange(len(new)) + 0.5) / len(new)
    rows[1].plot(positions[::2], new[::2], "o", color=NEW, markersize=3.5, alpha=0.8)
    for start, stop in ((0, 0), (1, TAU)):
        arrow = {"coordsA": "data", "coordsB": "data", "axesA": rows[0], "axesB": rows[1]}
        line = ConnectionPatch((start, -2.2), (stop, 1.2), **arrow, arrowstyle="-|>", color=GREY, linewidth=0.9)
        line.set_annotation_clip(False)
        figure.add_artist(line)
    rows[1].text(TAU / 2, BELOW, "the old function, squeezed to [0, τ]", color=OLD, ha="center")
    rows[1].text((1 + TAU) / 2, BELOW, "new text, fitted to (τ, 1]", color=NEW, ha="center")
    density = torch.exp(-0.5 * ((t - MEAN) / SIGMA) ** 2) / (SIGMA * math.sqrt(2 * math.pi))
    rows[2].fill_between(t, -1.35, -1.35 + density / density.max() * 2.2, color=DENSITY, alpha=0.3, linewidth=0)
    label = r"a query's density $p(t)$: it reads $z = E_{t \sim p}\,[\bar{x}(t)]$"
    rows[2].text(MEAN + 1.4 * SIGMA, 1.05, label, color=DENSITY)
    file = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().with_name("figure.svg")
    options = {"metadata": {"Date": None}} if str(file).endswith(".svg") else {"dpi": 110}
    figure.savefig(file, transparent=True, bbox_inches="tight", **options)


if __name__ == "__main__":
    main()
