"""Heavy hitters vector by vector: what tests compare the fast code with."""

import math

import torch
from torch import Tensor

from fairseq_infformer.modules.attention import Attention

from .memory import RECENT, HeavyHitterMemory

# A slot: a vector (C,), and its score.
Slot = tuple[Tensor, float]


def write(slots: list[Slot], new: Tensor, memory: HeavyHitterMemory) -> list[Slot]:
    """One row's slots, oldest first, after ``new`` (L, C)."""
    slots = [*slots, *((vector, 0.0) for vector in new)]
    while len(slots) > memory.length:
        last = len(slots) - int(RECENT * memory.length)
        weakest = min(range(last), key=lambda number: slots[number][1])  # of several, the oldest
        slots = slots[:weakest] + slots[weakest + 1 :]
    return slots


def read(slots: list[Slot], query: Tensor, memory: HeavyHitterMemory, attention: Attention) -> list[Slot]:
    """One row's slots after its queries (T, C), with their scores."""
    heads = torch.arange(query.shape[1]).chunk(attention.num_heads)
    key_weight = attention.kv_proj.weight.chunk(2)[0]
    scores = [score * 0.5 ** (len(query) / memory.half_life) for _, score in slots]
    for q in query:
        for head in heads:
            logits = torch.stack([q[head] @ (key_weight[head] @ vector) for vector, _ in slots]) / math.sqrt(len(head))
            for number, weight in enumerate(logits.softmax(0).tolist()):
                scores[number] = max(scores[number], weight)
    return [(vector, score) for (vector, _), score in zip(slots, scores)]
