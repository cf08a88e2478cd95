"""Memformer's memory for a layer: a few vectors, each of which keeps itself or takes what is new, and forgets."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories.base import LongTermMemory, Read, Report, register_memory

from .reader import SlotReader
from .state import SlotState
from .writer import SlotWriter


@dataclass
class SlotSettings:
    count: int = field(default=32, metadata={"help": "k, number of slots"})
    temperature: float = field(
        default=0.25,
        metadata={"help": "τ of a slot's attention when it is written: the lower, the more it takes a single vector"},
    )


@register_memory("slots", settings=SlotSettings)
class SlotMemory(LongTermMemory):
    """k slots that are read by cross-attention and written by slot attention (Memformer, Wu et al. 2022).

    Args:
        embed_dim: C. num_heads: H, a divisor of C. count: k. temperature: τ, see ``SlotWriter``.
        head_dim: d, the width of a head of the read's queries; absent: C / H.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        count: int = SlotSettings.count,
        temperature: float = SlotSettings.temperature,
        *,
        head_dim: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.reader = SlotReader(embed_dim, num_heads, head_dim)
        self.writer = SlotWriter(embed_dim, num_heads, count, temperature)

    @classmethod
    def build(
        cls, settings: SlotSettings, embed_dim: int, num_heads: int, layer: int, head_dim: Optional[int] = None
    ) -> "SlotMemory":
        return cls(embed_dim, num_heads, settings.count, settings.temperature, head_dim=head_dim)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> SlotState:
        return self.writer.initial_state(batch_size, device)

    def write(
        self,
        state: SlotState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Report] = None,
    ) -> SlotState:
        if reset is not None:
            state = state.reset(reset)
        if lengths is None:
            lengths = torch.full_like(state.num_tokens, new.shape[1])
        return self.writer.write(state, new, lengths)

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: SlotState, attention: Attention) -> Read:
        return self.reader.read(query, hidden, lengths, state, attention)

    def start_alike(self, query: Tensor) -> None:
        self.reader.start_alike(query)

    def start_silent(self) -> None:
        """The output projection learns from the first update, what is read by it from the second."""
        nn.init.zeros_(self.reader.out_proj.weight)

    @torch.no_grad()
    def start_from(self, key: Tensor, value: Tensor, output: Tensor) -> None:
        self.reader.k_proj.weight.copy_(key)
        self.reader.v_proj.weight.copy_(value)
        self.reader.out_proj.weight.copy_(output)
