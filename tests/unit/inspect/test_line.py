"""Intervals on the line of a memory: those of an oracle that traces every position back, and what the memory holds."""

import math

import pytest
import torch

from fairseq_infformer.inspect.line import Line
from fairseq_infformer.modules import ContinuousMemory, GaussianBasis
from fairseq_infformer.modules.memories.continuous import ContinuousReport
from fairseq_infformer.modules.memories.continuous.density import TruncatedGaussianDensity
from fairseq_infformer.modules.memories.continuous.sampling import attention_histogram, sample_positions

LENGTHS = [7, 16, 16, 3, 0, 16, 12, 16, 16, 16]
RULES = [
    {"contraction": "fixed", "tau": 0.6},
    {"contraction": "proportional"},
    {"contraction": "proportional", "horizon": 40},
    {"contraction": "square-root"},
    {"contraction": "logarithmic"},
]


def tau_of(rule: dict, known: int, new: int) -> float:
    """By the docstrings of the rules, while n is exact."""
    counted = min(known, rule.get("horizon", known))
    share = {
        "fixed": lambda: rule.get("tau"),
        "proportional": lambda: counted / (counted + new),
        "square-root": lambda: (known / (known + new)) ** 0.5,
        "logarithmic": lambda: math.log1p(known) / math.log1p(known + new),
    }
    return float(share[rule["contraction"]]()) if known and new else 0.0


def report(number: int) -> ContinuousReport:
    """Two heads of three queries, the last of which is a pad, that look at other positions each time."""
    mean = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(number))
    return ContinuousReport(TruncatedGaussianDensity(mean, torch.full_like(mean, 0.01)), torch.tensor([2]))


@pytest.mark.parametrize("sampling", ["uniform", "sticky", "sticky-quantile"])
@pytest.mark.parametrize("rule", RULES)
def test_line_has_the_intervals_of_an_oracle_that_traces_every_position_back(rule, sampling):
    memory = ContinuousMemory(GaussianBasis(16, widths=(0.05,)), samples=32, sampling=sampling, seed=3, **rule)
    line, updates = Line(memory), []
    for number, new in enumerate(LENGTHS):
        known = len(line)
        line.write(new, report(number))
        if new:
            taken = None
            if known and sampling != "uniform":
                looked = report(number)
                histogram = attention_histogram(looked.density, looked.lengths)
                taken = sample_positions(histogram, 32, sampling, torch.tensor([known]), 3)[0].tolist()
            updates.append((known, new, tau_of(rule, known, new), taken))

    def vector_at(t: float) -> int:
        for known, new, tau, taken in reversed(updates):
            if t > tau or not known:
                return known + min(new - 1, int((t - tau) / (1 - tau) * new))
            t /= tau
            if taken is not None:  # where was it before: between two of the samples, put at even distances
                number = t * 32 - 0.5
                left, right = ([0.0, *taken, 1.0][int(number + 1) + step] for step in (0, 1))
                start, stop = max(0.0, (int(number + 1) - 0.5) / 32), min(1.0, (int(number + 1) + 0.5) / 32)
                t = left + (t - start) / (stop - start) * (right - left)
        raise AssertionError

    assert len(line) == sum(LENGTHS) and line.edges[0] == 0 and line.edges[-1] == 1
    assert (line.edges.diff() >= 0).all()
    positions = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    traced = torch.tensor([vector_at(t) for t in positions.tolist()])
    found = line.vectors_at(positions)
    # Two ways to round meet at the edges of intervals.
    assert (found == traced).float().mean() > 0.99 and ((found - traced).abs() <= 1).all()


@pytest.mark.parametrize("sampling", ["uniform", "sticky", "sticky-quantile"])
def test_line_says_what_the_memory_holds(sampling):
    """A signal that is a vector's own number, read at a position, is the number of the vector there."""
    memory = ContinuousMemory(GaussianBasis(256, widths=(0.01,)), samples=1024, sampling=sampling)
    line, state = Line(memory), memory.initial_state(1, 1, dtype=torch.float64)
    for number, new in enumerate([50, 50, 40, 50]):
        looked = report(number)
        numbers = torch.arange(len(line), len(line) + new, dtype=torch.float64)
        state = memory.write(state, numbers[None, :, None], density=looked.density, queries=looked.lengths)
        line.write(new, looked)
    positions = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)  # at the ends a fit is poor
    held = (memory.basis.evaluate(positions) @ state.coefficients[0])[:, 0]
    error = (held - line.vectors_at(positions)).abs()
    assert error.median() < 1 and error.quantile(0.9) < 5
