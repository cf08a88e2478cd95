"""Memformer's memory: a few vectors, each of which keeps itself or takes what is new, and forgets."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import Attention, check_heads
from fairseq_infformer.modules.memories.base import LongTermMemory, Read, Report, register_memory
from fairseq_infformer.modules.padding import padding_mask, zero_pads
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.state import detached, emptied, reordered

# ‖v‖ of a slot that is as long as its start has it: an update in which it keeps itself turns it by a hundredth of that.
FORGETTING = 0.01


class SlotState(NamedTuple):
    """The slots of B rows."""

    slots: Tensor  # (B, k, C), float32 at least; those of an empty row do not count
    num_tokens: Tensor  # (B,) int64, on the CPU: how many vectors were written

    detach, reorder, reset = detached, reordered, emptied

    def is_empty(self) -> Tensor:
        """(B,) bool: the rows that hold nothing."""
        return self.num_tokens == 0


@dataclass
class SlotSettings:
    count: int = field(default=32, metadata={"help": "k, number of slots"})
    temperature: float = field(
        default=0.25,
        metadata={"help": "τ of a slot's attention when it is written: the lower, the more it takes a single vector"},
    )


@register_memory("slots", settings=SlotSettings)
class SlotMemory(LongTermMemory):
    """k slots that are read by cross-attention and written by slot attention (Memformer, Wu et al. 2022, section 3.2).

    - Read: attention of the queries to the slots, with projections of its own.
    - Write: slot i attends to itself and to the new vectors, never to another slot, head by head, with the weights
      ``softmax(scores / τ)``. Below 1, the temperature τ makes a slot keep itself or take what is new, not a mixture.
    - Forget: ``m ← m' + v`` and ``m ← m / ‖m‖``. A slot that gets nothing turns to its ``v``, which is learnt: the
      longer v, the sooner. An empty memory is ``v / ‖v‖`` in each slot.

    The paper's slots have length 1. Here they are √C long, as the layer's normalised hidden states are, whose keys they
    are compared with.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. count: k. temperature: τ.
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
        if count < 1:
            raise SettingError("count", f"must be 1 or more, got {count}")
        if not 0 < temperature < math.inf:
            raise SettingError("temperature", f"must be positive, got {temperature}")
        check_heads(embed_dim, num_heads)
        self.embed_dim, self.num_heads, self.temperature = embed_dim, num_heads, temperature
        width = num_heads * (head_dim or embed_dim // num_heads)
        self.k_proj = nn.Linear(embed_dim, width, bias=False)
        self.v_proj = nn.Linear(embed_dim, width, bias=False)
        self.out_proj = nn.Linear(width, embed_dim, bias=False)
        self.write_q_proj, self.write_k_proj, self.write_v_proj = (
            nn.Linear(embed_dim, embed_dim, bias=False) for _ in range(3)
        )
        for projection in (self.k_proj, self.v_proj, self.write_q_proj):
            nn.init.xavier_uniform_(projection.weight)
        # A read that starts as noise costs more than it gives, until the layers have learned to ignore it.
        nn.init.zeros_(self.out_proj.weight)
        with torch.no_grad():
            # A slot is most like itself: it starts by keeping itself, but for vectors that are like it.
            self.write_k_proj.weight.copy_(self.write_q_proj.weight)
            # What it takes is then the vector, in which a layer's query finds what is like it.
            nn.init.eye_(self.write_v_proj.weight)
            # As different as they can be, or all would take the same.
            self.bias = nn.Parameter(nn.init.orthogonal_(torch.empty(count, embed_dim)))
            self.bias.copy_(FORGETTING * self._normalised(self.bias))

    @classmethod
    def build(
        cls, settings: SlotSettings, embed_dim: int, num_heads: int, layer: int, head_dim: Optional[int] = None
    ) -> "SlotMemory":
        return cls(embed_dim, num_heads, settings.count, settings.temperature, head_dim=head_dim)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> SlotState:
        slots = torch.zeros(batch_size, *self.bias.shape, device=device)
        return SlotState(slots, torch.zeros(batch_size, dtype=torch.int64))

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
        slots = self._slots(state, new.dtype)
        taken = self._normalised(self._attend(slots, zero_pads(new, lengths), lengths) + self.bias)
        # Text alone makes a slot forget.
        some = (lengths > 0).to(slots.device)[:, None, None]
        return SlotState(torch.where(some, taken, slots), state.num_tokens + lengths)

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: SlotState, attention: Attention) -> Read:
        slots = self._slots(state, query.dtype).to(query.dtype)
        keys, values = self._split_heads(self.k_proj(slots)), self._split_heads(self.v_proj(slots))
        context = F.scaled_dot_product_attention(self._split_heads(query).to(keys.dtype), keys, values)
        return Read(self.out_proj(context.transpose(1, 2).flatten(2)))

    @torch.no_grad()
    def start_alike(self, query: Tensor) -> None:
        self.k_proj.weight.copy_(query)

    def start_silent(self) -> None:
        """The output projection learns from the first update, what is read by it from the second."""
        nn.init.zeros_(self.out_proj.weight)

    @torch.no_grad()
    def start_from(self, key: Tensor, value: Tensor, output: Tensor) -> None:
        self.k_proj.weight.copy_(key)
        self.v_proj.weight.copy_(value)
        self.out_proj.weight.copy_(output)

    def _slots(self, state: SlotState, dtype: torch.dtype) -> Tensor:
        """(B, k, C), those of empty rows as they start."""
        exact = torch.promote_types(dtype, torch.float32)
        empty = state.is_empty().to(state.slots.device)[:, None, None]
        return torch.where(empty, self._normalised(self.bias.to(exact)), state.slots.to(exact))

    def _attend(self, slots: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
        """Slot attention (B, k, C) of each slot to itself and to the first ``lengths`` of ``new`` (B, L, C)."""
        narrow = slots.to(new.dtype)
        query = self._split_heads(self.write_q_proj(narrow)) * (self.embed_dim // self.num_heads) ** -0.5
        own = (query * self._split_heads(self.write_k_proj(narrow))).sum(-1, keepdim=True)
        others = query @ self._split_heads(self.write_k_proj(new)).mT
        pads = padding_mask(lengths, new.shape[1]).to(new.device)[:, None, None]
        scores = torch.cat([own, others.masked_fill(pads, -torch.inf)], dim=-1).to(slots.dtype)
        weights = torch.softmax(scores / self.temperature, dim=-1)  # (B, H, k, 1 + L)
        kept, taken = weights.split([1, new.shape[1]], dim=-1)
        values = self._split_heads(self.write_v_proj(new)).to(slots.dtype)
        context = kept * self._split_heads(slots) + taken @ values
        return context.transpose(1, 2).flatten(2)

    def _normalised(self, slots: Tensor) -> Tensor:
        """``slots`` (…, C), each √C long."""
        return self.embed_dim**0.5 * F.normalize(slots, dim=-1)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, L, H · d) as (B, H, L, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
