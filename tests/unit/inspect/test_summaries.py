"""The numbers of figures, recomputed."""

import math

import pytest
import torch
from small_model import TYPES, build

from fairseq_infformer.inspect.observation import observe
from fairseq_infformer.inspect.summaries import by_columns, looks_over_time, perplexities, rebuilt_by_age


def test_perplexities_are_those_of_parts_of_the_text():
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    middles, values = perplexities(losses, parts=3)
    assert middles == [1.5, 4.0, 6.0] and values == pytest.approx([math.exp(2), math.exp(4.5), math.exp(6.5)])
    assert perplexities(losses, parts=99)[0] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]


def test_summaries_of_a_line_are_means_and_r2_over_parts():
    tokens = torch.randint(4, TYPES, (48,), generator=torch.Generator().manual_seed(0))
    observer = observe(build(), 5, tokens).layers[1]
    looks = looks_over_time(observer, columns=4)  # of nine reads
    assert looks.start.tolist() == [5, 20, 30, 40]
    assert looks.share[1].allclose((observer.looks[3].share + observer.looks[4].share) / 2)
    assert looks.words[0].equal(observer.looks[1].words)

    ages, values = rebuilt_by_age(observer, first=0, parts=6)  # of 42 vectors, seven in each part
    past, held = torch.cat(observer.past), observer.memory.memory.basis.evaluate(observer.line.centers.float())
    error, about = (held @ observer.state.coefficients[0] - past).square(), (past - past.mean(0)).square()
    assert ages == [48 - 38, 48 - 31, 48 - 24, 48 - 17, 48 - 10, 48 - 3]
    expected = [1 - float(error[at : at + 7].sum() / about[at : at + 7].sum()) for at in (35, 28, 21, 14, 7, 0)]
    assert values == pytest.approx(expected, rel=1e-4)


def test_by_columns_keeps_the_sums():
    weights = torch.arange(10.0).view(1, 10)
    assert by_columns(weights, columns=4).tolist() == [[0 + 1 + 2, 3 + 4 + 5, 6 + 7, 8 + 9]]
