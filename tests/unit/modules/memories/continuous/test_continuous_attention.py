"""Continuous attention under every registered density, by both addressings, against the reference, query by query."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import DENSITIES, ContinuousAttention, GaussianBasis
from fairseq_infformer.modules.memories.continuous import naive

BASIS = GaussianBasis(12, (0.05, 0.2))
# The paper's form, the defaults, and a floor with the paper's start.
FORMS = [{"min_sigma": 0.0, "flat_start": True}, {}, {"min_sigma": 0.1, "flat_start": True}]
SETTINGS = [{"density": name, "addressing": "projection"} for name in sorted(DENSITIES)]
SETTINGS += [{"density": "gaussian", "addressing": name} for name in ("content", "mixed")]


@pytest.fixture(params=SETTINGS)
def settings(request) -> dict[str, str]:
    return request.param


def build(**arguments) -> ContinuousAttention:
    """Width 6, 2 heads, in float64, with weights that move the densities about."""
    torch.manual_seed(0)
    settings = {"embed_dim": 6, "num_heads": 2, "density": "gaussian"} | arguments
    attention = ContinuousAttention(basis=BASIS, **settings).double()
    for projection in (attention.mean_proj, attention.variance_proj, attention.out_proj):
        if projection is not None:
            torch.nn.init.normal_(projection.weight)
    return attention


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Query (2, 3, 6) and coefficients (2, 12, 6)."""
    torch.manual_seed(1)
    query, coefficients = (torch.randn(2, count, 6, dtype=torch.float64) for count in (3, 12))
    return query.to(dtype).requires_grad_(), coefficients.to(dtype).requires_grad_()


@pytest.mark.parametrize("form", FORMS)
def test_read_matches_reference_in_values_and_gradients(settings, form):
    attention = build(**settings, **form)
    query, coefficients = inputs()
    context, density = attention(query, coefficients)
    slow_context, mean, variance = naive.read(query, coefficients, attention, settings["density"])
    torch.testing.assert_close(density.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(density.variance, variance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(context, slow_context, rtol=1e-10, atol=1e-10)
    assert float(mean.max() - mean.min()) > 0.1, "the queries should look at different places"

    parameters = [query, coefficients, *attention.parameters()]
    weights = torch.randn_like(context)
    fast = torch.autograd.grad((context * weights).sum() + density.variance.sum(), parameters)
    slow = torch.autograd.grad((slow_context * weights).sum() + variance.sum(), parameters)
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("num_heads", [1, 3])
def test_mixed_addressing_accepts_an_odd_number_of_heads(num_heads):
    attention = build(addressing="mixed", num_heads=num_heads)
    context, density = attention(*inputs())
    slow_context, mean, variance = naive.read(*inputs(), attention)
    for fast, slow in ((context, slow_context), (density.mean, mean), (density.variance, variance)):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_read_passes_gradcheck(settings):
    attention = build(**settings)
    query, coefficients = inputs()
    assert torch.autograd.gradcheck(lambda q, b: attention(q, b)[0], (query[:, :2], coefficients))


def test_read_in_float32_is_close_to_float64(settings):
    exact, _ = build(**settings)(*inputs())
    single, density = build(**settings).float()(*inputs(torch.float32))
    assert single.dtype == density.mean.dtype == density.variance.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_read_in_half_precision_computes_in_float32(settings, dtype):
    """Only weights, queries and the output are rounded: the error is that of a few roundings."""
    attention = build(**settings).to(dtype)
    query, coefficients = inputs(torch.float32)
    context, density = attention(query.to(dtype), coefficients)
    assert context.dtype == dtype
    assert density.mean.dtype == density.variance.dtype == torch.float32
    exact, _ = build(**settings).float()(query, coefficients)
    error = (context.float() - exact).abs().max() / exact.abs().max()
    assert float(error) < 20 * torch.finfo(dtype).eps


def test_read_under_autocast_computes_in_float32(settings):
    attention = build(**settings).float()
    query, coefficients = inputs(torch.float32)
    exact, exact_density = attention(query, coefficients)
    with torch.autocast("cpu", torch.bfloat16):
        context, density = attention(query, coefficients)
    assert density.mean.dtype == density.variance.dtype == torch.float32
    torch.testing.assert_close(density.mean, exact_density.mean)
    error = (context.float() - exact).abs().max() / exact.abs().max()
    assert float(error) < 20 * torch.finfo(torch.bfloat16).eps


def test_read_has_the_shape_of_its_query(settings):
    attention = build(**settings)
    for batch, queries in ((1, 1), (3, 5), (2, 0)):
        query = torch.randn(batch, queries, 6, dtype=torch.float64)
        context, density = attention(query, torch.randn(batch, 12, 6, dtype=torch.float64))
        assert context.shape == (batch, queries, 6)
        assert density.mean.shape == density.variance.shape == (batch, 2, queries)


def test_read_of_an_empty_memory_is_zero(settings):
    context, density = build(**settings)(inputs()[0], torch.zeros(2, 12, 6, dtype=torch.float64))
    assert not context.any()
    assert bool(density.variance.isfinite().all())


def test_start_makes_half_of_the_heads_flat_and_half_tiles():
    empty = torch.zeros(2, 12, 8)
    _, start = ContinuousAttention(8, 4, BASIS)(torch.zeros(2, 3, 8), empty)
    torch.testing.assert_close(start.mean[0, :, 0], torch.tensor([0.5, 0.25, 0.5, 0.75]))
    torch.testing.assert_close(start.variance[0, :, 0].sqrt(), torch.tensor([0.5, 0.125, 0.5, 0.125]))


def test_start_of_the_papers_form_is_flat():
    empty = torch.zeros(2, 12, 6, dtype=torch.float64)
    _, flat = build(min_sigma=0, flat_start=True)(inputs()[0], empty)
    torch.testing.assert_close(flat.mean, torch.full_like(flat.mean, 0.5))
    torch.testing.assert_close(flat.variance, torch.full_like(flat.variance, 2.0).log())


def test_content_addressing_reads_where_the_signal_resembles_the_query():
    basis = GaussianBasis(64, (0.02,))
    attention = ContinuousAttention(4, 1, basis, addressing="content").double()
    torch.nn.init.eye_(attention.k_proj.weight)
    coefficients = torch.zeros(1, 64, 4, dtype=torch.float64)
    coefficients[0, 12, 1] = coefficients[0, 45, 2] = 1.0  # at 12/63 and 45/63 of the line
    query = 100 * torch.eye(4, dtype=torch.float64)[None, :3]  # the first fits no place
    _, density = attention(query, coefficients)
    # What the signal is at the far ends, and the hundred-fold query leaves of it, is far below 1e-9.
    torch.testing.assert_close(density.mean[0, 0, 1:], torch.tensor([12, 45]).double() / 63, rtol=1e-9, atol=1e-9)
    assert bool((density.variance[0, 0, 1:].sqrt() < 0.03).all())
    torch.testing.assert_close(density.mean[0, 0, 0].item(), 0.5)
    torch.testing.assert_close(density.variance[0, 0, 0].sqrt().item(), 1 / 12**0.5, rtol=0.03, atol=0)


@pytest.mark.parametrize("num_heads, embed_dim", [(1, 6), (3, 6), (32, 32)])
def test_start_is_finite_for_any_number_of_heads(num_heads, embed_dim):
    attention = ContinuousAttention(embed_dim, num_heads, BASIS)
    _, density = attention(torch.zeros(1, 1, embed_dim), torch.zeros(1, 12, embed_dim))
    assert bool(density.mean.isfinite().all() & density.variance.isfinite().all())
    assert bool((density.variance > 0.05**2).all())


@pytest.mark.parametrize("settings", [{"min_sigma": 0.6}, {"basis": GaussianBasis(8, (0.6,))}], ids=["floor", "basis"])
def test_start_is_finite_with_a_wide_floor(settings):
    attention = ContinuousAttention(**({"embed_dim": 6, "num_heads": 2, "basis": BASIS} | settings))
    context, density = attention(*(x.float() for x in inputs()[:1]), torch.zeros(2, attention.basis.num_basis, 6))
    assert all(parameter.isfinite().all() for parameter in attention.parameters())
    assert bool((density.variance > 0.36).all()) and density.variance.isfinite().all() and context.isfinite().all()


def test_read_without_a_floor_stays_finite_with_all_attention_on_one_position(settings):
    attention = build(**settings, min_sigma=0.0).float()
    query, coefficients = inputs(torch.float32)
    coefficients = (10 * coefficients).detach().requires_grad_()
    context, density = attention(1000 * query, coefficients)
    if settings["addressing"] != "projection":
        assert float(density.variance.min()) < 1e-9, "one place has all of it"
    loss = context.square().sum() + density.kl(0.05).sum() if hasattr(density, "kl") else context.square().sum()
    gradients = torch.autograd.grad(loss, [query, coefficients, *attention.parameters()])
    assert context.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)


def test_min_sigma_bounds_the_density_from_below(settings):
    attention = build(**settings, min_sigma=0.1)
    query, coefficients = inputs()
    if attention.variance_offset is not None:
        torch.nn.init.constant_(attention.variance_offset, -1e9)
    context, density = attention(query, 1e4 * coefficients)  # by content, scores that leave one place
    torch.testing.assert_close(density.variance, torch.full_like(density.variance, 0.01))
    context.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in (query, coefficients, *attention.parameters()))


def test_read_keeps_rows_independent(settings):
    attention, (query, coefficients) = build(**settings), inputs()
    context, _ = attention(query, coefficients)
    poisoned_query, poisoned = query.detach().clone(), coefficients.detach().clone()
    poisoned_query[1], poisoned[1] = float("nan"), float("inf")
    after, _ = attention(poisoned_query, poisoned)
    assert torch.equal(after[0], context[0])
    assert bool(after[1].isnan().any())


def test_read_keeps_queries_independent(settings):
    attention, (query, coefficients) = build(**settings), inputs()
    context, _ = attention(query, coefficients)
    changed = query.detach().clone()
    changed[:, 2] += 1
    after, _ = attention(changed, coefficients)
    assert torch.equal(after[:, :2], context[:, :2])
    assert not torch.equal(after[:, 2], context[:, 2])


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()  # which counts what it compiled, and gives up after a number of times
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [settings for settings in SETTINGS if settings["addressing"] != "content"]
)  # mixed has it
def test_read_compiles_with_the_same_values_and_gradients(settings, fresh_compiler):
    attention = build(**settings)
    # To the kernels once, with both kinds of heads; else to the two graphs alone, which is far quicker.
    backend = "inductor" if settings["addressing"] == "mixed" else "aot_eager"
    # Once for all numbers of queries.
    compiled = torch.compile(attention, backend=backend, fullgraph=True, dynamic=True)
    for queries in (3, 5):
        query = torch.randn(2, queries, 6, dtype=torch.float64, requires_grad=True)
        _, coefficients = inputs()
        parameters = [query, coefficients, *attention.parameters()]
        results = [read(query, coefficients) for read in (attention, compiled)]
        torch.testing.assert_close(*(context for context, _ in results), rtol=1e-10, atol=1e-10)
        totals = [context.sum() + density.variance.sum() for context, density in results]
        for a, b in zip(*(torch.autograd.grad(total, parameters) for total in totals)):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


class ContextOf(torch.nn.Module):
    """The context alone: torch saves no program that returns a NamedTuple unknown to it."""

    def __init__(self, attention: ContinuousAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, query: Tensor, coefficients: Tensor) -> Tensor:
        return self.attention(query, coefficients)[0]


def test_read_exports_with_the_same_values(settings, tmp_path):
    attention, (query, coefficients) = build(**settings), inputs()
    context, density = attention(query, coefficients)
    exported, exported_density = torch.export.export(attention, (query, coefficients)).module()(query, coefficients)
    torch.testing.assert_close(exported, context, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exported_density.mean, density.mean, rtol=1e-10, atol=1e-10)
    torch.export.save(torch.export.export(ContextOf(attention), (query, coefficients)), tmp_path / "read.pt2")
    loaded = torch.export.load(tmp_path / "read.pt2").module()
    torch.testing.assert_close(loaded(query, coefficients), context, rtol=1e-10, atol=1e-10)


def test_state_dict_round_trip():
    attention, (query, coefficients) = build(), inputs()
    names = {"k_proj", "v_proj", "out_proj", "mean_proj", "variance_proj"}
    state = attention.state_dict()
    assert {key.removesuffix(".weight") for key in state} - {"mean_offset", "variance_offset"} == names | {
        "basis.centers",
        "basis.scales",
    }
    fresh = ContinuousAttention(6, 2, BASIS, "gaussian").double()
    fresh.load_state_dict(state)
    assert torch.equal(fresh(query, coefficients)[0], attention(query, coefficients)[0])
    other = ContinuousAttention(6, 2, GaussianBasis(12, (0.05, 0.1)))
    with pytest.raises(ValueError, match=r"widths \(0.05, 0.2\), the model's has 12 of widths \(0.05, 0.1\)"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_heads": 4}, "multiple of num_heads, got 6 and 4"),
        ({"num_heads": 0}, "multiple of num_heads, got 6 and 0"),
        ({"addressing": "place"}, "addressing must be one of projection, content, mixed, got 'place'"),
        ({"density": "laplace"}, "density must be one of gaussian, .*, got 'laplace'"),
        ({"min_sigma": -0.1}, r"min_sigma must lie in \[0, 1\), or be -1 for the narrowest width, got -0.1"),
        ({"min_sigma": 1.0}, r"min_sigma must lie in \[0, 1\), .* got 1.0"),
        ({"min_sigma": float("nan")}, "min_sigma must .* got nan"),
    ],
)
def test_continuous_attention_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContinuousAttention(**({"embed_dim": 6, "num_heads": 2, "basis": BASIS} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": (2, 3, 5)}, r"query must be \(batch, time, 6\), got \(2, 3, 5\)"),
        ({"query": (3, 6)}, r"query must be .* got \(3, 6\)"),
        ({"coefficients": (1, 12, 6)}, r"coefficients must be \(2, 12, 6\), got \(1, 12, 6\)"),
        ({"coefficients": (2, 10, 6)}, r"coefficients must be .* got \(2, 10, 6\)"),
        ({"coefficients": (2, 12, 5)}, r"coefficients must be .* got \(2, 12, 5\)"),
    ],
)
def test_read_refuses_wrong_shapes(arguments, message):
    shapes = {"query": (2, 3, 6), "coefficients": (2, 12, 6)} | arguments
    with pytest.raises(ValueError, match=message) as error:
        ContinuousAttention(6, 2, BASIS)(**{name: torch.zeros(shape) for name, shape in shapes.items()})
    assert "\n" not in str(error.value)
