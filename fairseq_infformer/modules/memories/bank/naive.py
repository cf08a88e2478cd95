"""The bank segment by segment and key by key: what tests compare the fast code with."""

import math

import torch
from torch import Tensor

from fairseq_infformer.modules.attention.naive import suppress

from .memory import BankMemory


def write(bank: list[Tensor], new: Tensor, memory: BankMemory) -> list[Tensor]:
    """One row's summaries (C,), oldest first, after the segment ``new`` (L, C)."""
    return [*bank, summarise(new, memory)][-memory.length :] if len(new) else bank


def summarise(segment: Tensor, memory: BankMemory) -> Tensor:
    """The summary (C,) of a segment (L, C) (Wu et al. 2020, section 3)."""
    query = memory.q_proj.weight @ segment.mean(0)
    by_head = []
    for head in torch.arange(len(query)).chunk(memory.num_heads):
        scores = [query[head] @ (memory.k_proj.weight[head] @ x) / math.sqrt(len(head)) for x in segment]
        weights = suppress(torch.stack(scores))
        by_head.append(sum(weight * (memory.v_proj.weight[head] @ x) for weight, x in zip(weights, segment)))
    return torch.tanh(memory.out_proj.weight @ torch.cat(by_head))
