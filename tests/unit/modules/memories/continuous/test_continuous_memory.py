"""The continuous memory against the reference, row by row; then what a user would notice about it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import (
    DENSITIES,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    ContinuousState,
    GaussianBasis,
)
from fairseq_infformer.modules.attention import PlainAttention
from fairseq_infformer.modules.memories.continuous import ContinuousReport, naive, operators
from fairseq_infformer.modules.memories.continuous.contraction import CONTRACTIONS, proportional_contraction
from fairseq_infformer.modules.memories.continuous.density import GaussianDensity
from fairseq_infformer.modules.memories.continuous.operators import OPERATORS, OPERATORS_KEPT, OPERATORS_KEPT_AT_MOST
from fairseq_infformer.modules.memories.continuous.sampling import hashed_uniform

BASES = [GaussianBasis(12, (0.05, 0.2)), GaussianBasis(7, (0.1,))]
DIM = 3


@pytest.fixture(params=sorted(CONTRACTIONS))
def contraction(request) -> str:
    return request.param


@pytest.fixture(params=BASES, ids=lambda basis: str(basis.num_basis))
def memory(request, contraction) -> ContinuousMemory:
    # Neither M nor any length below is N, so that no mix-up of the three goes unseen.
    return ContinuousMemory(request.param, samples=10, ridge=0.3, contraction=contraction, tau=0.6)


def vectors(batch: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, DIM, dtype=torch.float64, generator=generator)


def empty(memory: ContinuousMemory, batch: int) -> ContinuousState:
    return memory.initial_state(batch, DIM, dtype=torch.float64)


def after(memory: ContinuousMemory, lengths: list[int]) -> ContinuousState:
    """The state of one row that has read segments of these lengths."""
    state = empty(memory, 1)
    for number, length in enumerate(lengths):
        state = memory.write(state, vectors(1, length, seed=number + 1))
    return state


def plain_after(memory: ContinuousMemory, lengths: list[int]) -> Tensor:
    """The reference's coefficients (N, DIM) of that row."""
    coefficients, num_tokens = torch.zeros(memory.basis.num_basis, DIM, dtype=torch.float64), 0
    for number, length in enumerate(lengths):
        x = vectors(1, length, seed=number + 1)[0]
        coefficients = naive.write(coefficients, num_tokens, x, length, memory)
        num_tokens += length
    return coefficients


def same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# ---- Against the reference


HISTORIES = [[8], [5], [1], [0], [0, 5], [5, 8], [8, 0, 5], [1, 1, 1], [5, 1, 0, 8, 3, 9]]


@pytest.mark.parametrize("lengths", HISTORIES)
def test_write_matches_reference(memory, lengths):
    state = after(memory, lengths)
    same(state.coefficients[0], plain_after(memory, lengths))
    assert state.num_tokens.tolist() == [sum(lengths)]


def test_write_matches_reference_for_rows_of_different_pasts(memory):
    pasts = [[], [5], [8, 3], [8, 3], [4, 4, 4], [2]]
    lengths, reset = [5, 6, 0, 1, 6, 0], [False, False, False, False, True, True]
    states = [after(memory, past) for past in pasts]
    state = ContinuousState(*(torch.cat(parts) for parts in zip(*states)))
    x = vectors(6, 6)
    together = memory.write(state, x, lengths, reset)
    assert together.num_tokens.tolist() == [5, 11, 11, 12, 6, 0]
    for row, past in enumerate(pasts):
        num_tokens, coefficients = sum(past), plain_after(memory, past)
        if reset[row]:
            num_tokens, coefficients = 0, torch.zeros_like(coefficients)
        plain = naive.write(coefficients, num_tokens, x[row], lengths[row], memory)
        same(together.coefficients[row], plain)
        start = ContinuousState(coefficients[None], torch.tensor([num_tokens]), state.largest[row : row + 1])
        alone = memory.write(start, x[row : row + 1, : lengths[row]])
        same(alone.coefficients[0], plain)


def test_write_matches_reference_in_gradients(memory):
    old = after(memory, [5])
    coefficients, x = old.coefficients.requires_grad_(), vectors(1, 6).requires_grad_()
    fast = memory.write(old._replace(coefficients=coefficients), x, lengths=[4]).coefficients[0]
    slow = naive.write(coefficients[0], 5, x[0], 4, memory)
    weights = torch.linspace(-1, 1, fast.numel(), dtype=torch.float64).view_as(fast)
    fast, slow = (torch.autograd.grad((y * weights).sum(), (coefficients, x)) for y in (fast, slow))
    for a, b in zip(fast, slow):
        same(a, b)
    assert not fast[1][0, 4:].any()
    assert bool(fast[1][0, :4].all())


@pytest.mark.parametrize("which", [0, 1])
def test_write_gives_one_argument_alone_its_gradient(memory, which):
    old, x = after(memory, [5]), vectors(1, 6)
    arguments = [old.coefficients, x]
    together = [argument.clone().requires_grad_() for argument in arguments]
    arguments[which] = alone = arguments[which].clone().requires_grad_()
    for coefficients, new in (arguments, together):
        memory.write(old._replace(coefficients=coefficients), new).coefficients.square().sum().backward()
    assert torch.equal(alone.grad, together[which].grad)


def test_refit_operator_passes_opcheck(memory):
    """Nothing is changed in place, results alias no argument, and shapes are those that the compiler assumes."""
    old, x = after(memory, [5]), vectors(1, 6).requires_grad_()
    settings = (list(memory.basis.widths), 10, 0.3, memory.contraction, 0.6, None, "uniform", 0)
    arguments = (old.coefficients.requires_grad_(), old.largest, x, old.num_tokens, torch.tensor([6]), None, *settings)
    torch.library.opcheck(torch.ops.fairseq_infformer.refit, arguments)


def test_write_passes_gradcheck(memory):
    old = after(memory, [5])

    def write(coefficients: Tensor, x: Tensor) -> Tensor:
        return memory.write(old._replace(coefficients=coefficients), x).coefficients

    arguments = old.coefficients.requires_grad_(), vectors(1, 3).requires_grad_()
    assert torch.autograd.gradcheck(write, arguments)


def test_write_in_float32_is_close_to_float64(memory):
    exact, single = empty(memory, 2), memory.initial_state(2, DIM)
    for seed in range(6):
        x = vectors(2, 5, seed)
        exact, single = memory.write(exact, x), memory.write(single, x.float())
    assert single.coefficients.dtype == torch.float32
    scale = exact.coefficients.abs().max()
    same(single.coefficients.double() / scale, exact.coefficients / scale, 1e-5)


def test_write_in_float32_is_close_to_float64_at_the_size_of_the_paper():
    """Within 5e-4 of the signal, not 1e-5: neighbours overlap so much that their coefficients cancel."""
    memory = ContinuousMemory(GaussianBasis(512, (0.01, 0.05)), 512, contraction="fixed")
    exact, single = empty(memory, 1), memory.initial_state(1, DIM)
    for seed in range(4):
        x = vectors(1, 512, seed)
        exact, single = memory.write(exact, x), memory.write(single, x.float())
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    signal = memory.basis.evaluate(t) @ exact.coefficients
    error = memory.basis.evaluate(t) @ single.coefficients.double() - signal
    assert float(error.abs().max() / signal.abs().max()) < 5e-4


# ---- Sticky memories


def looked_at(rows: int, place: float = 0.3, queries: int = 4) -> GaussianDensity:
    mean = place + torch.linspace(-0.1, 0.3, rows * 2 * queries, dtype=torch.float64).view(rows, 2, queries)
    return GaussianDensity(mean, torch.full_like(mean, 0.05**2))


def sticky(contraction: str, sampling: str = "sticky", basis: GaussianBasis = BASES[0]) -> ContinuousMemory:
    return ContinuousMemory(basis, 10, ridge=0.3, contraction=contraction, tau=0.6, sampling=sampling)


@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
def test_sticky_write_matches_reference(contraction, sampling):
    memory, pasts = sticky(contraction, sampling), [[], [5], [8, 3], [4, 4]]
    lengths, reset = [5, 4, 0, 5], [False, False, False, True]
    states = [after(sticky(contraction, "uniform"), past) for past in pasts]
    state = ContinuousState(*(torch.cat(parts) for parts in zip(*states)))
    x, density, queries = vectors(4, 5), looked_at(4), [4, 2, 3, 4]
    together = memory.write(state, x, lengths, reset, density, queries)
    for row, past in enumerate(pasts):
        pairs = zip(density.mean[row, :, : queries[row]].flatten(), density.variance[row, :, : queries[row]].flatten())
        histogram = naive.attention_histogram([naive.gaussian(*pair) for pair in pairs], 128)
        uniform = [(m + 0.5) / 10 for m in range(10)]
        if sampling == "sticky":
            uniform = sorted(hashed_uniform(torch.tensor([sum(past)]), 10)[0].tolist())
        samples = [naive.quantile(histogram, probability) for probability in uniform]
        coefficients, num_tokens = state.coefficients[row], sum(past)
        if reset[row]:
            coefficients, num_tokens = torch.zeros_like(coefficients), 0
        longest = float(state.largest[row])
        plain = naive.write(coefficients, num_tokens, x[row], lengths[row], memory, samples, longest)
        same(together.coefficients[row], plain)
        alone = memory.write(
            ContinuousState(coefficients[None], torch.tensor([num_tokens]), state.largest[row : row + 1]),
            x[row : row + 1, : lengths[row]],
            density=GaussianDensity(density.mean[row : row + 1], density.variance[row : row + 1]),
            queries=queries[row : row + 1],
        )
        same(alone.coefficients[0], plain)


@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
def test_sticky_write_passes_gradcheck(contraction, sampling):
    memory, old = sticky(contraction, sampling), after(sticky(contraction, "uniform"), [5])

    def write(coefficients: Tensor, x: Tensor) -> Tensor:
        state = ContinuousState(coefficients.expand(2, -1, -1), old.num_tokens.expand(2), old.largest.expand(2))
        return memory.write(state, x, lengths=[3, 2], density=looked_at(2)).coefficients

    arguments = old.coefficients.requires_grad_(), vectors(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(write, arguments)


@pytest.mark.parametrize("sampling", ["sticky", "sticky-quantile"])
@pytest.mark.parametrize("density", sorted(DENSITIES))
def test_sticky_write_keeps_more_of_attended_positions(contraction, sampling, density):
    """A signal of 0 up to .4 and 1 from there, read at .7: nearly all of the samples are 1."""
    memory = ContinuousMemory(GaussianBasis(64, (0.02,)), 256, 1e-4, contraction, sampling=sampling)
    step = (torch.arange(100) >= 40).float()[None, :, None].expand(1, 100, DIM)
    state = memory.write(memory.initial_state(1, DIM), step)
    mean = torch.full((1, 2, 4), 0.7)
    read = DENSITIES[density](mean, torch.full_like(mean, 0.03**2))
    after = memory.write(state, torch.zeros(1, 100, DIM), density=read)
    tau = naive.contraction(memory, 100, 100)
    t = torch.linspace(0.05, tau - 0.05, 50)
    signal = (memory.basis.evaluate(t) @ after.coefficients[0])[:, 0]
    assert float((signal - 1).abs().max()) < 0.1
    evenly = memory.write(state, torch.zeros(1, 100, DIM))  # nothing was read: uniform
    signal = (memory.basis.evaluate(t) @ evenly.coefficients[0])[:, 0]
    assert float(signal.mean()) == pytest.approx(0.6, abs=0.05)


# ---- Rows, pads and resets


@pytest.mark.parametrize("pad", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("lengths", [[3, 3], [3, 5], [0, 5], [0, 0]])
def test_write_ignores_pads(memory, lengths, pad):
    state = ContinuousState(*(torch.cat([part, part]) for part in after(memory, [4])))
    x = vectors(2, 5)
    poisoned = x.clone()
    for row, length in enumerate(lengths):
        poisoned[row, length:] = pad
    clean, padded = memory.write(state, x, lengths), memory.write(state, poisoned, lengths)
    assert torch.equal(padded.coefficients, clean.coefficients)


@pytest.mark.parametrize("lengths", [None, [4, 5]])
@pytest.mark.parametrize("value", [2.0, float("inf"), float("nan")])
def test_write_keeps_rows_independent(memory, lengths, value):
    state = ContinuousState(*(torch.cat([part, part]) for part in after(memory, [4])))
    x = vectors(2, 5)
    expected = memory.write(state, x, lengths).coefficients[0]
    x, coefficients = x.clone(), state.coefficients.clone()
    x[1], coefficients[1] = 2.0, value
    changed = memory.write(state._replace(coefficients=coefficients), x, lengths).coefficients
    assert torch.equal(changed[0], expected)
    assert not torch.equal(changed[1], expected)


@pytest.mark.parametrize("reset", [[True, True], [True, False]])
@pytest.mark.parametrize("old", [1.0, float("inf"), float("nan")])
def test_write_empties_reset_rows_whatever_they_held(memory, reset, old):
    state = ContinuousState(*(torch.cat([part, part]) for part in after(memory, [4])))
    coefficients = state.coefficients.clone()
    coefficients[0] = old
    x = vectors(2, 5)
    written = memory.write(state._replace(coefficients=coefficients), x, reset=reset)
    same(written.coefficients[0], naive.write(torch.zeros_like(coefficients[0]), 0, x[0], 5, memory))
    assert written.num_tokens.tolist() == [5, 5 if reset[1] else 9]


def test_write_of_no_vectors_changes_nothing(memory):
    state = after(memory, [5, 3])
    for x, lengths in ((vectors(1, 0), None), (vectors(1, 4), [0])):
        assert torch.equal(memory.write(state, x, lengths).coefficients, state.coefficients)
    assert not memory.write(empty(memory, 1), vectors(1, 0)).coefficients.any()
    assert not memory.write(state, vectors(1, 0), reset=[True]).coefficients.any()


def test_write_leaves_its_arguments_unchanged(memory):
    state, x = ContinuousState(*(torch.cat([part, part]) for part in after(memory, [4]))), vectors(2, 5)
    before = [part.clone() for part in (*state, x)]
    memory.write(state, x, lengths=[2, 5], reset=[True, False])
    assert all(torch.equal(a, b) for a, b in zip((*state, x), before))


def test_state_reorders_resets_and_detaches(memory):
    state = ContinuousState(*(torch.cat(parts) for parts in zip(*(after(memory, [n]) for n in (2, 3, 4)))))
    turned = state.reorder(torch.tensor([2, 0, 0]))
    assert turned.num_tokens.tolist() == [4, 2, 2]
    assert torch.equal(turned.coefficients, state.coefficients[[2, 0, 0]])
    cleared = state.reset(torch.tensor([True, False, True]))
    assert cleared.num_tokens.tolist() == [0, 3, 0]
    assert not cleared.coefficients[[0, 2]].any()
    assert torch.equal(cleared.coefficients[1], state.coefficients[1])
    carrying = memory.write(state, vectors(3, 2).requires_grad_())
    assert carrying.coefficients.requires_grad
    assert not carrying.detach().coefficients.requires_grad


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_write_refuses_infinite_and_nan_vectors(memory, value):
    state, x = ContinuousState(*(torch.cat([part, part]) for part in after(memory, [4]))), vectors(2, 5)
    x[1, 3, 2] = value
    with pytest.raises(ValueError, match=rf"x must be finite, got {value} in row 1, vector 3, channel 2") as error:
        memory.write(state, x)
    assert "\n" not in str(error.value)
    memory.write(state, x, lengths=[5, 3])  # a pad
    large = torch.full((2, 5, DIM), 3e38)  # finite, though its sum is not
    memory.write(memory.initial_state(2, DIM), large)


# ---- Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_write_in_half_precision_keeps_float32_coefficients(contraction, dtype):
    memory = ContinuousMemory(GaussianBasis(12, (0.05, 0.2)), 10, contraction=contraction).to(dtype)
    x = vectors(2, 5).to(dtype)
    state = memory.write(memory.write(memory.initial_state(2, DIM), x), x)
    assert state.coefficients.dtype == memory.basis.centers.dtype == torch.float32
    untouched = ContinuousMemory(BASES[0], 10, contraction=contraction)
    expected = untouched.write(untouched.write(untouched.initial_state(2, DIM), x.float()), x.float())
    assert torch.equal(state.coefficients, expected.coefficients)


def test_write_under_autocast_keeps_float32_coefficients(memory):
    x = vectors(2, 5).float()
    expected = memory.write(memory.write(memory.initial_state(2, DIM), x), x, lengths=[4, 5])
    with torch.autocast("cpu", torch.bfloat16):
        state = memory.write(memory.write(memory.initial_state(2, DIM), x), x, lengths=[4, 5])
    assert state.coefficients.dtype == torch.float32
    assert torch.equal(state.coefficients, expected.coefficients)


@pytest.fixture
def no_operators() -> Iterator[None]:
    """An empty cache of operators, and no operators of this test for the others."""
    OPERATORS.__init__()
    yield
    OPERATORS.__init__()


def test_operators_solved_under_inference_mode_serve_training(memory, no_operators):
    with torch.inference_mode():
        memory.write(empty(memory, 1), vectors(1, 5))
    x = vectors(1, 5).requires_grad_()
    memory.write(empty(memory, 1), x).coefficients.sum().backward()
    assert bool(x.grad.any())


def test_state_dict_holds_no_state(memory):
    before = memory.state_dict()
    after(memory, [5, 3])
    assert before.keys() == memory.state_dict().keys() == {"basis.centers", "basis.scales"}


# ---- Contraction


def test_fixed_contraction_moves_the_past_as_the_paper_says():
    memory = ContinuousMemory(GaussianBasis(64, (0.02,)), 256, 1e-4, "fixed", tau=0.6)
    one, two = torch.full((1, 50, DIM), 1.0), torch.full((1, 50, DIM), 2.0)
    state = memory.write(memory.write(memory.initial_state(1, DIM), one), two)
    t = torch.linspace(0.02, 0.98, 97)
    signal = (memory.basis.evaluate(t) @ state.coefficients[0])[:, 0]
    away_from_the_step = (t - 0.6).abs() > 0.05
    expected = torch.where(t < 0.6, 1.0, 2.0)
    assert float((signal - expected)[away_from_the_step].abs().max()) < 0.1


def r_squared_by_age(contraction: str, segments: int = 20, length: int = 16) -> Tensor:
    """R² of each segment (segments,), oldest first, rebuilt from the memory after the last one.

    A segment is one random vector ``length`` times; 128 functions rebuild 20 steps if these share the line.
    """
    torch.manual_seed(0)
    memory = ContinuousMemory(GaussianBasis(128, (0.01, 0.02)), 128, ridge=0.01, contraction=contraction)
    x, state, ends = torch.randn(segments, 1, 32), memory.initial_state(1, 32), [0.0]
    for number in range(segments):
        state = memory.write(state, x[number].expand(1, length, 32))
        tau = naive.contraction(memory, number * length, length)
        ends = [end * tau for end in ends] + [1.0]
    edges = torch.tensor(ends)
    inside = (torch.arange(length) + 0.5) / length
    t = edges[:-1, None] + edges.diff()[:, None] * inside
    error = (memory.basis.evaluate(t) @ state.coefficients[0] - x).square().mean((1, 2))
    return 1 - error / x.square().mean((1, 2))


def test_proportional_contraction_keeps_old_segments_as_well_as_new_ones():
    proportional, fixed = r_squared_by_age("proportional"), r_squared_by_age("fixed")
    assert float(proportional.min()) > 0.85
    assert abs(float(proportional[:10].mean() - proportional[10:].mean())) < 0.03
    assert float(fixed[:4].mean()) < 0.4, "the fixed rule does forget here, so that this test can tell"
    assert float(fixed[-4:].mean()) > 0.95


def test_proportional_contraction_keeps_token_shares_equal_on_its_grid():
    """The shares of 2,000 segments times 2,000: 1 each by the exact rule, 2.5 % off by a grid of 5 %."""
    shares, taus = torch.ones(1, dtype=torch.float64), set()
    for number in range(1, 2000):
        tau = proportional_contraction(torch.tensor([512 * number]), torch.tensor([512]), 0.0)
        taus.add(float(tau))
        shares = torch.cat([shares * tau, 1 - tau])
    torch.testing.assert_close(shares * 2000, torch.ones_like(shares), rtol=0, atol=0.025)
    assert len(taus) < OPERATORS_KEPT_AT_MOST, "rows of all ages must find their operators"


@pytest.mark.parametrize("num_tokens, length", [(512, 512), (511, 32), (1, 7), (16 * 33, 33), (100, 8000)])
def test_proportional_contraction_is_exact_up_to_16_segments(num_tokens, length):
    tau = proportional_contraction(torch.tensor([num_tokens]), torch.tensor([length]), 0.0)
    same(tau, torch.tensor([num_tokens / (num_tokens + length)], dtype=torch.float64), 1e-15)


@pytest.mark.parametrize(
    "contraction, share",
    [("square-root", torch.sqrt), ("logarithmic", torch.log1p)],
    ids=["square-root", "logarithmic"],
)
def test_contraction_gives_the_first_tokens_their_share_on_its_grid(contraction, share):
    """After 2,000 segments the first m tokens have share(m)/share(n) of [0, 1]; the grid's cells are 5 % wide."""
    ends, taus = torch.ones(1, dtype=torch.float64), set()
    for number in range(1, 2000):
        tau = CONTRACTIONS[contraction](torch.tensor([512 * number]), torch.tensor([512]), 0.0)
        taus.add(float(tau))
        ends = torch.cat([ends * tau, torch.ones(1, dtype=torch.float64)])
    expected = share(512 * torch.arange(1, 2001, dtype=torch.float64))
    torch.testing.assert_close(ends, expected / expected[-1], rtol=0.025, atol=0)
    assert len(taus) < OPERATORS_KEPT_AT_MOST, "rows of all ages must find their operators"


@pytest.mark.parametrize("contraction", ["square-root", "logarithmic"])
def test_contraction_keeps_the_first_segments_best(contraction):
    kept, proportional = (r_squared_by_age(rule, segments=80)[:4].mean() for rule in (contraction, "proportional"))
    assert float(kept) > 0.85
    assert float(proportional) < float(kept) - 0.1, "80 steps are too many for equal shares of 128 functions"


def test_horizon_makes_older_tokens_decay():
    """Up to 8 tokens every one has an equal share, from then on each update is that of τ = 8/(8 + L)."""
    bounded, unbounded = (ContinuousMemory(BASES[0], 10, 0.3, "proportional", horizon=horizon) for horizon in (8, None))
    fixed = ContinuousMemory(BASES[0], 10, 0.3, "fixed", tau=8 / 12)
    state, plain = empty(bounded, 1), torch.zeros(BASES[0].num_basis, DIM, dtype=torch.float64)
    for number in range(6):
        x = vectors(1, 4, number)
        rule = unbounded if number <= 2 else fixed
        expected = rule.write(state, x).coefficients
        plain = naive.write(plain, 4 * number, x[0], 4, bounded)
        state = bounded.write(state, x)
        same(state.coefficients, expected)
        same(state.coefficients[0], plain)
    assert state.num_tokens.tolist() == [24]


def test_horizon_leaves_sticky_samples_different_per_write():
    memory = ContinuousMemory(BASES[0], 10, 0.3, "proportional", sampling="sticky", horizon=8)
    state, x = memory.write(empty(memory, 1), vectors(1, 20)), vectors(1, 5)
    later = state._replace(num_tokens=state.num_tokens + 5)
    once, again = (memory.write(s, x, density=looked_at(1)).coefficients for s in (state, later))
    assert not torch.allclose(once, again, atol=1e-3)


def test_operators_are_shared_and_their_cache_is_bounded(no_operators):
    first, second = (ContinuousMemory(GaussianBasis(7, (0.1,)), 5, contraction="fixed", tau=0.5) for _ in range(2))
    for memory in (first, second):
        state = memory.write(empty(memory, 1), vectors(1, 4))
        memory.write(state, vectors(1, 4))
    assert len(OPERATORS.solved) == 2, "one for the first write and one for the second"
    for length in range(1, 200):
        first.write(empty(first, 1), vectors(1, length))
    assert len(OPERATORS.solved) == OPERATORS_KEPT
    for batch in (10, 200):
        for _ in range(3):
            x = vectors(batch, batch)
            first.write(empty(first, batch), x, lengths=torch.arange(1, batch + 1))
        assert len(OPERATORS.solved) <= OPERATORS_KEPT_AT_MOST


def test_operators_are_reused_by_rows_of_different_ages(no_operators, monkeypatch):
    """Documents of 40 segments, each row at another place: what the first rows needed serves the others."""
    memory = ContinuousMemory(GaussianBasis(7, (0.1,)), 5)
    solved = []
    solve = operators.refit_operators
    monkeypatch.setattr(operators, "refit_operators", lambda *arguments: solved.append(arguments) or solve(*arguments))
    state = empty(memory, 8)
    for segment in range(200):
        reset = (torch.arange(8) * 5 + segment) % 40 == 0
        state = memory.write(state, vectors(8, 4), reset=reset)
    assert len(solved) == len(set(solved)), "each operator is solved once"


# ---- Compiled


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["uniform", "sticky", "sticky-quantile"])
def test_write_compiles_into_one_graph_with_the_same_values_and_gradients(contraction, sampling):
    torch._dynamo.reset()  # which counts what it compiled, and gives up after a number of times
    memory = sticky(contraction, sampling)
    state = ContinuousState(*(torch.cat([part, part]) for part in after(sticky(contraction, "uniform"), [4])))
    gradients = []
    for write in (memory.write, torch.compile(memory.write, fullgraph=True)):
        x, coefficients = vectors(2, 5).requires_grad_(), state.coefficients.clone().requires_grad_()
        given = {"reset": torch.tensor([False, True]), "density": looked_at(2)}
        written = write(state._replace(coefficients=coefficients), x, torch.tensor([5, 3]), **given)
        assert written.num_tokens.tolist() == [9, 3]
        gradients.append(torch.autograd.grad(written.coefficients.square().sum(), (coefficients, x)))
    for a, b in zip(*gradients):
        same(a, b)


# ---- As one layer's long-term memory


def test_long_term_memory_joins_memory_and_attention():
    torch.manual_seed(0)
    memory = ContinuousMemory(BASES[0], 10)
    attention = ContinuousAttention(DIM, 1, BASES[0])
    joined = ContinuousLongTermMemory(memory, attention)
    x, query = vectors(2, 5).float(), vectors(2, 4, seed=1).float()
    state = joined.write(joined.initial_state(2), x, torch.tensor([5, 2]), torch.tensor([False, False]))
    expected = memory.write(memory.initial_state(2, DIM), x, [5, 2])
    assert torch.equal(state.coefficients, expected.coefficients)
    context, extra, (density, lengths, *_) = joined.read(
        query, query, torch.tensor([4, 2]), state, PlainAttention(DIM, 1)
    )
    assert extra is None and lengths.tolist() == [4, 2]
    expected_context, expected_density = attention(query, expected.coefficients)
    assert torch.equal(context, expected_context)
    assert torch.equal(density.mean, expected_density.mean)


# ---- Bad arguments


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"samples": 0}, "samples must be positive, got 0"),
        ({"samples": -3}, "samples must be positive, got -3"),
        ({"ridge": 0.0}, "ridge must be 1e-08 or more and finite, got 0.0"),
        ({"ridge": -1.0}, "ridge must be 1e-08 or more and finite, got -1.0"),
        ({"ridge": float("nan")}, "ridge must be 1e-08 or more and finite, got nan"),
        ({"ridge": float("inf")}, "ridge must be 1e-08 or more and finite, got inf"),
        ({"tau": 0.0}, r"tau must lie inside \(0, 1\), got 0.0"),
        ({"tau": 1.0}, r"tau must lie inside \(0, 1\), got 1.0"),
        ({"tau": float("nan")}, r"tau must lie inside \(0, 1\), got nan"),
        (
            {"horizon": 5, "contraction": "fixed"},
            "horizon needs the proportional contraction, got 5 with fixed",
        ),
        ({"horizon": 0}, "horizon must be positive, got 0"),
        (
            {"contraction": "halving"},
            "contraction must be one of fixed, proportional, square-root, logarithmic, got 'halving'",
        ),
        ({"sampling": "random"}, "sampling must be one of uniform, sticky, sticky-quantile, got 'random'"),
    ],
)
def test_continuous_memory_refuses_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContinuousMemory(BASES[0], **arguments)


def uncertain(rows: int) -> GaussianDensity:
    """The densities of 2 heads and 4 queries."""
    return GaussianDensity(torch.full((rows, 2, 4), 0.5), torch.full((rows, 2, 4), 0.01))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3, 5, DIM)}, r"x must be \(2, length, 3\).* got \(3, 5, 3\)"),
        ({"x": torch.zeros(2, 5, 4)}, r"x must be \(2, length, 3\).* got \(2, 5, 4\)"),
        ({"x": torch.zeros(2, DIM)}, r"x must be \(2, length, 3\).* got \(2, 3\)"),
        ({"lengths": [6, 5]}, r"lengths must lie in 0..5.* got \[6, 5\]"),
        ({"lengths": [-1, 5]}, r"lengths must lie in 0..5.* got \[-1, 5\]"),
        ({"lengths": [5]}, r"lengths must be \(2,\), one per row, got \(1,\)"),
        ({"lengths": [[5, 5]]}, r"lengths must be \(2,\), one per row, got \(1, 2\)"),
        ({"reset": [True]}, r"reset must be \(2,\), one per row, got \(1,\)"),
        ({"density": uncertain(3)}, r"density must be \(2, heads, queries\), got \(3, 2, 4\)"),
        ({"density": uncertain(2), "queries": [1]}, r"queries must be \(2,\), .* got \(1,"),
    ],
)
def test_write_refuses_wrong_arguments(arguments, message):
    memory = ContinuousMemory(BASES[0], 16, sampling="sticky" if "density" in arguments else "uniform")
    state, correct = memory.initial_state(2, DIM), {"x": torch.zeros(2, 5, DIM)}
    memory.write(state, **correct)
    with pytest.raises(ValueError, match=message) as error:
        memory.write(state, **(correct | arguments))
    assert "\n" not in str(error.value)


def test_write_refuses_a_state_of_another_basis():
    with pytest.raises(ValueError, match="state has 7 coefficients per channel, the basis 12"):
        ContinuousMemory(BASES[0]).write(empty(ContinuousMemory(BASES[1]), 2), vectors(2, 5))


def test_continuous_memory_refuses_too_few_samples():
    basis = GaussianBasis(16, (0.01, 0.05))
    with pytest.raises(ValueError, match=r"samples must be more for 16 functions .* got 16: .* give more samples"):
        ContinuousMemory(basis, 16)


@pytest.mark.parametrize("contraction", sorted(CONTRACTIONS))
def test_write_stays_bounded_for_a_thousand_updates(contraction):
    memory = ContinuousMemory(GaussianBasis(16, (0.01, 0.05)), 64, contraction=contraction)
    state = memory.initial_state(1, 2)
    generator = torch.Generator().manual_seed(0)
    largest = []
    for _ in range(1000):
        state = memory.write(state, torch.randn(1, 13, 2, generator=generator))
        largest.append(float(state.coefficients.abs().max()))
    assert max(largest[500:]) < 3 * max(largest[:100])


@pytest.mark.parametrize("density", ["gaussian", "sparsemax", "truncated-gaussian", "renormalized-gaussian"])
def test_figures_have_the_share_of_a_density_outside_the_line(density):
    memory = ContinuousLongTermMemory(ContinuousMemory(BASES[0]), ContinuousAttention(8, 2, BASES[0], density))
    mean = torch.tensor([[[0.0, 0.5, 1.0]]])
    report = ContinuousReport(DENSITIES[density](mean, torch.full_like(mean, 1e-3)), torch.tensor([3]))
    figures = memory.figures(report)
    assert {name for name, figure in figures.items() if figure.weight} <= {"kl"}
    if density in ("gaussian", "sparsemax"):
        torch.testing.assert_close(figures["ltm_outside"].value, torch.tensor([[[0.5, 0.0, 0.5]]]))
    else:
        assert "ltm_outside" not in figures
