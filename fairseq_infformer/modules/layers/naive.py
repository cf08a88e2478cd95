"""A layer, step by step: what tests compare the fast code with."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.attention.naive import short_attention, suppress
from fairseq_infformer.modules.memories.bank.naive import write
from fairseq_infformer.modules.memories.continuous.naive import read

from .augmented_memory import AugmentedMemoryLayer
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


def augmented_memory_layer(
    x: Tensor, segment: slice, bank: list[Tensor], layer: AugmentedMemoryLayer
) -> tuple[Tensor, list[Tensor]]:
    """One layer over one row's segment with its context, query by query (Wu et al. 2020, section 3).

    Args:
        x: (T, C). segment: which of the T are the segment. bank: summaries (C,), oldest first. layer: with a bank.

    Returns:
        x (T, C) and the next bank.
    """
    norm, attention = layer.attention_norm, layer.attention
    hidden = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    queries = F.linear(hidden, layer.q_proj.weight, layer.q_proj.bias)
    seen = torch.stack([*bank, *hidden])
    keys, values = F.linear(seen, attention.kv_proj.weight, attention.kv_proj.bias).chunk(2, dim=-1)
    contexts = []
    for query in queries:
        heads = torch.arange(len(query)).chunk(attention.num_heads)
        weights = [suppress(keys[:, head] @ query[head] / math.sqrt(len(head))) for head in heads]
        contexts.append(torch.cat([weight @ values[:, head] for weight, head in zip(weights, heads)]))
    x = x + F.linear(torch.stack(contexts), attention.out_proj.weight, attention.out_proj.bias)
    inner = F.layer_norm(x, x.shape[-1:], layer.ffn_norm.weight, layer.ffn_norm.bias)
    inner = torch.clamp(inner @ layer.fc1.weight.T + layer.fc1.bias, min=0)
    return x + inner @ layer.fc2.weight.T + layer.fc2.bias, write(bank, hidden[segment], layer.memory)
