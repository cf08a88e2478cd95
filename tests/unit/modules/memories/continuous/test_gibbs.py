"""The Gibbs read: softmax attention over the signal, number by number."""

import math

import pytest
import torch

from fairseq_infformer.modules.layers import InfiniteFormerLayer
from fairseq_infformer.modules.memories.continuous import (
    ContinuousLongTermMemory,
    ContinuousSettings,
    GaussianBasis,
    GibbsAttention,
)
from fairseq_infformer.modules.memories.continuous.naive import gibbs_read
from fairseq_infformer.modules.memories.continuous.sampling import attention_histogram

ROWS, QUERIES, HEADS, WIDTH = 2, 3, 2, 8


def attention(**settings: bool) -> GibbsAttention:
    torch.manual_seed(0)
    return GibbsAttention(WIDTH, HEADS, GaussianBasis(12, (0.05, 0.2)), flat_start=True, **settings).double()


def inputs(scale: float = 1.0, queries: int = QUERIES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(ROWS, queries, WIDTH, generator=generator, dtype=torch.float64) * scale
    coefficients = torch.randn(ROWS, 12, WIDTH, generator=generator, dtype=torch.float64)
    return query.requires_grad_(), coefficients.requires_grad_()


@pytest.mark.parametrize("queries", [QUERIES, 1])  # of which few are projected in place of the signal
def test_gibbs_read_equals_the_formula_in_values_and_gradients(queries):
    module = attention(weights=True)
    found, expected = [], []
    for read, results in ((module, found), (lambda *x: gibbs_read(*x, module), expected)):
        query, coefficients = inputs(queries=queries)
        module.zero_grad()
        context, density = read(query, coefficients)
        context.square().sum().backward()
        results += [context, density.mean, density.variance, density.weights, query.grad, coefficients.grad]
        results += [parameter.grad.clone() for parameter in module.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_gibbs_read_of_an_empty_memory_is_zero_and_looks_everywhere():
    query, _ = inputs()
    context, density = attention()(query, torch.zeros(ROWS, 12, WIDTH, dtype=torch.float64))
    assert not context.any()
    torch.testing.assert_close(density.mean, torch.full_like(density.mean, 0.5))


def test_gibbs_cdf_is_the_integral_of_the_density():
    _, density = attention(weights=True)(*inputs(scale=3.0))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    mass = density.cdf(t)
    torch.testing.assert_close(mass[..., 0], torch.zeros_like(mass[..., 0]))
    torch.testing.assert_close(mass[..., -1], torch.ones_like(mass[..., -1]))
    assert (mass.diff(dim=-1) >= -1e-9).all()
    # The cells of 6 centres end at 0.1, 0.3 and so on.
    edges = density.cdf(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], dtype=torch.float64))
    torch.testing.assert_close(edges, density.weights.cumsum(-1))
    # The variance of the density differs from that of its cells' centres by what a cell has inside.
    centre = 0.5 * (t[1:] + t[:-1])
    mean = (mass.diff(dim=-1) * centre).sum(-1)
    assert (mean - density.mean).abs().max() < 0.05


def test_gibbs_histogram_follows_what_was_sought():
    module = attention(weights=True)
    basis = module.basis
    target = 3
    coefficients = torch.linalg.lstsq(
        basis.evaluate(basis.distinct_centers(torch.empty(0, dtype=torch.float64))),
        torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1, 0, 0]), 2).double() @ torch.randn(2, WIDTH).double(),
    ).solution
    signal = basis.evaluate(basis.distinct_centers(coefficients)) @ coefficients
    key = module.k_proj(signal)[target] - module.k_proj(signal)[0]
    query = (20 * key / key.square().sum() * math.sqrt(WIDTH)).expand(1, QUERIES, WIDTH)
    _, density = module(query, coefficients[None])
    histogram = attention_histogram(density)
    edges = torch.linspace(0, 1, histogram.shape[1] + 1)[:-1]
    assert float(histogram[0][(edges >= 0.5) & (edges < 0.7)].sum()) > 0.5


def test_gibbs_read_of_a_new_layer_finds_what_is_like_the_query():
    torch.manual_seed(0)
    settings = ContinuousSettings(density="gibbs", basis=32, samples=64, widths=(0.03,))
    layer = InfiniteFormerLayer(64, 2, 64, 0, ContinuousLongTermMemory.build(settings, 64, 2, 0))
    hidden, memory = 2 * torch.randn(1, 8, 64), layer.long_term_memory
    state = memory.write(memory.initial_state(1), hidden)
    report = memory.read(layer.q_proj(hidden), hidden, torch.tensor([8]), state, layer.attention).report
    written = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(report.density.mean, written.expand(1, 2, 8), rtol=0, atol=1 / 8)


def test_basis_values_are_never_denormal():
    """Products with them would take ten times as long."""
    values = GaussianBasis(512).evaluate(torch.linspace(0, 1, 256))
    assert ((values == 0) | (values >= 1e-30)).all()
