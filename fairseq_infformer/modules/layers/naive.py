"""A layer, step by step: what tests compare the fast code with."""

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.attention.naive import short_attention
from fairseq_infformer.modules.memories.continuous.naive import read

from .decoder_layer import InfiniteFormerLayer


def decoder_layer(
    x: Tensor, recent: Tensor, lengths: list[int], coefficients: Tensor, layer: InfiniteFormerLayer, density: str
) -> Tensor:
    """One layer over a segment ``x`` (B, T, C), without dropout and with relu (paper, figure 1).

    Args:
        recent: (B, W, C), the short-term memory. lengths: how many of the W each row has.
        coefficients: (B, N, C) of the long-term memory. density: the name of its density.
    """
    hidden = F.layer_norm(x, x.shape[-1:], layer.attention_norm.weight, layer.attention_norm.bias)
    query = hidden @ layer.q_proj.weight.T
    short = short_attention(query, torch.cat([recent, hidden], dim=1), lengths, layer.attention)
    long, _, _ = read(query, coefficients, layer.long_term_memory.attention, density)
    x = x + short + long
    inner = F.layer_norm(x, x.shape[-1:], layer.ffn_norm.weight, layer.ffn_norm.bias)
    inner = torch.clamp(inner @ layer.fc1.weight.T + layer.fc1.bias, min=0)
    return x + inner @ layer.fc2.weight.T + layer.fc2.bias
