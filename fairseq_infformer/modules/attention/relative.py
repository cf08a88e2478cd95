"""Transformer-XL attention over the segment and the short-term memory, without storing the scores.

The scores of a block of queries are computed, used and dropped, and computed again for the gradients. A block skips the
keys that come after all of its queries.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .base import Attention

# Queries that a block has at least: fewer make slow matrix products, more compute scores that are masked.
BLOCK_QUERIES = 64
# Scores of one block. The few tensors of that size stay within a CPU's cache; a GPU needs much to do at once.
CPU_BLOCK_SCORES = 1 << 19
GPU_BLOCK_SCORES = 1 << 24


def sinusoidal_distances(count: int, dim: int, like: Tensor, last: int = 0) -> Tensor:
    """Sinusoidal encoding (count, dim) of the distances last+count-1 … last, in dtype and on device of ``like``."""
    exact = _at_least_float32(like)
    half = (dim + 1) // 2
    frequency = 10000 ** (-torch.arange(half, device=like.device, dtype=exact) / half)
    angle = torch.arange(last + count - 1, last - 1, -1, device=like.device, dtype=exact)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim].to(like.dtype)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def relative_shift(scores: Tensor) -> Tensor:
    """Scores by distance, seen as scores by key.

    Args:
        scores: (..., T, K + 1), contiguous, column p of query i scored for the distance K-p.

    Returns:
        a view (..., T, K), column j of query i for the key j, at distance K-T+i-j; keys after the query hold nonsense.
    """
    queries, columns = scores.shape[-2:]
    return scores.flatten(-2)[..., queries:].unflatten(-1, (queries, columns - 1))


def _relative_unshift(scores: Tensor) -> Tensor:
    """The transpose of ``relative_shift``: (..., T, K) by key to (..., T, K + 1) by distance."""
    queries, keys = scores.shape[-2:]
    return F.pad(scores.flatten(-2), (queries, 0)).unflatten(-1, (queries, keys + 1))


class RelativeAttention(Attention):
    """Attention with relative positions (Transformer-XL, Dai et al. 2019, section 3.3).

    The score of query i and key j is ``(q_i + u)·k_j + (q_i + v)·W_R r_{i-j}``, over √d, with r the sinusoidal
    encoding of the distance and u, v learned for each head. Arguments are those of ``Attention``.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__(embed_dim, num_heads, dropout, bias)
        self.position_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(embed_dim))
        self.position_bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.xavier_uniform_(self.position_proj.weight)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        distances = self.position_proj(sinusoidal_distances(keys.shape[2] + 1, self.embed_dim, keys))
        by_content, by_position = (
            # A scale and a bias of the query cost less than those of its scores.
            ((query + self.split_heads(bias[None])) * query.shape[-1] ** -0.5).to(keys.dtype)
            for bias in (self.content_bias, self.position_bias)
        )
        heads_first = (x.transpose(0, 1).contiguous() for x in (by_content, by_position, keys, values))
        mask = mask if mask.dim() == 2 else mask.squeeze(1)
        context = relative_attention(*heads_first, self.split_heads(distances), mask, self.dropout_now)
        return context.transpose(0, 1)


def relative_attention(
    by_content: Tensor,
    by_position: Tensor,
    keys: Tensor,
    values: Tensor,
    distances: Tensor,
    mask: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(by_content·keys + by_position·distances)·values``, with the distance of each query and key.

    Args:
        by_content, by_position: (H, B, T, d), scaled.
        keys, values: (H, B, K, d); the last T are the queries' own.
        distances: (H, K + 1, d), the projected encodings of the distances K … 0.
        mask: bool, True where attention is forbidden: (T, K), the future alone, or (B, T, K).
        dropout: on the weights.

    Returns:
        (H, B, T, d). Gradients of the first order flow to all but the mask.
    """
    heads, rows, _, _ = by_content.shape
    block_scores = CPU_BLOCK_SCORES if keys.device.type == "cpu" else GPU_BLOCK_SCORES
    per_query = rows * keys.shape[2]
    together = min(heads, max(1, block_scores // (per_query * BLOCK_QUERIES)))
    size = max(BLOCK_QUERIES, block_scores // (per_query * together))
    parts = zip(*(x.split(together) for x in (by_content, by_position, keys, values, distances)))
    seeds = torch.randint(2**62, (heads,)).tolist() if dropout > 0 else [0] * heads
    return torch.cat(
        [BlockwiseAttention.apply(*part, mask, size, Dropout(dropout, seed)) for part, seed in zip(parts, seeds)]
    )


class Dropout(NamedTuple):
    """Dropout that can be repeated in the backward pass."""

    probability: float
    seed: int

    def draws(self, device: torch.device) -> Optional[Callable[[Tensor], Tensor]]:
        """Draws factors 0 or 1/(1-p) like a tensor, the same ones in the same order per seed; None without dropout."""
        if self.probability == 0:
            return None
        kept, generator = 1 - self.probability, torch.Generator(device).manual_seed(self.seed)
        return lambda like: torch.empty_like(like).bernoulli_(kept, generator=generator).div_(kept)


class BlockwiseAttention(torch.autograd.Function):
    """Forward and backward over blocks of queries; see ``relative_attention``."""

    @staticmethod
    def forward(
        ctx,
        by_content: Tensor,
        by_position: Tensor,
        keys: Tensor,
        values: Tensor,
        distances: Tensor,
        mask: Tensor,
        size: int,
        dropout: Dropout,
    ) -> Tensor:
        context = torch.empty_like(by_content)
        draw = dropout.draws(keys.device)
        for queries, seen, reach in _blocks(by_content, keys, size):
            query, position = by_content[:, :, queries], by_position[:, :, queries]
            weights = _weights(query, position, keys[:, :, seen], distances[:, reach], mask[..., queries, seen])
            weights = weights.mul_(draw(weights)) if draw else weights
            context[:, :, queries] = weights.to(values.dtype) @ values[:, :, seen]
        ctx.save_for_backward(by_content, by_position, keys, values, distances, mask, context)
        ctx.size, ctx.dropout = size, dropout
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        by_content, by_position, keys, values, distances, mask, context = ctx.saved_tensors
        exact = _at_least_float32(grad)
        # Σ_j weight_j · its gradient, which the softmax takes off (Dao et al. 2022, FlashAttention).
        mean = (grad.to(exact) * context).sum(-1, keepdim=True)
        grad_content, grad_position = torch.empty_like(by_content), torch.empty_like(by_position)
        # Sums over blocks lie with the keys last: a CPU is faster at that product.
        grad_keys, grad_values, grad_distances = (
            torch.zeros(x.mT.shape, dtype=exact, device=x.device) for x in (keys, values, distances)
        )
        draw = ctx.dropout.draws(keys.device)
        for queries, seen, reach in _blocks(by_content, keys, ctx.size):
            query, position, upstream = (x[:, :, queries] for x in (by_content, by_position, grad))
            key, value, distance = keys[:, :, seen], values[:, :, seen], distances[:, reach]
            weights = _weights(query, position, key, distance, mask[..., queries, seen])
            grad_weights = (upstream @ value.mT).to(exact)
            dropped = weights
            if draw:
                kept = draw(weights)
                dropped = weights * kept
                grad_weights *= kept
            grad_values[..., seen] += upstream.mT @ dropped.to(grad.dtype)
            by_key = grad_weights.sub_(mean[:, :, queries]).mul_(weights).to(grad.dtype)
            by_distance = _relative_unshift(by_key).flatten(1, 2)
            grad_content[:, :, queries] = by_key @ key
            grad_keys[..., seen] += query.mT @ by_key
            grad_position[:, :, queries] = (by_distance @ distance).unflatten(1, query.shape[1:3])
            grad_distances[..., reach] += position.flatten(1, 2).mT @ by_distance
        sums = (x.mT.to(grad.dtype) for x in (grad_keys, grad_values, grad_distances))
        return grad_content, grad_position, *sums, None, None, None


def _blocks(query: Tensor, keys: Tensor, size: int) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of ``size`` queries, each with the keys that they may see and the rows of their distances."""
    length, total = query.shape[2], keys.shape[2]
    for start in range(0, length, size):
        stop = min(start + size, length)
        after = length - stop
        yield slice(start, stop), slice(0, total - after), slice(after, total + 1)


def _weights(query: Tensor, position: Tensor, keys: Tensor, distances: Tensor, mask: Tensor) -> Tensor:
    """The softmax (H, B, T, K) of one block, in float32 at least. Arguments as for ``relative_attention``."""
    by_distance = (position.flatten(1, 2) @ distances.mT).unflatten(1, position.shape[1:3])
    scores = (query @ keys.mT).add_(relative_shift(by_distance))
    first = keys.shape[2] - query.shape[2] if mask.dim() == 2 else 0  # the future is in the last columns
    scores[..., first:].masked_fill_(mask[..., first:], float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=_at_least_float32(scores))
