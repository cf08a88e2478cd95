"""Reading and writing slot by slot, head by head: what tests compare the fast code with."""

import math

import torch
from torch import Tensor

from .memory import SlotMemory


def normalised(slot: Tensor) -> Tensor:
    """A slot (C,), √C long."""
    return math.sqrt(len(slot)) * slot / slot.norm()


def initial_slots(memory: SlotMemory) -> list[Tensor]:
    """The k slots (C,) of an empty row: v / ‖v‖ (Memformer, Wu et al. 2022, section 3.2.3)."""
    return [normalised(v) for v in memory.bias]


def write(slots: list[Tensor], new: Tensor, memory: SlotMemory) -> list[Tensor]:
    """The k slots (C,) of one row after ``new`` (L, C) was written: slot attention, then biased normalisation."""
    heads = torch.arange(memory.embed_dim).chunk(memory.num_heads)
    after = []
    for slot, v in zip(slots, memory.bias):
        query = memory.write_q_proj.weight @ slot
        keys = [memory.write_k_proj.weight @ vector for vector in (slot, *new)]
        values = [slot, *(memory.write_v_proj.weight @ vector for vector in new)]  # its own, as it is
        parts = []
        for head in heads:
            scores = torch.stack([query[head] @ key[head] / math.sqrt(len(head)) for key in keys])
            weights = torch.softmax(scores / memory.temperature, dim=0)
            parts.append(sum(weight * value[head] for weight, value in zip(weights, values)))
        after.append(normalised(torch.cat(parts) + v))
    return after


def read(query: Tensor, slots: list[Tensor], memory: SlotMemory) -> Tensor:
    """What one row's projected queries (T, H · d) read from its slots (C,): (T, C)."""
    heads = torch.arange(query.shape[1]).chunk(memory.num_heads)
    rows = []
    for vector in query:
        parts = []
        for head in heads:
            keys = [memory.k_proj.weight[head] @ slot for slot in slots]
            scores = torch.stack([vector[head] @ key / math.sqrt(len(head)) for key in keys])
            weights = torch.softmax(scores, dim=0)
            parts.append(sum(weight * (memory.v_proj.weight[head] @ slot) for weight, slot in zip(weights, slots)))
        rows.append(memory.out_proj.weight @ torch.cat(parts))
    return torch.stack(rows)
