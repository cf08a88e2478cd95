"""What is Transformer-XL's own: encodings of distances, the shift, and scores that are never stored."""

import pytest
import torch

from fairseq_infformer.modules.attention import naive
from fairseq_infformer.modules.attention.relative import (
    RelativeAttention,
    relative_shift,
    sinusoidal_distances,
)
from fairseq_infformer.modules.layers import attention_mask
from fairseq_infformer.modules.short_term_memory import ShortTermMemory


@pytest.mark.parametrize("count, dim", [(1, 4), (7, 4), (7, 5), (7, 1), (3000, 8)])
def test_sinusoidal_distances_match_reference(count, dim):
    """From the farthest to the own place, accurate however far that is."""
    fast = sinusoidal_distances(count, dim, torch.zeros(1, dtype=torch.float64))
    slow = torch.stack([naive.encoded_distance(count - 1 - place, dim) for place in range(count)])
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("queries, keys", [(1, 1), (3, 3), (2, 5), (1, 4)])
def test_relative_shift_gives_each_key_the_score_of_its_distance(queries, keys):
    scores = torch.randn(2, 3, queries, keys + 1)
    shifted = relative_shift(scores)
    assert shifted.shape == (2, 3, queries, keys)
    for i in range(queries):
        for j in range(keys - queries + i + 1):
            distance = keys - queries + i - j
            assert torch.equal(shifted[:, :, i, j], scores[:, :, i, keys - distance])


def test_relative_attention_accepts_an_odd_width():
    torch.manual_seed(0)
    attention = RelativeAttention(5, 1).double()
    query, hidden = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 5, 5, dtype=torch.float64)
    mask = attention_mask(ShortTermMemory(hidden[:, :2], torch.tensor([2, 1])), 3)
    slow = naive.short_attention(query, hidden, [2, 1], attention)
    torch.testing.assert_close(attention(query, hidden, mask), slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("held", [[100, 100], [100, 7]])
def test_relative_attention_saves_no_scores_for_backward(held):
    heads, queries, width, dim = 4, 150, 100, 8
    attention = RelativeAttention(dim, heads, dropout=0.1)
    hidden = torch.randn(2, width + queries, dim)
    mask = attention_mask(ShortTermMemory(hidden[:, :width], torch.tensor(held)), queries)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention(hidden[:, width:], hidden, mask)
    floats = sum(x.numel() for x in kept if x.is_floating_point())
    assert floats < 2 * heads * queries * (width + queries) / 2
