"""Compression window by window and its error query by query: what tests compare the fast code with."""

import math

import torch
from torch import Tensor

from fairseq_infformer.modules.attention import Attention

from .memory import CompressiveMemory


def compress(x: Tensor, memory: CompressiveMemory) -> tuple[Tensor, Tensor]:
    """One row's text ``x`` (L, C), compressed window by window (Rae et al. 2020, section 3).

    Returns:
        the vectors (⌊L / c⌋, C) that stand for its windows, and what fills none and waits (L mod c, C).
    """
    kept = []
    while len(x) >= memory.rate:
        window, x = x[: memory.rate], x[memory.rate :]
        if memory.function == "conv":
            parts = memory.conv.weight.split(memory.embed_dim, dim=1)
            kept.append(sum(part @ vector for part, vector in zip(parts, window)))
        else:
            kept.append(window.mean(0) if memory.function == "mean" else window.max(0).values)
    return torch.stack(kept) if kept else x[:0], x


def reconstruction_error(query: Tensor, evicted: Tensor, memory: CompressiveMemory, attention: Attention) -> Tensor:
    """What compression changes for each query (T, C) that attends to whole windows (L, C): (T,) (same, section 3.2).

    The mean over heads and components of the squared difference; positions play no part.
    """
    dim, d = query.shape[1], query.shape[1] // attention.num_heads
    key_weight, value_weight = attention.kv_proj.weight.detach().split(dim)

    def attend(vector: Tensor, hidden: Tensor) -> Tensor:
        by_head = []
        for part in torch.arange(dim).split(d):
            weights = torch.softmax(hidden @ key_weight[part].T @ vector[part] / math.sqrt(d), dim=0)
            by_head.append(weights @ (hidden @ value_weight[part].T))
        return torch.cat(by_head)

    compressed, _ = compress(evicted.detach(), memory)
    pairs = ((attend(vector, compressed), attend(vector, evicted).detach()) for vector in query.detach())
    return torch.stack([(context - target).square().mean() for context, target in pairs])
