"""A memory that keeps one vector per segment, which ordinary attention sees too."""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.attention import Attention, check_heads, split_heads, suppressed_weights
from fairseq_infformer.modules.memories.base import LongTermMemory, Read, Report, register_memory
from fairseq_infformer.modules.padding import padding_mask, zero_pads
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered


class BankState(NamedTuple):
    """The banks of B rows."""

    summaries: ShortTermMemory  # up to N per row, oldest first, float32 at least

    SAVED_AS = ("summaries",)
    detach, reorder = detached, reordered

    def is_empty(self) -> Tensor:
        """(B,) bool, on the CPU: the rows that hold nothing."""
        return self.summaries.lengths == 0

    def reset(self, rows: Tensor) -> "BankState":
        """The state with the rows of the mask ``rows`` (B,) empty."""
        return BankState(self.summaries.reset(rows.to("cpu", torch.bool)))


@dataclass
class BankSettings:
    length: int = field(default=64, metadata={"help": "bank: N, summaries it keeps, one per segment"})


@register_memory("bank", settings=BankSettings)
class BankMemory(LongTermMemory):
    """The summaries of the last N segments (the augmented memory of Wu, Wang, Shi, Yeh and Zhang 2020, section 3).

    What is written at once is a segment. Its summary is ``tanh(W_O Σ_j p_j W_V x_j)``, where the mean of the x_j asks
    for p, per head, and weak weights are suppressed. It sees no older summary, so that memories do not feed on
    memories. Ordinary attention sees the bank as it is, without positions of its own, just before its short-term
    memory.

    In the paper a summary comes from the projections of the layer's own attention. A memory is written without the
    layer, so these are its own; W_V and W_O start as the identity.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. length: N.
        head_dim: d, the width of a head of the summary's attention; absent: C / H.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        length: int = BankSettings.length,
        *,
        head_dim: Optional[int] = None,
    ) -> None:
        super().__init__()
        if length <= 0:
            raise SettingError("length", f"must be positive, got {length}; for no memory choose none")
        if head_dim is None:
            check_heads(embed_dim, num_heads)
            head_dim = embed_dim // num_heads
        self.embed_dim, self.num_heads, self.length = embed_dim, num_heads, length
        width = num_heads * head_dim
        self.q_proj = nn.Linear(embed_dim, width, bias=False)
        self.k_proj = nn.Linear(embed_dim, width, bias=False)
        self.v_proj = nn.Linear(embed_dim, width, bias=False)
        self.out_proj = nn.Linear(width, embed_dim, bias=False)
        for projection in (self.q_proj, self.k_proj):
            nn.init.xavier_uniform_(projection.weight)
        for projection in (self.v_proj, self.out_proj):
            nn.init.eye_(projection.weight)

    @classmethod
    def build(
        cls, settings: BankSettings, embed_dim: int, num_heads: int, layer: int, head_dim: Optional[int] = None
    ) -> "BankMemory":
        return cls(embed_dim, num_heads, settings.length, head_dim=head_dim)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> BankState:
        like = torch.empty(0, device=device)
        return BankState(ShortTermMemory.empty(batch_size, self.length, self.embed_dim, like))

    def write(
        self,
        state: BankState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Report] = None,
    ) -> BankState:
        if reset is not None:
            state = state.reset(reset)
        old = state.summaries
        if lengths is None:
            lengths = torch.full_like(old.lengths, new.shape[1])
        summary = self.summarise(zero_pads(new, lengths), lengths)[:, None]
        bank = old._replace(hidden=old.hidden.to(summary.dtype)).append(summary, lengths.clamp_max(1))
        return BankState(ShortTermMemory(bank.hidden[:, 1:], bank.lengths.clamp_max(self.length)))

    def summarise(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The summary (B, C) of the first ``lengths`` (B,) vectors of ``x`` (B, L, C), whose pads are zero."""
        counts = lengths.clamp_min(1)  # a row that has none attends to its first vector, since a softmax needs one
        mean = x.sum(1, keepdim=True) / counts.to(x)[:, None, None]
        query, keys, values = (
            split_heads(part, self.num_heads) for part in (self.q_proj(mean), self.k_proj(x), self.v_proj(x))
        )
        pads = padding_mask(counts, x.shape[1]).to(x.device)[:, None, None]
        weights = suppressed_weights(query @ keys.mT * query.shape[-1] ** -0.5, pads)
        context = (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)
        exact = torch.promote_types(x.dtype, torch.float32)
        return self.out_proj(context)[:, 0].to(exact).tanh()

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: BankState, attention: Attention) -> Read:
        """What ordinary attention sees: the bank."""
        summaries = state.summaries
        return Read(extra=summaries._replace(hidden=summaries.hidden.to(hidden.dtype)))
