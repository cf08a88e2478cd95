"""Attention over the segment and the short-term memory against the reference, key by key."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import reference
from fairseq_infformer.modules.decoder_layer import attention_mask
from fairseq_infformer.modules.relative_attention import (
    RelativeAttention,
    relative_shift,
    sinusoidal_distances,
)
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

# (T, W, how many of the W places each of two rows fills)
SHAPES = [(4, 0, [0, 0]), (1, 0, [0, 0]), (3, 5, [5, 5]), (4, 3, [0, 3]), (1, 6, [2, 6]), (5, 2, [0, 0])]


def build(embed_dim: int = 6, num_heads: int = 2) -> RelativeAttention:
    """In float64, with position and content biases that are not zero."""
    torch.manual_seed(0)
    attention = RelativeAttention(embed_dim, num_heads).double()
    torch.nn.init.normal_(attention.content_bias)
    torch.nn.init.normal_(attention.position_bias)
    return attention


def inputs(queries: int, width: int, held: list[int], dim: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Query (2, T, C), hidden (2, W + T, C) and the mask."""
    torch.manual_seed(1)
    query = torch.randn(2, queries, dim, dtype=torch.float64)
    hidden = torch.randn(2, width + queries, dim, dtype=torch.float64)
    mask = attention_mask(ShortTermMemory(hidden[:, :width], torch.tensor(held)), queries)
    return query.requires_grad_(), hidden.requires_grad_(), mask


@pytest.mark.parametrize("count, dim", [(1, 4), (7, 4), (7, 5), (7, 1), (3000, 8)])
def test_encodings_are_those_of_the_distances(count, dim):
    """From the farthest to the own place, accurate however far that is."""
    fast = sinusoidal_distances(count, dim, torch.zeros(1, dtype=torch.float64))
    slow = torch.stack([reference.encoded_distance(count - 1 - place, dim) for place in range(count)])
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("queries, keys", [(1, 1), (3, 3), (2, 5), (1, 4)])
def test_the_shift_gives_every_key_the_score_of_its_distance(queries, keys):
    scores = torch.randn(2, 3, queries, keys)
    shifted = relative_shift(scores)
    for i in range(queries):
        for j in range(keys - queries + i + 1):
            distance = keys - queries + i - j
            assert torch.equal(shifted[:, :, i, j], scores[:, :, i, keys - 1 - distance])


@pytest.mark.parametrize("queries, width, held", SHAPES)
def test_values_and_gradients_are_those_of_the_reference(queries, width, held):
    attention = build()
    query, hidden, mask = inputs(queries, width, held)
    fast, slow = attention(query, hidden, mask), reference.relative_attention(query, hidden, held, attention)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    parameters = [query, hidden, *attention.parameters()]
    weights = torch.randn_like(fast)
    gradients = [torch.autograd.grad((y * weights).sum(), parameters) for y in (fast, slow)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_an_odd_width_works():
    attention = build(embed_dim=5, num_heads=1)
    query, hidden, mask = inputs(3, 2, [2, 1], dim=5)
    slow = reference.relative_attention(query, hidden, [2, 1], attention)
    torch.testing.assert_close(attention(query, hidden, mask), slow, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    attention = build()
    query, hidden, mask = inputs(3, 2, [2, 1])
    assert torch.autograd.gradcheck(lambda q, h: attention(q, h, mask), (query, hidden))


def test_float32_is_close_to_float64():
    query, hidden, mask = inputs(4, 3, [1, 3])
    exact, single = build()(query, hidden, mask), build().float()(query.float(), hidden.float(), mask)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_by_a_few_roundings(dtype):
    query, hidden, mask = inputs(4, 3, [1, 3])
    exact, rounded = build()(query, hidden, mask), build().to(dtype)(query.to(dtype), hidden.to(dtype), mask)
    assert rounded.dtype == dtype
    error = (rounded.double() - exact).abs().max() / exact.abs().max()
    assert float(error) < 20 * torch.finfo(dtype).eps


def test_no_query_sees_the_future_or_an_empty_place():
    attention, (query, hidden, mask) = build(), inputs(4, 3, [1, 3])
    before = attention(query, hidden, mask)
    changed = hidden.detach().clone()
    changed[:, 3 + 2] += 1  # the third place of the segment
    changed[0, :2] = 1e4  # the two places that the first row's short-term memory does not fill
    after = attention(query, changed, mask)
    assert torch.equal(after[:, :2], before[:, :2])
    assert bool((after[:, 2:] != before[:, 2:]).any(dim=-1).all())


def test_dropout_is_for_training_alone():
    attention, arguments = build(), inputs(4, 3, [1, 3])
    exact = attention(*arguments)
    attention.dropout = 0.5
    assert not torch.equal(attention.train()(*arguments), exact)
    assert torch.equal(attention.eval()(*arguments), exact)


@pytest.mark.parametrize("num_heads", [0, 4, -2])
def test_bad_arguments_are_named(num_heads):
    with pytest.raises(ValueError, match=f"multiple of num_heads, got 6 and {num_heads}"):
        RelativeAttention(6, num_heads)
