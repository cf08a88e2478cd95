"""Settings under which the regression is all but singular: what is written, read and learned stays finite."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import DENSITIES, ContinuousAttention, ContinuousMemory, GaussianBasis
from fairseq_infformer.modules.memories.continuous.operators import (
    LEAST_RIDGE,
    Regression,
    Step,
    refit_operators,
    ridge_used,
)

DIM = 4
WIDTHS = [(1e-6,), (0.01, 0.05), (0.05,), (1.0,), (1e6,), (1e-3, 100.0)]
# Segments of fewer vectors than functions and of more, of one and of none.
LENGTHS = [5, 0, 40, 130, *[3] * 5, 1, 2]
# M, from fewer samples than functions to many more, sampling and contraction.
MEMORIES = [
    (8, "uniform", "fixed"),
    (32, "sticky", "proportional"),
    (200, "sticky-quantile", "fixed"),
    (200, "uniform", "proportional"),
    (200, "uniform", "square-root"),
]


def vectors(batch: int, length: int, seed: int) -> Tensor:
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed))


def stream_is_finite(memory: ContinuousMemory) -> None:
    """Write and read ``LENGTHS`` in float32, as a model does; the second row gets one vector less.

    Every density reads each state; what a sticky memory keeps follows the density of one of them, in turn.
    """
    torch.manual_seed(0)
    floor = min(0.5, *memory.basis.widths)
    readers = [ContinuousAttention(DIM, 2, memory.basis, density, min_sigma=floor) for density in sorted(DENSITIES)]
    for attention in readers:
        torch.nn.init.xavier_uniform_(attention.out_proj.weight)
    state, last_read = memory.initial_state(2, DIM), None
    for number, length in enumerate(LENGTHS):
        x, query = vectors(2, length, number).requires_grad_(), vectors(2, 6, 100 + number).requires_grad_()
        before = state._replace(coefficients=state.coefficients.requires_grad_())
        state = memory.write(before, x, lengths=[length, max(0, length - 1)], density=last_read)
        assert state.coefficients.isfinite().all()
        reads = [attention(query, state.coefficients) for attention in readers]
        loss = torch.zeros(())
        for context, density in reads:
            assert context.isfinite().all()
            assert density.mean.isfinite().all() and density.variance.isfinite().all()
            loss = loss + context.square().mean() + density.variance.mean() + density.mean.mean()
        parameters = [parameter for attention in readers for parameter in attention.parameters()]
        for gradient in torch.autograd.grad(loss, [x, query, before.coefficients, *parameters]):
            assert gradient.isfinite().all()
        density = reads[number % len(reads)][1]
        state, last_read = state.detach(), type(density)(density.mean.detach(), density.variance.detach())


@pytest.mark.parametrize("widths", WIDTHS)
def test_write_and_read_stay_finite_in_values_and_gradients(widths):
    """N = 32 functions, under the λ of the paper and the least."""
    accepted = 0
    for samples, sampling, contraction in MEMORIES:
        for ridge in (1.0, LEAST_RIDGE):
            basis = GaussianBasis(32, widths)
            try:
                memory = ContinuousMemory(basis, samples, ridge, contraction, sampling=sampling)
            except ValueError as error:
                assert "samples must be more" in str(error)
                continue
            stream_is_finite(memory)
            accepted += 1
    assert accepted >= 4, "more is refused than tested"


UNSTABLE = [
    (Regression(64, (0.01, 0.05), 64, 1.0), Step(0.9, 3)),
    (Regression(64, (0.01, 0.05), 512, 1e-4), Step(0.75, 2)),
    (Regression(256, (0.05,), 512, 1e-8), Step(0.5, 8)),
]


def largest_eigenvalue(settings: tuple, ridge: float) -> float:
    """Of A, by its definition: least squares for the signals that each old coefficient alone makes."""
    (num_basis, widths, samples, _), (tau, length, _) = settings
    basis = GaussianBasis(num_basis, widths)
    even = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    new = tau + (1 - tau) * (torch.arange(length, dtype=torch.float64) + 0.5) / length
    design = torch.cat([basis.evaluate(tau * even), basis.evaluate(new)])
    targets = torch.cat([basis.evaluate(even), torch.zeros(length, num_basis, dtype=torch.float64)])
    penalty = ridge**0.5 * torch.eye(num_basis, dtype=torch.float64)
    update = torch.linalg.lstsq(torch.cat([design, penalty]), torch.cat([targets, torch.zeros_like(penalty)])).solution
    return float(torch.linalg.eigvals(update).abs().max())


@pytest.mark.parametrize("settings", UNSTABLE)
def test_ridge_used_is_larger_where_the_memory_would_grow(settings):
    asked, taken = settings[0].ridge, ridge_used(*settings)
    assert taken > asked
    assert largest_eigenvalue(settings, asked) > 1.5
    assert largest_eigenvalue(settings, taken) < 1.2
    assert largest_eigenvalue(settings, taken / 10) > 1.05, "no larger than it must be"


@pytest.mark.parametrize("length", [16, 64, 512])
@pytest.mark.parametrize("tau", [0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("num_basis", [64, 150])
def test_ridge_used_is_the_requested_one_where_nothing_grows(num_basis, tau, length):
    assert ridge_used(Regression(num_basis, (0.01, 0.05), num_basis, 1.0), Step(tau, length)) == 1.0


def test_write_of_short_segments_stays_bounded():
    """With the λ that is asked for, what three new vectors leave undetermined grows fourfold with every update."""
    memory = ContinuousMemory(GaussianBasis(64, (0.01, 0.05)), 64, contraction="fixed", tau=0.9)
    state, largest = memory.initial_state(1, DIM), []
    for number in range(300):
        state = memory.write(state, vectors(1, 3, number))
        largest.append(float(state.coefficients.abs().max()))
    assert max(largest[100:]) < 3 * max(largest[:30])


@pytest.mark.parametrize(
    "settings",
    [
        (Regression(64, (0.01, 0.05), 64, 1.0), Step(0.85, 1)),
        (Regression(64, (0.01, 0.05), 128, 1.0), Step(0.95, 3)),
    ],
)
def test_ridge_used_lets_nothing_grow_in_a_repeated_update(settings):
    assert 1.03 < largest_eigenvalue(settings, ridge_used(*settings)) < 1.1, "a few times that is no harm"
    assert largest_eigenvalue(settings, ridge_used(settings[0], settings[1]._replace(repeated=True))) <= 1


def test_write_of_single_vectors_stays_bounded():
    memory = ContinuousMemory(GaussianBasis(64, (0.01, 0.05)), 64, contraction="fixed", tau=0.85)
    state, largest = memory.initial_state(1, DIM), []
    for number in range(1000):
        state = memory.write(state, vectors(1, 1, number))
        largest.append(float(state.coefficients.abs().max()))
    assert max(largest[500:]) < 2 * max(largest[:100])


@pytest.mark.parametrize("contraction", ["fixed", "proportional"])
@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
def test_sticky_write_stays_bounded_with_attention_on_large_values(sampling, contraction):
    """Attention by content looks where the signal is large, and samples gather there, where the refit overshoots."""
    torch.manual_seed(1)
    memory = ContinuousMemory(GaussianBasis(64, (0.01, 0.05)), 64, contraction=contraction, sampling=sampling)
    attention = ContinuousAttention(32, 4, memory.basis, "renormalized-gaussian", addressing="content")
    state, last_read = memory.initial_state(1, 32), None
    for number in range(300):
        state = memory.write(state, torch.randn(1, 32, 32), density=last_read)
        with torch.no_grad():
            last_read = attention.locate(4 * torch.randn(1, 32, 32), state.coefficients)
        if number >= 20:  # the first vectors of all are fitted with nothing beside them
            signal = memory.basis.evaluate(torch.linspace(0, 1, 501)) @ state.coefficients[0]
            assert float(signal.norm(dim=1).max()) < 2 * float(state.largest)


def test_refit_operators_of_the_least_ridge_match_least_squares():
    """G X of the first write against least squares, which never forms the normal equations."""
    basis = GaussianBasis(32, (0.05, 0.2))
    regression, step = Regression(32, basis.widths, 64, LEAST_RIDGE), Step(0.0, 20)
    _, fit = refit_operators(regression, step, False, torch.float64, torch.device("cpu"))
    x = vectors(1, 20, 0)[0].double()
    places = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    design = torch.cat([basis.evaluate(places), LEAST_RIDGE**0.5 * torch.eye(32, dtype=torch.float64)])
    exact = torch.linalg.lstsq(design, torch.cat([x, torch.zeros(32, DIM, dtype=torch.float64)])).solution
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(basis.evaluate(t) @ fit @ x, basis.evaluate(t) @ exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ridge", [1e-9, 1e-300])
def test_continuous_memory_refuses_a_ridge_below_the_least(ridge):
    with pytest.raises(ValueError, match=f"ridge must be 1e-08 or more and finite, got {ridge}"):
        ContinuousMemory(GaussianBasis(32, (0.05,)), 64, ridge)
