"""Where sticky memories sample the old signal, against the reference and against what a histogram promises."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import DENSITIES
from fairseq_infformer.modules.memories.continuous import naive
from fairseq_infformer.modules.memories.continuous.sampling import (
    attention_histogram,
    hashed_uniform,
    inverse_cdf,
    sample_positions,
)


def density(name: str = "gaussian", rows: int = 2, heads: int = 2, queries: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, heads, queries)
    mean = torch.rand(shape, dtype=torch.float64, generator=generator)
    sigma = 0.03 + 0.3 * torch.rand(shape, dtype=torch.float64, generator=generator)
    return DENSITIES[name](mean, sigma.square())


def at(place: float, sigma: float = 0.001):
    """One row whose attention is at one place."""
    mean = torch.full((1, 1, 1), place, dtype=torch.float64)
    return DENSITIES["gaussian"](mean, torch.full_like(mean, sigma**2))


# ---- The histogram


@pytest.mark.parametrize("name", sorted(DENSITIES))
def test_attention_histogram_matches_reference(name):
    reads, queries = density(name), torch.tensor([3, 2])
    fast = attention_histogram(reads, queries, num_bins=7)
    for row, count in enumerate(queries.tolist()):
        pairs = zip(reads.mean[row, :, :count].flatten(), reads.variance[row, :, :count].flatten())
        slow = naive.attention_histogram([naive.DENSITIES[name](*pair) for pair in pairs], 7)
        torch.testing.assert_close(fast[row], torch.tensor(slow, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_attention_histogram_does_not_depend_on_chunks(monkeypatch):
    reads = density(queries=50)
    whole = attention_histogram(reads)
    monkeypatch.setattr("fairseq_infformer.modules.memories.continuous.sampling.CHUNK_ELEMENTS", 1000)
    torch.testing.assert_close(attention_histogram(reads), whole, rtol=1e-12, atol=1e-12)


def test_attention_histogram_ignores_pads():
    reads = density()
    mean = reads.mean.clone()
    mean[1, :, 2:] = 0.9
    queries = torch.tensor([3, 2])
    moved = attention_histogram(DENSITIES["gaussian"](mean, reads.variance), queries)
    assert torch.equal(moved, attention_histogram(reads, queries))


@pytest.mark.parametrize("outside", [-3.0, 4.0])
def test_attention_histogram_without_attention_inside_is_uniform(outside):
    assert torch.equal(attention_histogram(at(outside)), torch.full((1, 128), 1 / 128, dtype=torch.float64))
    assert torch.equal(
        attention_histogram(at(0.5), torch.tensor([0])), torch.full((1, 128), 1 / 128, dtype=torch.float64)
    )


def test_attention_histogram_in_float32_is_close_to_float64():
    reads = density(queries=100)
    single = DENSITIES["gaussian"](reads.mean.float(), reads.variance.float())
    torch.testing.assert_close(attention_histogram(single), attention_histogram(reads), rtol=1e-4, atol=1e-6)


# ---- Positions


def test_sample_positions_match_reference_quantiles():
    histogram = torch.tensor([[0.1, 0.0, 0.4, 0.5], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    positions = sample_positions(histogram, 9, "sticky-quantile", torch.zeros(3, dtype=torch.int64))
    for row in range(3):
        slow = [naive.quantile(histogram[row].tolist(), (m + 0.5) / 9) for m in range(9)]
        torch.testing.assert_close(positions[row], torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_sample_positions_of_a_uniform_histogram_are_even():
    even = torch.full((1, 128), 1 / 128, dtype=torch.float64)
    positions = sample_positions(even, 50, "sticky-quantile", torch.zeros(1, dtype=torch.int64))
    expected = (torch.arange(50, dtype=torch.float64)[None] + 0.5) / 50
    torch.testing.assert_close(positions, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
@pytest.mark.parametrize("place", [0.0, 0.31, 0.5, 1.0])
def test_sample_positions_follow_attention_and_differ_within_a_bin(sampling, place):
    positions = sample_positions(attention_histogram(at(place)), 512, sampling, torch.tensor([7]))
    assert positions.shape == (1, 512)
    assert bool((positions.diff() >= 0).all())
    assert float((positions - place).abs().max()) < 2 / 128
    assert len(positions.unique()) > 500


def test_sample_positions_are_distributed_as_the_histogram():
    """Counts of 16 bins from 20,000 draws: chi-squared with 15 degrees of freedom is under 45 in 9,999 of 10,000."""
    histogram = attention_histogram(density(rows=1), num_bins=16)
    positions = sample_positions(histogram, 20_000, "sticky", torch.tensor([512]))
    counts = torch.histc(positions, 16, 0, 1).double()
    expected = 20_000 * histogram[0]
    assert float(((counts - expected).square() / expected).sum()) < 45


def test_sample_positions_are_independent_per_row_and_repeatable():
    histogram = attention_histogram(density(rows=3))
    tokens = torch.tensor([512, 1024, 512])
    positions = sample_positions(histogram, 64, "sticky", tokens)
    assert torch.equal(positions, sample_positions(histogram, 64, "sticky", tokens))
    alone = sample_positions(histogram[1:2], 64, "sticky", tokens[1:2])
    torch.testing.assert_close(positions[1:2], alone, rtol=0, atol=1e-13)  # sums of 128 numbers that add up to 1
    assert not torch.equal(positions, sample_positions(histogram, 64, "sticky", tokens, seed=1))
    assert not torch.equal(positions, sample_positions(histogram, 64, "sticky", tokens + 1))


@pytest.mark.parametrize("keys", [torch.arange(200), 512 * torch.arange(200), torch.arange(200) + 2**40])
def test_hashed_uniform_passes_tests_of_randomness(keys):
    numbers = hashed_uniform(keys, 500)
    assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    assert len(numbers.unique()) == numbers.numel()
    centered = (numbers - 0.5) * 12**0.5
    # Means and correlations of 100,000 numbers have a deviation of .0032: within 4.5 of them.
    for product in (
        centered,
        centered.square() - 1,
        centered[:, 1:] * centered[:, :-1],
        centered[1:] * centered[:-1],
    ):
        assert abs(float(product.mean())) < 4.5 * 0.0032
    counts = torch.histc(numbers, 100, 0, 1)
    assert float(((counts - 1000).square() / 1000).sum()) < 160  # 99 degrees of freedom, 1 in 10,000


def test_hashed_uniform_is_splitmix64():
    """The published first outputs of the generator whose state starts at 1234567."""

    def unsigned(value: int) -> int:
        return value % 2**64

    golden = 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = unsigned((z ^ z >> 30) * 0xBF58476D1CE4E5B9)
        z = unsigned((z ^ z >> 27) * 0x94D049BB133111EB)
        return z ^ z >> 31

    assert mix(unsigned(1234567 + golden)) == 6457827717110365317
    start = mix(unsigned((42 + 1) * golden + 5))
    expected = [((mix(unsigned(start + k * golden)) >> 11) + 0.5) / 2**53 for k in (1, 2, 3)]
    assert hashed_uniform(torch.tensor([42]), 3, seed=5)[0].tolist() == expected


def masses(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize("probability", [1e-15, 0.25, 0.5, 0.75, 1 - 1e-15])
def test_inverse_cdf_never_returns_an_empty_bin(probability):
    histogram = masses(0, 0.25, 0, 0.25, 0, 0.5, 0)
    position = float(inverse_cdf(histogram, masses(probability))) * 7
    assert 1 <= position <= 2 or 3 <= position <= 4 or 5 <= position <= 6
