"""Memformer's attention with relative positions against the reference, score by score."""

import pytest
import torch

from fairseq_infformer.modules.attention import SimplifiedRelativeAttention
from fairseq_infformer.modules.attention.naive import simplified_attention
from fairseq_infformer.modules.attention.simplified import by_distance, by_key

DIM, HEADS, LENGTH = 12, 3, 6


def build(**settings) -> SimplifiedRelativeAttention:
    torch.manual_seed(0)
    attention = SimplifiedRelativeAttention(DIM, HEADS, **settings).double()
    torch.nn.init.normal_(attention.kv_proj.bias)
    return attention


@pytest.mark.parametrize("length", [1, 2, LENGTH])
@pytest.mark.parametrize("future", [False, True])
def test_attention_matches_the_reference_in_values_and_gradients(length, future):
    attention = build()
    query, hidden = (torch.randn(1, length, DIM, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.zeros(length, length, dtype=torch.bool) if future else torch.ones(length, length).triu(1).bool()
    seen = [[j for j in range(length) if not mask[i, j]] for i in range(length)]
    fast, slow = attention(query, hidden, mask)[0], simplified_attention(query[0], hidden[0], seen, attention)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    weights = torch.randn(length, DIM, dtype=torch.float64)
    inputs = [query, hidden, *attention.parameters()]
    for found, expected in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (fast, slow))):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_attention_tells_every_distance_before_and_after_a_query_apart():
    """Public code put all keys after a query into one bucket."""
    attention, middle = build(), 4
    hidden = torch.ones(1, 2 * middle + 1, DIM, dtype=torch.float64)
    found = []
    for key in range(2 * middle + 1):
        mask = torch.ones(2 * middle + 1, 2 * middle + 1, dtype=torch.bool)
        mask[:, key] = False
        found.append(attention(hidden, hidden, mask)[0, middle])
    distances = torch.cdist(torch.stack(found), torch.stack(found))
    assert float(distances[~torch.eye(len(found), dtype=torch.bool)].min()) > 0.05


@pytest.mark.parametrize(("queries", "length"), [(1, 1), (1, 4), (3, 3), (3, 5)])
def test_by_key_takes_the_column_of_each_distance_and_by_distance_gives_it_back(queries, length):
    distances = torch.arange(length - 1, -queries - 1, -1).expand(queries, -1)
    keys = by_key(distances.contiguous())
    assert keys.tolist() == [[length - queries + i - j for j in range(length)] for i in range(queries)]
    weights = torch.randn(queries, length)
    spread = by_distance(weights)
    assert torch.equal(by_key(spread), weights) and spread.count_nonzero() == weights.numel()
