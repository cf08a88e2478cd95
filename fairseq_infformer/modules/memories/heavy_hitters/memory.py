"""A memory that keeps the vectors that attention looked at most, as they are, for ordinary attention to see."""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories.base import LongTermMemory, Read, register_memory
from fairseq_infformer.modules.padding import padding_mask, zero_pads
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered

RECENT = 0.75  # of the slots: those of the last vectors


class HeavyHitterState(NamedTuple):
    """A memory of B rows."""

    slots: ShortTermMemory  # up to S vectors per row, oldest first
    scores: Tensor  # (B, S), float32 or float64: the greatest weight that a query gave each, faded since

    SAVED_AS = ("slots", "scores")
    detach, reorder = detached, reordered

    def is_empty(self) -> Tensor:
        """(B,) bool, on the CPU: the rows that hold nothing."""
        return self.slots.lengths == 0

    def reset(self, rows: Tensor) -> "HeavyHitterState":
        """The state with the rows of the mask ``rows`` (B,) empty."""
        return self._replace(slots=self.slots.reset(rows.to("cpu", torch.bool)))


class Received(NamedTuple):
    """What a read reports: the attention that each slot received."""

    attention: Tensor  # (B, S): the greatest weight that a query gave it, in any head
    lengths: Tensor  # (B,)

    SAVED_AS = ("attention", "lengths")


@dataclass
class HeavyHitterSettings:
    length: int = field(default=256, metadata={"help": "heavy hitters: S, vectors it keeps; 3 in 4 are the last ones"})
    half_life: int = field(
        default=2048, metadata={"help": "heavy hitters: tokens after which attention that was received counts half"}
    )


@register_memory("heavy-hitters", settings=HeavyHitterSettings, prefix="hitters")
class HeavyHitterMemory(LongTermMemory):
    """S of the vectors that left the short-term memory: the last ¾ S, and those before that attention hit hardest.

    Much of what attention reads of a long text are few of its tokens, again and again: names, say. They are kept as
    they are (after Zhang et al. 2023, H2O), and ordinary attention sees them just before its short-term memory, so that
    there is nothing more to learn. A token has the time in which ¾ S more follow it to prove itself, and then stays for
    as long as it is looked at.

    Weights are those of a softmax over the slots by content alone: the layer's own queries and keys, without positions.
    There are no parameters, and no gradient goes through the choice.

    Args:
        embed_dim: C. length: S, 2 or more. half_life: in tokens.
    """

    def __init__(
        self,
        embed_dim: int,
        length: int = HeavyHitterSettings.length,
        half_life: int = HeavyHitterSettings.half_life,
    ) -> None:
        super().__init__()
        if length < 2:
            raise SettingError("length", f"must be 2 or more, got {length}")
        if half_life <= 0:
            raise SettingError("half_life", f"must be positive, got {half_life}")
        self.embed_dim, self.length, self.half_life = embed_dim, length, half_life

    @classmethod
    def build(
        cls,
        settings: HeavyHitterSettings,
        embed_dim: int,
        num_heads: int,
        layer: int,
        head_dim: Optional[int] = None,
    ) -> "HeavyHitterMemory":
        return cls(embed_dim, settings.length, settings.half_life)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> HeavyHitterState:
        like = torch.empty(0, device=device)
        slots = ShortTermMemory.empty(batch_size, self.length, self.embed_dim, like)
        return HeavyHitterState(slots, like.new_zeros(batch_size, self.length))

    def write(
        self,
        state: HeavyHitterState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Received] = None,
    ) -> HeavyHitterState:
        if lengths is None:
            lengths = torch.full_like(state.slots.lengths, new.shape[1])
        scores = state.scores
        if report is not None:
            # Rows to which nothing is written are still being read: their scores wait.
            written = (lengths > 0).to(scores.device)[:, None]
            scores = torch.where(written, self._scores(scores, report), scores)
        if reset is not None:
            state = state.reset(reset)
        slots = state.slots._replace(hidden=state.slots.hidden.to(new.dtype))
        slots = slots.append(zero_pads(new, lengths), lengths)
        scored = ShortTermMemory(scores[:, :, None], state.slots.lengths)
        scores = scored.append(scores.new_zeros(*new.shape[:2], 1), lengths).hidden[:, :, 0]
        kept = self._kept(slots, scores)
        hidden = slots.hidden.gather(1, kept[:, :, None].expand(-1, -1, self.embed_dim))
        return HeavyHitterState(ShortTermMemory(hidden, slots.lengths.clamp_max(self.length)), scores.gather(1, kept))

    def _scores(self, scores: Tensor, report: Received) -> Tensor:
        """The scores (B, S) after a read."""
        faded = (-report.lengths / self.half_life).exp2().to(scores)[:, None] * scores
        return torch.maximum(faded, report.attention.to(scores))

    def _kept(self, slots: ShortTermMemory, scores: Tensor) -> Tensor:
        """(B, S): which of the slots (B, W, C) with these scores (B, W) are kept, oldest first."""
        width = scores.shape[1]
        scores = scores.masked_fill(~slots.held().to(scores.device), -1)
        scores[:, width - int(RECENT * self.length) :] = torch.inf
        # Of those with equal scores, the later ones are kept.
        order = scores.flip(1).argsort(dim=1, descending=True, stable=True)[:, : self.length]
        return (width - 1 - order).sort(dim=1).values

    def read(
        self, query: Tensor, hidden: Tensor, lengths: Tensor, state: HeavyHitterState, attention: Attention
    ) -> Read:
        """What ordinary attention sees: all slots. And what each receives."""
        return Read(extra=state.slots, report=Received(self._received(query, lengths, state, attention), lengths))

    @torch.no_grad()
    def _received(self, query: Tensor, lengths: Tensor, state: HeavyHitterState, attention: Attention) -> Tensor:
        slots = state.slots
        key_weight = attention.kv_weight.chunk(2)[0]
        keys = attention.split_heads(F.linear(slots.hidden.to(key_weight.dtype), key_weight))
        query = attention.split_heads(query).to(keys.dtype)
        logits = (query @ keys.mT * keys.shape[-1] ** -0.5).to(state.scores.dtype)
        empty, pads = ~slots.held(), padding_mask(lengths, query.shape[2])
        # A softmax over no slots is not a number; what a row that has none receives counts nothing.
        logits = logits.masked_fill((empty & ~state.is_empty()[:, None])[:, None, None].to(logits.device), -torch.inf)
        counted = (~pads[:, :, None] & ~empty[:, None]).to(logits.device)
        return (logits.softmax(-1).amax(1) * counted).amax(1)
