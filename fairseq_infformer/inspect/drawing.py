"""Axes with lines, bands and pictures between them, as inline SVG, which needs neither network nor scripts."""

import base64
import html
import math
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COLOURS = ("#1f5fa8", "#c2500a", "#3a7d34", "#7a4da0")
DARK = (16, 52, 104)  # of a picture's largest value; none is white
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 24, 40  # around the axes, for ticks and labels


class Axis(NamedTuple):
    """One of two axes."""

    label: str  # with its unit
    low: float
    high: float


def ticks(axis: Axis, count: int = 4) -> list[float]:
    """Round numbers on an axis, some ``count`` of them."""
    step = 10 ** math.floor(math.log10((axis.high - axis.low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (axis.high - axis.low) / (step * factor) <= count + 1)
    first = math.ceil(axis.low / step - 1e-9)
    return [number * step for number in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def png(values: Tensor) -> bytes:
    """A picture file of values (rows, columns) in [0, 1], from white to dark, the first row on top."""
    rows, columns = values.shape
    colours = 255 - values.clamp(0, 1)[:, :, None] * (255 - torch.tensor(DARK))
    pixels = colours.round().to(torch.uint8)
    # Each row begins with its filter, 0 for none.
    data = torch.cat([torch.zeros(rows, 1, dtype=torch.uint8), pixels.flatten(1)], dim=1).numpy().tobytes()

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)  # 8 bits for each of red, green and blue
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


class Plot:
    """A figure with two axes.

    Args:
        title: stands above. width, height: in pixels, with the labels.
    """

    def __init__(self, title: str, x: Axis, y: Axis, width: int = 460, height: int = 230) -> None:
        self.title, self.x, self.y, self.width, self.height = title, x, y, width, height
        self.inside: list[str] = []
        self.legend: list[str] = []

    def line(self, x: Sequence[float], y: Sequence[float], label: str = "", colour: str = COLOURS[0]) -> None:
        """Draw a line through the points; the label is named in a legend."""
        points = " ".join(f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, y, strict=True))
        self.inside.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if label:
            self.legend.append(_text(LEFT + 8, TOP + 12 + 13 * len(self.legend), label, f'fill="{colour}"'))

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str = COLOURS[0]) -> None:
        """Fill what lies between two lines."""
        there = [f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, low, strict=True)]
        back = [f"{self._x(a):.1f},{self._y(b):.1f}" for a, b in zip(x, high, strict=True)]
        points = " ".join(there + back[::-1])
        self.inside.append(f'<polygon points="{points}" fill="{colour}" fill-opacity="0.3" stroke="none"/>')

    def picture(self, values: Tensor) -> None:
        """Fill the axes with values (rows, columns) in [0, 1], from white to dark, the first row at the bottom."""
        encoded = base64.b64encode(png(values.flip(0))).decode()
        self.inside.append(
            f'<image x="{LEFT}" y="{TOP}" width="{self.width - LEFT - RIGHT}" height="{self.height - TOP - BOTTOM}" '
            f'preserveAspectRatio="none" style="image-rendering: pixelated" href="data:image/png;base64,{encoded}"/>'
        )

    def svg(self) -> str:
        """The figure as an element of a page."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" role="img" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="sans-serif" '
            f'font-size="11" aria-label="{html.escape(self.title)}">',
            _text(LEFT, 15, self.title, 'font-size="13"'),
            *self.inside,
            f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>',
        ]
        for value in ticks(self.x):
            at = self._x(value)
            parts.append(f'<path d="M{at:.1f} {bottom}v4" stroke="#444"/>')
            parts.append(_text(at, bottom + 15, f"{value:,.6g}", 'text-anchor="middle"'))
        for value in ticks(self.y):
            at = self._y(value)
            parts.append(f'<path d="M{LEFT} {at:.1f}h-4" stroke="#444"/>')
            parts.append(_text(LEFT - 6, at + 4, f"{value:,.6g}", 'text-anchor="end"'))
        middle = (TOP + bottom) / 2
        parts += [
            _text((LEFT + right) / 2, self.height - 8, self.x.label, 'text-anchor="middle"'),
            _text(12, middle, self.y.label, f'text-anchor="middle" transform="rotate(-90 12 {middle})"'),
            *self.legend,
            "</svg>",
        ]
        return "\n".join(parts)

    def _x(self, value: float) -> float:
        return LEFT + (value - self.x.low) / (self.x.high - self.x.low) * (self.width - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        share = min(1.0, max(0.0, (value - self.y.low) / (self.y.high - self.y.low)))
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{html.escape(text)}</text>'
