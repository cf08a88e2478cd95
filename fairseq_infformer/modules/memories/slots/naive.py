"""Reading and writing slot by slot, head by head: what tests compare the fast code with."""

import math

import torch
from torch import Tensor

from .reader import SlotReader
from .writer import SlotWriter


def normalised(slot: Tensor) -> Tensor:
    """A slot (C,), √C long."""
    return math.sqrt(len(slot)) * slot / slot.norm()


def initial_slots(writer: SlotWriter) -> list[Tensor]:
    """The k slots (C,) of an empty row: v / ‖v‖ (Memformer, Wu et al. 2022, Forgetting Mechanism)."""
    return [normalised(v) for v in writer.bias]


def write(slots: list[Tensor], new: Tensor, writer: SlotWriter) -> list[Tensor]:
    """The k slots (C,) of one row after ``new`` (L, C) was written: slot attention, then biased normalisation."""
    heads = torch.arange(writer.embed_dim).chunk(writer.num_heads)
    after = []
    for slot, v in zip(slots, writer.bias):
        query = writer.q_proj.weight @ slot
        keys = [writer.k_proj.weight @ vector for vector in (slot, *new)]
        values = [slot, *(writer.v_proj.weight @ vector for vector in new)]  # its own, as it is
        parts = []
        for head in heads:
            scores = torch.stack([query[head] @ key[head] / math.sqrt(len(head)) for key in keys])
            weights = torch.softmax(scores / writer.temperature, dim=0)
            parts.append(sum(weight * value[head] for weight, value in zip(weights, values)))
        after.append(normalised(torch.cat(parts) + v))
    return after


def read(query: Tensor, slots: list[Tensor], reader: SlotReader) -> Tensor:
    """What one row's projected queries (T, H · d) read from its slots (C,): (T, C)."""
    heads = torch.arange(query.shape[1]).chunk(reader.num_heads)
    rows = []
    for vector in query:
        parts = []
        for head in heads:
            keys = [reader.k_proj.weight[head] @ slot for slot in slots]
            scores = torch.stack([vector[head] @ key / math.sqrt(len(head)) for key in keys])
            weights = torch.softmax(scores, dim=0)
            parts.append(sum(weight * (reader.v_proj.weight[head] @ slot) for weight, slot in zip(weights, slots)))
        rows.append(reader.out_proj.weight @ torch.cat(parts))
    return torch.stack(rows)
