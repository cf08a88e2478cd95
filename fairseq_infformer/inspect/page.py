"""One HTML page that shows an observation; it needs neither network nor scripts."""

import html
import textwrap
from collections.abc import Callable, Iterator

import torch

from .drawing import COLOURS, Axis, Plot
from .observation import LineObserver, Observation, SlotObserver
from .summaries import by_columns, looks_over_time, perplexities, rebuilt_by_age

MOST_SLOTS = 32
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
figure { margin: 1em 0; display: inline-block; vertical-align: top; max-width: 100% }
figcaption { max-width: 460px; font-size: 13px; color: #444 }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px 2px 0; text-align: left; vertical-align: top }
svg { max-width: 100%; height: auto }
"""

# The text of the vectors from one number to another that a layer has written.
Text = Callable[[int, int], str]


def page(observation: Observation, title: str, facts: dict[str, str], text: Text, first: int = 0) -> str:
    """The page.

    Args:
        facts: what is said of model and text, by name. text: of words by the numbers of their vectors.
        first: how many tokens of the text come before the first that was written.
    """
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"/><title>{html.escape(title)}</title>',
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        _table([], [[html.escape(name), html.escape(value)] for name, value in facts.items()]),
        "<h2>What the memories are worth</h2>",
        _perplexity(observation),
    ]
    for number, observer in observation.layers.items():
        parts.append(f"<h2>Layer {number}</h2>")
        parts += _line(observer, text, first) if isinstance(observer, LineObserver) else _slots(observer, text, first)
    return "\n".join([*parts, "</body></html>", ""])


def _perplexity(observation: Observation) -> str:
    with_memory, without = observation.losses, observation.losses_without
    middles, values = perplexities(with_memory)
    _, others = perplexities(without)
    high = 1.3 * max(*values, *others)  # with room for the legend
    plot = Plot(
        "Perplexity by position",
        Axis("position in the text (tokens)", 0, len(with_memory)),
        Axis("perplexity per token", 0, high),
        width=940,
    )
    plot.line(middles, others, "nothing is read of the memories", COLOURS[1])
    plot.line(middles, values, "with the memories", COLOURS[0])
    whole = [f"{perplexities(losses, 1)[1][0]:,.2f}" for losses in (with_memory, without)]
    return _figure(
        plot,
        f"Where the blue line is below the orange one, the model uses what it read long ago; over the whole text "
        f"{whole[0]} with the memories, and {whole[1]} if nothing is read of them.",
    )


def _line(observer: LineObserver, text: Text, first: int) -> Iterator[str]:
    looks = looks_over_time(observer)
    yield "<p>At the end of the text, half of what each head looks at lies between these words:</p>"
    rows = []
    for head, (low, _, high) in enumerate(looks.words[-1].tolist()):
        outside = max(0.0, 1 - float(looks.share[-1, head].sum()))
        words = html.escape(text(low, high))
        rows.append([str(head), f"{low + first:,} to {high + first:,}", f"{100 * outside:.1f} %", words])
    yield _table(["head", "words", "outside the line", "text"], rows)

    times, tokens = looks.start.tolist(), observer.tokens
    if len(times) == 1:  # a line needs two points
        times, looks = [times[0], tokens], looks._replace(words=looks.words.repeat(2, 1, 1))
    time = Axis("position in the text (tokens)", 0, tokens)
    darkest = max(float(looks.share.max()), 1e-9)
    for head in range(looks.share.shape[1]):
        where = Plot(f"Head {head} on the line", time._replace(low=float(times[0])), Axis("position on the line", 0, 1))
        where.picture((looks.share[:, head] / darkest).sqrt().T)
        yield _figure(
            where,
            "Each column is a read, and dark is where the head looks: 0 is what was written first, 1 what was written "
            f"last. The darkest is {100 * darkest:.0f} % in 1/{looks.share.shape[2]} of the line, by the square root.",
        )
        words = Plot(f"Head {head} in words", time, Axis("words looked at (number)", 0, tokens))
        low, middle, high = (looks.words[:, head] + first).unbind(-1)
        words.line([0, tokens], [0, tokens], "what is read now", "#999")
        words.band(times, low.tolist(), high.tolist())
        words.line(times, middle.tolist(), "middle of what the head looks at")
        yield _figure(words, "Half of what the head looks at is in the band; the lower, the longer ago it was read.")

    held = Plot("What the line holds", Axis("position on the line", 0, 1), Axis("word (number)", 0, tokens))
    edges = observer.line.edges
    few = torch.linspace(0, len(edges) - 1, min(len(edges), 400)).round().long()
    held.line(edges[few].tolist(), (few + first).tolist())
    yield _figure(
        held,
        "The word at each position after the last update: where the curve is flat, words have much room on the line, "
        "and where it is steep, many share little.",
    )
    ages, values = rebuilt_by_age(observer, first)
    rebuilt = Plot(
        "What can be rebuilt", Axis("age (tokens before the end)", 0, tokens), Axis("R² of the hidden states", 0, 1)
    )
    rebuilt.line(ages, values)
    yield _figure(
        rebuilt,
        "The share of the variance of the layer's past that the memory still holds, by age: 1 is all, 0 no more than "
        f"the mean (what is below 0 is drawn as 0). Youngest {values[0]:.2f}, oldest {values[-1]:.2f}.",
    )


def _slots(observer: SlotObserver, text: Text, first: int) -> Iterator[str]:
    weights = observer.weights(MOST_SLOTS)
    count, written = weights.shape
    if not count:
        yield "<p>What was written waits for more, which then becomes a slot: there are none to show.</p>"
        return
    columns = by_columns(weights)
    plot = Plot(
        "What is in each slot",
        Axis("word (number)", first, written + first),
        Axis("slot (number)", 0, count),
        width=940,
    )
    plot.picture((columns / columns.max().clamp_min(1e-9)).sqrt())
    yield _figure(
        plot,
        "Dark is a word that weighs much in a slot: how far the slot would change with the word's vector, over the sum "
        "of that of all words, by the square root.",
    )
    rows = []
    for slot, row in enumerate(weights):
        heaviest = row.topk(min(8, written)).indices.sort().values.tolist()
        words = ", ".join(
            f"{index + first:,} {text(index, index)!r} ({100 * float(row[index]):.0f} %)" for index in heaviest
        )
        rows.append([str(slot), html.escape(words)])
    yield _table(["slot", "its heaviest words"], rows)


def _figure(plot: Plot, sentence: str) -> str:
    return f"<figure>{plot.svg()}<figcaption>{html.escape(sentence)}</figcaption></figure>"


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML."""
    lines = ["<table>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])


def excerpt(text: str, width: int = 90) -> str:
    """A text in one line, its middle left out if it is long."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    begin = textwrap.shorten(text, width // 2, placeholder="") or text[: width // 2]
    end = textwrap.shorten(text[::-1], width // 2, placeholder="")[::-1] or text[-width // 2 :]
    return f"{begin} … {end}"
