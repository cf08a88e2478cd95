"""Attention over the segment and the short-term memory against the reference, score by score, for all encodings."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.modules.attention import POSITION_ENCODINGS, Attention, naive, relative
from fairseq_infformer.modules.attention.alibi import alibi_slopes
from fairseq_infformer.modules.layers import attention_mask
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

DIM, HEADS = 12, 3  # a number of heads that is no power of two
# (T, W, how many of the W places each of two rows fills)
SHAPES = [(4, 0, [0, 0]), (1, 0, [0, 0]), (3, 5, [5, 5]), (4, 3, [0, 3]), (1, 6, [2, 6]), (5, 2, [0, 0])]


@pytest.fixture(params=[*POSITION_ENCODINGS, "xl in small blocks"])
def encoding(request, monkeypatch) -> str:
    """Every encoding's name; Transformer-XL's also with blocks of two queries and one head."""
    name, _, small_blocks = request.param.partition(" ")
    if small_blocks:
        monkeypatch.setattr(relative, "BLOCK_QUERIES", 2)
        monkeypatch.setattr(relative, "CPU_BLOCK_SCORES", 1)
    return name


def build(encoding: str, dropout: float = 0.0, dim: int = DIM, heads: int = HEADS) -> Attention:
    """In float64, with biases that are not zero; where positions are learned, of all projections, as GPT-2 has them."""
    torch.manual_seed(0)
    attention = POSITION_ENCODINGS[encoding](dim, heads, dropout, bias=encoding == "learned").double()
    for parameter in attention.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    return attention


def inputs(queries: int, width: int, held: list[int], dim: int = DIM) -> tuple[Tensor, Tensor, Tensor]:
    """Query (2, T, C), hidden (2, W + T, C) and the mask."""
    torch.manual_seed(1)
    query = torch.randn(2, queries, dim, dtype=torch.float64)
    hidden = torch.randn(2, width + queries, dim, dtype=torch.float64)
    mask = attention_mask(ShortTermMemory(hidden[:, :width], torch.tensor(held)), queries)
    return query.requires_grad_(), hidden.requires_grad_(), mask


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("queries, width, held", SHAPES)
def test_attention_matches_reference_in_values_and_gradients(encoding, queries, width, held, dtype, tolerance):
    attention, (query, hidden, mask) = build(encoding), inputs(queries, width, held)
    slow = naive.short_attention(query, hidden, held, attention)
    weights = torch.randn_like(slow)
    exact = torch.autograd.grad((slow * weights).sum(), [query, hidden, *attention.parameters()])
    attention, query, hidden = attention.to(dtype), query.to(dtype), hidden.to(dtype)
    fast = attention(query, hidden, mask)
    gradients = torch.autograd.grad((fast * weights).sum(), [query, hidden, *attention.parameters()])
    for a, b in zip([fast, *gradients], [slow, *exact]):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("held", [[2, 2], [2, 1]])
def test_attention_passes_gradcheck(encoding, dropout, held):
    attention = build(encoding, dropout, dim=4, heads=2)  # small, as each number is moved by itself
    query, hidden, mask = inputs(3, 2, held, dim=4)

    def attend(q: Tensor, h: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(2)  # the same draws each time
        return attention(q, h, mask)

    assert torch.autograd.gradcheck(attend, (query, hidden, *attention.parameters()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_in_half_precision_errs_by_a_few_roundings(encoding, dtype):
    results = []
    for precision in (torch.float64, dtype):
        query, hidden, mask = inputs(4, 3, [1, 3])
        y = build(encoding).to(precision)(query.to(precision), hidden.to(precision), mask)
        assert y.dtype == precision
        results.append([y, *torch.autograd.grad(y.square().sum(), [query, hidden])])
    for exact, rounded in zip(*results):
        error = (rounded.double() - exact).abs().max() / exact.abs().max()
        assert float(error) < 20 * torch.finfo(dtype).eps


def test_attention_ignores_the_future_and_empty_slots(encoding):
    attention, (query, hidden, mask) = build(encoding), inputs(4, 3, [1, 3])
    before = attention(query, hidden, mask)
    changed = hidden.detach().clone()
    changed[:, 3 + 2] += 1  # the third place of the segment
    changed[0, :2] = 1e4  # the two places that the first row's short-term memory does not fill
    after = attention(query, changed, mask)
    assert torch.equal(after[:, :2], before[:, :2])
    assert bool((after[:, 2:] != before[:, 2:]).any(dim=-1).all())


@pytest.mark.parametrize("places", [1, 500])
def test_attention_depends_on_distances_only(encoding, places):
    """Empty places before the window move every position and change nothing."""
    attention, (query, hidden, mask) = build(encoding), inputs(4, 3, [1, 3])
    _, before, moved_mask = inputs(4, 3 + places, [1, 3])
    moved = torch.cat([before[:, :places], hidden], dim=1)
    torch.testing.assert_close(
        attention(query, moved, moved_mask), attention(query, hidden, mask), rtol=1e-10, atol=1e-10
    )


def test_attention_depends_on_order_unless_positions_are_learned(encoding):
    attention, (query, hidden, mask) = build(encoding), inputs(1, 4, [4, 4])
    turned = torch.cat([hidden[:, :4].flip(1), hidden[:, 4:]], dim=1)
    same = torch.allclose(attention(query, turned, mask), attention(query, hidden, mask), atol=1e-3)
    assert same == (encoding == "learned")


def test_dropout_keeps_the_mean_and_acts_only_in_training(encoding):
    attention, (query, hidden, mask) = build(encoding, dropout=0.3), inputs(4, 3, [1, 3])
    exact = attention.eval()(query, hidden, mask)
    assert torch.equal(attention(query, hidden, mask), exact)
    count = 4000
    with torch.no_grad():
        attention.train()
        rows = [attention(query, hidden, mask) for _ in range(count // 100)]
        assert not any(torch.equal(a, b) for a, b in pairwise(rows))
        many = attention(query.repeat(count, 1, 1), hidden.repeat(count, 1, 1), mask.repeat(count, 1, 1, 1))
    draws = many.unflatten(0, (count, 2))
    error = (draws.mean(dim=0) - exact) / (draws.std(dim=0) / count**0.5)
    assert float(error.abs().max()) < 5  # standard errors
    # The first query of the first row sees two places: both fall away with probability 0.3² in each head.
    nothing = torch.zeros(DIM) if attention.out_proj.bias is None else attention.out_proj.bias
    silent = (draws[:, 0, 0] == nothing).all(dim=-1).double().mean()
    assert float(silent) == pytest.approx(0.3 ** (2 * HEADS), abs=0.005)


def test_dropout_repeats_under_activation_checkpointing(encoding):
    attention, (query, hidden, mask) = build(encoding, dropout=0.3), inputs(5, 3, [1, 3])
    gradients = []
    for attend in (attention, lambda *x: checkpoint(attention, *x, use_reentrant=False)):
        torch.manual_seed(3)
        first, second = attend(query, hidden, mask), attend(query, hidden, mask)
        assert not torch.equal(first, second)
        gradients.append(torch.autograd.grad((first * second).sum(), [query, hidden, *attention.parameters()]))
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("held", [[2, 2], [2, 1]])
def test_attention_compiles_into_one_graph(encoding, held):
    torch.compiler.reset()
    attention, (query, hidden, mask) = build(encoding, dim=4, heads=2), inputs(3, 2, held, dim=4)
    results = []
    for attend in (attention, torch.compile(attention, fullgraph=True, backend="aot_eager")):
        y = attend(query, hidden, mask)
        results.append([y, *torch.autograd.grad(y.square().sum(), [query, hidden, *attention.parameters()])])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_heads", [0, 5, -2])
def test_heads_must_divide_width(encoding, num_heads):
    with pytest.raises(ValueError, match=f"multiple of num_heads, got 12 and {num_heads}"):
        POSITION_ENCODINGS[encoding](DIM, num_heads)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_must_be_a_probability_below_one(encoding, dropout):
    with pytest.raises(ValueError, match=f"attention dropout must lie in .0, 1., got {dropout}"):
        POSITION_ENCODINGS[encoding](DIM, HEADS, dropout)


def test_rotary_needs_an_even_head_width():
    with pytest.raises(ValueError, match="must be even, got 12 / 4"):
        POSITION_ENCODINGS["rope"](DIM, 4)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 8, 10, 12, 16])
def test_alibi_slopes_match_reference(num_heads):
    slopes = alibi_slopes(num_heads, torch.zeros(1, dtype=torch.float64)).flatten().tolist()
    assert slopes == pytest.approx(naive.alibi_slopes(num_heads), rel=1e-12)
    assert len(set(slopes)) == num_heads


def test_alibi_slopes_of_eight_heads_are_those_of_the_paper():
    slopes = alibi_slopes(8, torch.zeros(1)).flatten().tolist()
    assert slopes == pytest.approx([2.0**-n for n in range(1, 9)], rel=1e-6)  # exp2 errs by a rounding or two
