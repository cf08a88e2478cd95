"""Attention with linear biases."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Attention


class AlibiAttention(Attention):
    """Attention with linear biases: the score falls by a slope of the head per token of distance (ALiBi, Press et al.
    2022, section 3). Arguments are those of ``Attention``."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        queries, total = query.shape[2], keys.shape[2]
        exact = torch.promote_types(keys.dtype, torch.float32)
        position = torch.arange(total, device=keys.device, dtype=exact)
        distance = position[total - queries :, None] - position
        bias = (alibi_slopes(self.num_heads, distance) * -distance).masked_fill(mask, float("-inf"))
        bias = bias.to(keys.dtype).expand(len(keys), -1, -1, -1)
        return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, bias, self.dropout_now)


def alibi_slopes(num_heads: int, like: Tensor) -> Tensor:
    """Slopes (H, 1, 1), in the dtype and on the device of ``like``: a geometric sequence from 2^(-8/H), with ratio
    2^(-8/H), for a power of two; for another H that of the power below, then every other slope of the power above."""
    head = torch.arange(1, num_heads + 1, dtype=like.dtype, device=like.device)
    below = 1 << (num_heads.bit_length() - 1)
    exponent = torch.where(head <= below, head, head - below - 0.5) / below
    return torch.exp2(-8 * exponent)[:, None, None]
