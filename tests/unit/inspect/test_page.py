"""The page is whole, needs nothing beside it, and shows what was observed."""

import base64
import io
import re
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from small_model import TYPES, build

from fairseq_infformer.inspect.drawing import Axis, Plot, png, ticks
from fairseq_infformer.inspect.observation import observe
from fairseq_infformer.inspect.page import excerpt, page

SVG = "{http://www.w3.org/2000/svg}"


def text(first: int, last: int) -> str:
    return f"<{first} & {last}>"


@pytest.mark.parametrize(
    ("settings", "figures"),
    [({"ltm_sampling": "sticky"}, 1 + 2 * (2 * 2 + 2)), ({"long_term_memory": "slots", "slots_count": 3}, 1 + 2)],
)
def test_page_has_figures_with_axes_and_a_sentence_and_needs_nothing_else(settings, figures):
    tokens = torch.randint(4, TYPES, (48,), generator=torch.Generator().manual_seed(0))
    observation = observe(build(**settings), 5, tokens)
    made = page(observation, "A <page>", {"text": "a & b"}, text)
    root = ElementTree.fromstring(made.removeprefix("<!DOCTYPE html>"))  # every element is closed, every sign escaped
    found = list(root.iter("figure"))
    assert len(found) == figures and root.find("body/h1").text == "A <page>"
    for figure in found:
        written = [element.text for element in figure.iter(f"{SVG}text")]
        assert any(label.endswith((")", "line", "states", "token")) for label in written)
        assert figure.find("figcaption").text.endswith(".")
        ticked = [value for value in written if re.fullmatch(r"[\d.,]+", value)]
        assert len(ticked) >= 4  # on two axes
    assert "<script" not in made and not re.search(r"(src|href)=\"(?!data:)", made)
    cells = [cell.text for cell in root.iter("td")]
    if "ltm_sampling" in settings:
        low, _, high = observation.layers[0].looks[-1].words[1].tolist()
        assert f"{low} to {high}" in cells and text(low, high) in cells
    else:
        heaviest = int(observation.layers[0].weights(9)[0].argmax())
        assert any(f"{heaviest} '{text(heaviest, heaviest)}'" in cell for cell in cells)


def test_plot_draws_points_where_they_are():
    plot = Plot("title", Axis("x", 0, 10), Axis("y", 0, 1), width=284, height=164)  # 200 and 100 between the axes
    plot.line([0, 10], [0, 0.5], "line")
    plot.picture(torch.tensor([[0.0, 1.0], [0.5, 0.0]]))
    root = ElementTree.fromstring(plot.svg())
    assert root.find(f"{SVG}polyline").get("points") == "62.0,124.0 262.0,74.0"
    data = root.find(f"{SVG}image").get("href").removeprefix("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert [picture.getpixel(at) for at in ((0, 1), (1, 1), (1, 0))] == [
        (255, 255, 255),
        (16, 52, 104),
        (255, 255, 255),
    ]
    assert picture.getpixel((0, 0)) == pytest.approx((135.5, 153.5, 179.5), abs=0.5)


def test_png_and_ticks_serve_any_size():
    assert Image.open(io.BytesIO(png(torch.rand(3, 500)))).size == (500, 3)
    for low, high in [(0, 1), (0, 808), (0, 1.3), (16, 20_000), (0, 3e-5), (0, 1e6)]:
        values = ticks(Axis("", low, high))
        assert 2 <= len(values) <= 6 and low <= min(values) and max(values) <= high * 1.000001
    assert ticks(Axis("", 0, 1)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_excerpt_leaves_out_the_middle():
    assert excerpt("a  b\nc") == "a b c"
    shortened = excerpt(" ".join(f"word{number}" for number in range(100)))
    assert shortened.startswith("word0 word1") and shortened.endswith("word98 word99") and len(shortened) <= 93
    assert len(excerpt("x" * 500)) <= 93
