"""Multi-head attention to the sequence itself, and to the encoder's vectors."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import check_heads, split_heads

from .base import Operation, Sizes, Surroundings, register_operation


class _Attention(Operation):
    def __init__(self, sizes: Sizes, causal: bool, key_width: int) -> None:
        super().__init__(sizes, causal)
        check_heads(sizes.width, sizes.heads)
        self.heads, self.attention_dropout = sizes.heads, sizes.dropout
        self.q_proj = nn.Linear(sizes.width, sizes.width)
        self.kv_proj = nn.Linear(key_width, 2 * sizes.width)
        self.out_proj = nn.Linear(sizes.width, sizes.width)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, K, d) each."""
        keys, values = (split_heads(part, self.heads) for part in self.kv_proj(x).chunk(2, dim=-1))
        return keys, values

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, seen: Optional[Tensor]) -> Tensor:
        """Attend where ``seen``, which broadcasts to (B, H, T, K), is True."""
        dropout = self.attention_dropout if self.training else 0.0
        query = split_heads(self.q_proj(x), self.heads)
        context = F.scaled_dot_product_attention(query, keys, values, seen, dropout)
        return self.out_proj(context.transpose(1, 2).flatten(2))


@register_operation("self-attention")
class TextAttention(_Attention):
    """Self-attention of the sequence; causal: to each vector and those before it."""

    def __init__(self, sizes: Sizes, causal: bool) -> None:
        super().__init__(sizes, causal, sizes.width)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        keys, values = self.keys_and_values(x)
        cache = surroundings.cache if self.causal else None
        if cache is not None:
            before = cache.get(self, (keys[:, :, :0], values[:, :, :0]))
            keys, values = (torch.cat([old, new], dim=2) for old, new in zip(before, (keys, values)))
            cache[self] = (keys, values)
        seen = None
        if self.causal and x.shape[1] > 1:
            seen = x.new_ones(x.shape[1], keys.shape[2], dtype=torch.bool).tril(keys.shape[2] - x.shape[1])
        if surroundings.pads is not None and not self.causal:  # a causal sequence has its pads at its end
            seen = ~surroundings.pads[:, None, None]
        return self.attend(x, keys, values, seen)


@register_operation("cross-attention")
class SourceAttention(_Attention):
    """Attention to the encoder's vectors."""

    needs_source = True

    def __init__(self, sizes: Sizes, causal: bool) -> None:
        super().__init__(sizes, causal, sizes.source_width)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        cache, pads = surroundings.cache, surroundings.source_pads
        if cache is None or self not in cache:
            keys, values = self.keys_and_values(surroundings.source)
            if cache is not None:
                cache[self] = (keys, values)
        else:
            keys, values = cache[self]
        return self.attend(x, keys, values, None if pads is None else ~pads[:, None, None])
