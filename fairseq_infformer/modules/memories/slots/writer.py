"""Writing slots: each keeps itself or takes what is new, and forgets."""

import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import check_heads, split_heads
from fairseq_infformer.modules.padding import padding_mask, zero_pads
from fairseq_infformer.modules.settings import SettingError

from .state import SlotState

# ‖v‖ of a slot that is as long as its start has it: an update in which it keeps itself turns it by a hundredth of that.
FORGETTING = 0.01


class SlotWriter(nn.Module):
    """Slot attention and biased memory normalisation (Memformer, Wu et al. 2022, Memory Writing).

    - Slot i attends to itself and to the new vectors X, never to another slot, head by head:
      ``m' = softmax([q·m W_K ; q·X W_K] / (√d τ)) [m ; X W_V]`` with ``q = m W_Q``. Below 1, the temperature τ makes a
      slot keep itself or take what is new, not a mixture.
    - ``m ← m' + v`` and ``m ← m / ‖m‖``. A slot that gets nothing turns to its ``v``, which is learnt: the longer v,
      the sooner. A slot starts as ``v / ‖v‖``.

    The paper's slots have length 1. Here they are √C long, as normalised hidden states are, whose keys they are
    compared with.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. count: k. temperature: τ.
    """

    def __init__(self, embed_dim: int, num_heads: int, count: int, temperature: float) -> None:
        super().__init__()
        if count < 1:
            raise SettingError("count", f"must be 1 or more, got {count}")
        if not 0 < temperature < math.inf:
            raise SettingError("temperature", f"must be positive, got {temperature}")
        check_heads(embed_dim, num_heads)
        self.embed_dim, self.num_heads, self.temperature = embed_dim, num_heads, temperature
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(embed_dim, embed_dim, bias=False) for _ in range(3))
        with torch.no_grad():
            # A slot is most like itself: it starts by keeping itself, but for vectors that are like it.
            nn.init.xavier_uniform_(self.q_proj.weight)
            self.k_proj.weight.copy_(self.q_proj.weight)
            # What it takes is then the vector, in which a layer's query finds what is like it.
            nn.init.eye_(self.v_proj.weight)
            # As different as they can be, or all would take the same.
            start = nn.init.orthogonal_(torch.empty(count, embed_dim))
            self.bias = nn.Parameter(FORGETTING * self.normalised(start))

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> SlotState:
        """The empty memory of ``batch_size`` rows."""
        slots = torch.zeros(batch_size, *self.bias.shape, device=device)
        return SlotState(slots, torch.zeros(batch_size, dtype=torch.int64))

    def write(self, state: SlotState, new: Tensor, lengths: Tensor) -> SlotState:
        """The memory after the first ``lengths`` (B,) of ``new`` (B, L, C) were added; see ``LongTermMemory.write``."""
        exact = torch.promote_types(new.dtype, torch.float32)
        empty = state.is_empty().to(new.device)[:, None, None]
        slots = torch.where(empty, self.normalised(self.bias.to(exact)), state.slots.to(exact))
        taken = self.normalised(self.attend(slots, zero_pads(new, lengths), lengths) + self.bias)
        # Text alone makes a slot forget.
        some = (lengths > 0).to(new.device)[:, None, None]
        return SlotState(torch.where(some, taken, slots), state.num_tokens + lengths)

    def attend(self, slots: Tensor, new: Tensor, lengths: Tensor) -> Tensor:
        """``m'`` (B, k, C) of slots (B, k, C) and the first ``lengths`` (B,) of ``new`` (B, L, C)."""
        narrow = slots.to(new.dtype)
        query = split_heads(self.q_proj(narrow), self.num_heads) * (self.embed_dim // self.num_heads) ** -0.5
        own = (query * split_heads(self.k_proj(narrow), self.num_heads)).sum(-1, keepdim=True)
        others = query @ split_heads(self.k_proj(new), self.num_heads).mT
        pads = padding_mask(lengths, new.shape[1]).to(new.device)[:, None, None]
        scores = torch.cat([own, others.masked_fill(pads, -torch.inf)], dim=-1).to(slots.dtype)
        weights = torch.softmax(scores / self.temperature, dim=-1)  # (B, H, k, 1 + L)
        kept, taken = weights.split([1, new.shape[1]], dim=-1)
        values = split_heads(self.v_proj(new), self.num_heads).to(slots.dtype)
        context = kept * split_heads(slots, self.num_heads) + taken @ values
        return context.transpose(1, 2).flatten(2)

    def normalised(self, slots: Tensor) -> Tensor:
        """``slots`` (…, C), each √C long."""
        return self.embed_dim**0.5 * F.normalize(slots, dim=-1)
