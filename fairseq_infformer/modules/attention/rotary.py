"""Attention with rotary positions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Attention


class RotaryAttention(Attention):
    """Attention whose queries and keys are turned by their positions (RoPE, Su et al. 2021, section 3.2).

    The components 2i and 2i+1 of a head are a point of the plane, turned at position m by ``m · 10000^(-2i/d)``.
    Arguments are those of ``Attention``; d, the size of a head, must be even.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__(embed_dim, num_heads, dropout, bias)
        if embed_dim // num_heads % 2:
            raise ValueError(
                f"rotary positions turn pairs: embed_dim / num_heads must be even, got {embed_dim} / {num_heads}"
            )

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        sine, cosine = rotary_angles(keys)
        # Only differences of positions count, so the oldest key may have position 0.
        query, keys = rotate(query, sine[-query.shape[2] :], cosine[-query.shape[2] :]), rotate(keys, sine, cosine)
        return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, ~mask, self.dropout_now)


def rotary_angles(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sine and cosine (K, d/2) of the angles at positions 0 … K-1 for ``keys`` (..., K, d), in float32 at least."""
    length, dim = keys.shape[-2:]
    exact = torch.promote_types(keys.dtype, torch.float32)
    frequency = 10000 ** (-torch.arange(0, dim, 2, device=keys.device, dtype=exact) / dim)
    angle = torch.arange(length, device=keys.device, dtype=exact)[:, None] * frequency
    return angle.sin(), angle.cos()


def rotate(x: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """``x`` (..., L, d) with the pairs of its components turned; sine and cosine (L, d/2)."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.flatten(-2).to(x.dtype)
