"""Attention over the segment and the short-term memory, score by score: what tests compare the fast code with."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .alibi import AlibiAttention
from .base import Attention
from .plain import PlainAttention
from .relative import RelativeAttention
from .rotary import RotaryAttention
from .simplified import SimplifiedRelativeAttention
from .suppression import SUPPRESSION


def encoded_distance(distance: int, dim: int) -> Tensor:
    """The sinusoidal encoding (dim,) of a distance: first all sines, then all cosines (Dai et al. 2019)."""
    half = (dim + 1) // 2
    angles = [distance / 10000 ** (k / half) for k in range(half)]
    encoding = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return torch.tensor(encoding[:dim], dtype=torch.float64)


class Pair(NamedTuple):
    """A query and a key of one head, (d,) each, and their positions in the window."""

    query: Tensor
    key: Tensor
    query_position: int
    key_position: int


def content_score(pair: Pair, head: int, attention: PlainAttention) -> Tensor:
    """Score () by content alone (Vaswani et al. 2017, section 3.2.1)."""
    return pair.query @ pair.key / math.sqrt(len(pair.query))


def relative_score(pair: Pair, head: int, attention: RelativeAttention) -> Tensor:
    """Score () by content and by distance (Transformer-XL, Dai et al. 2019, section 3.3)."""
    d = len(pair.query)
    part = slice(head * d, (head + 1) * d)
    u, v = attention.content_bias[part], attention.position_bias[part]
    encoding = encoded_distance(pair.query_position - pair.key_position, attention.embed_dim)
    distance = (attention.position_proj.weight @ encoding)[part]
    return ((pair.query + u) @ pair.key + (pair.query + v) @ distance) / math.sqrt(d)


def rotation(position: int, dim: int) -> Tensor:
    """The block-diagonal matrix (dim, dim) that turns each pair of components (RoPE, Su et al. 2021, equation 15)."""
    blocks = []
    for i in range(dim // 2):
        angle = position * 10000 ** (-2 * i / dim)
        blocks.append([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return torch.block_diag(*torch.tensor(blocks, dtype=torch.float64))


def rotary_score(pair: Pair, head: int, attention: RotaryAttention) -> Tensor:
    """Score () of a query and a key that are turned by their positions (RoPE, Su et al. 2021, section 3.2)."""
    d = len(pair.query)
    return (rotation(pair.query_position, d) @ pair.query) @ (rotation(pair.key_position, d) @ pair.key) / math.sqrt(d)


def alibi_slopes(num_heads: int) -> list[float]:
    """The slope of each head (ALiBi, Press et al. 2022, section 3 and their code for what is no power of two)."""
    power = 1
    while power * 2 <= num_heads:
        power *= 2
    slopes = [2 ** (-8 / power * (head + 1)) for head in range(power)]
    finer = [2 ** (-8 / (2 * power) * (head + 1)) for head in range(2 * power)]
    return slopes + finer[0::2][: num_heads - power]


def alibi_score(pair: Pair, head: int, attention: AlibiAttention) -> Tensor:
    """Score () with the head's penalty per token of distance (ALiBi, Press et al. 2022, section 3)."""
    penalty = alibi_slopes(attention.num_heads)[head] * (pair.query_position - pair.key_position)
    return content_score(pair, head, attention) - penalty


SCORES: dict[type[Attention], Callable[[Pair, int, Any], Tensor]] = {
    RelativeAttention: relative_score,
    RotaryAttention: rotary_score,
    AlibiAttention: alibi_score,
    PlainAttention: content_score,
}


def short_attention(query: Tensor, hidden: Tensor, lengths: list[int], attention: Attention) -> Tensor:
    """Attention over the segment and the short-term memory score by score, without dropout.

    Args:
        query: projected queries (B, T, C).
        hidden: (B, W + T, C), the short-term memory and the segment.
        lengths: how many of the W hidden states each row has; they are the last ones.
        attention: where the parameters are; its class says how positions are encoded.

    Returns:
        (B, T, C).
    """
    score = SCORES[type(attention)]
    batch, queries, dim = query.shape
    heads, d = attention.num_heads, dim // attention.num_heads
    width = hidden.shape[1] - queries
    rows = []
    for row in range(batch):
        keys, values = F.linear(hidden[row], attention.kv_proj.weight, attention.kv_proj.bias).split(dim, dim=1)
        contexts = []
        for i in range(queries):
            by_head = []
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                seen = range(width - lengths[row], width + i + 1)
                pairs = (Pair(query[row, i, part], keys[j, part], width + i, j) for j in seen)
                weights = torch.softmax(torch.stack([score(pair, head, attention) for pair in pairs]), dim=0)
                by_head.append(weights @ values[seen.start : seen.stop, part])
            contexts.append(torch.cat(by_head))
        rows.append(torch.stack(contexts))
    return F.linear(torch.stack(rows), attention.out_proj.weight, attention.out_proj.bias)


def simplified_attention(
    query: Tensor, hidden: Tensor, seen: list[list[int]], attention: SimplifiedRelativeAttention
) -> Tensor:
    """Attention in a segment score by score (Memformer, Wu et al. 2020, equations 2 to 4), without dropout.

    Args:
        query: projected queries (T, C) of one row. hidden: (T, C). seen: for each query, the keys that it may see.

    Returns:
        (T, C).
    """
    dim, d = query.shape[1], query.shape[1] // attention.num_heads
    keys, values = F.linear(hidden, attention.kv_proj.weight, attention.kv_proj.bias).split(dim, dim=1)
    rows = []
    for i, visible in enumerate(seen):
        by_head = []
        for part in torch.arange(dim).split(d):
            encoded = [(attention.position_proj.weight @ encoded_distance(i - j, dim))[part] for j in visible]
            scores = [query[i, part] @ (keys[j, part] + r) / math.sqrt(d) for j, r in zip(visible, encoded)]
            weights = torch.softmax(torch.stack(scores), dim=0)
            by_head.append(sum(w * (values[j, part] + r) for w, j, r in zip(weights, visible, encoded)))
        rows.append(torch.cat(by_head))
    return F.linear(torch.stack(rows), attention.out_proj.weight, attention.out_proj.bias)


def suppress(scores: Tensor, gamma: float = SUPPRESSION) -> Tensor:
    """The weights (K,) of one query after weak attention suppression (Shi et al. 2020), from its scores (K,)."""
    weights = torch.softmax(scores, dim=0).tolist()
    mean = sum(weights) / len(weights)
    deviation = math.sqrt(sum((weight - mean) ** 2 for weight in weights) / len(weights))
    weak = torch.tensor([weight < mean - gamma * deviation for weight in weights])
    return torch.softmax(scores.masked_fill(weak, -torch.inf), dim=0)
