"""The Compressive Transformer's memory: what is old is kept as fewer vectors, which ordinary attention sees too."""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories.base import Figure, LongTermMemory, Read, Report, register_memory
from fairseq_infformer.modules.padding import padding_mask, zero_pads
from fairseq_infformer.modules.settings import SettingError, check_choice, renamed
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered

COMPRESSIONS = ("conv", "mean", "max")


class CompressiveState(NamedTuple):
    """A compressive memory of B rows."""

    slots: ShortTermMemory  # up to S compressed vectors per row
    waiting: ShortTermMemory  # up to c - 1 later vectors per row, not compressed yet
    evicted: Tensor  # (B, L, C), what the last write compressed; L is 0 where it is not needed
    evicted_lengths: Tensor  # (B,) int64, on the CPU: how many of the L count, from the left

    SAVED_AS = ("slots", "waiting", "evicted", "evicted_lengths")
    detach, reorder = detached, reordered

    def is_empty(self) -> Tensor:
        """(B,) bool: the rows that hold nothing."""
        return (self.slots.lengths == 0) & (self.waiting.lengths == 0)

    def reset(self, rows: Tensor) -> "CompressiveState":
        """The state with the rows of the mask ``rows`` (B,) empty."""
        rows = rows.to("cpu", torch.bool)
        lengths = self.evicted_lengths.masked_fill(rows, 0)
        return CompressiveState(self.slots.reset(rows), self.waiting.reset(rows), self.evicted, lengths)


class Reconstruction(NamedTuple):
    """What a read of a compressive memory reports: how well what was compressed last can be attended to."""

    error: Tensor  # (B, T): squared error of attention over it, mean over heads and components
    lengths: Tensor  # (B,)

    SAVED_AS = ("error", "lengths")


@dataclass
class CompressiveSettings:
    length: int = field(
        default=512, metadata={"help": "compressive memory: vectors it keeps, each of which stands for several tokens"}
    )
    rate: int = field(default=4, metadata={"help": "compressive memory: tokens that become one vector"})
    function: str = field(
        default="conv",
        metadata={
            "help": "compressive memory: how they become one: conv (trained to keep what attention reads), mean or max",
            "choices": COMPRESSIONS,
        },
    )


@register_memory("compressive", settings=CompressiveSettings)
class CompressiveMemory(LongTermMemory):
    """Vectors that leave the short-term memory, c of them as one, the last S of those (Rae et al. 2020, section 3).

    Windows of c vectors, counted from the first of a row, become one vector each. What does not fill a window waits for
    the next write, so that it makes no difference how a text was cut into writes; until then attention sees the
    waiting vectors as they are, after the compressed ones.

    The convolution is trained by the attention-reconstruction loss (section 3.2) alone: attention over the compressed
    vectors should give what attention over the evicted ones gave; no other parameter learns from it. It starts as the
    mean.

    Args:
        embed_dim: C. length: S. rate: c. function: that compresses, one of COMPRESSIONS.
    """

    logged = ("reconstruction",)

    @renamed(num_slots="length", compression="function")
    def __init__(
        self,
        embed_dim: int,
        length: int = CompressiveSettings.length,
        rate: int = CompressiveSettings.rate,
        function: str = CompressiveSettings.function,
    ) -> None:
        super().__init__()
        if length <= 0:
            raise SettingError("length", f"must be positive, got {length}")
        if rate <= 0:
            raise SettingError("rate", f"must be positive, got {rate}")
        check_choice("function", function, COMPRESSIONS)
        self.embed_dim, self.length, self.rate, self.function = embed_dim, length, rate, function
        self.conv: Optional[nn.Linear] = None
        if function == "conv":  # kernel and stride c: a linear map of each window
            self.conv = nn.Linear(rate * embed_dim, embed_dim, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.eye(embed_dim).repeat(1, rate) / rate)

    @classmethod
    def build(
        cls,
        settings: CompressiveSettings,
        embed_dim: int,
        num_heads: int,
        layer: int,
        head_dim: Optional[int] = None,
    ) -> "CompressiveMemory":
        return cls(embed_dim, settings.length, settings.rate, settings.function)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> CompressiveState:
        like = torch.empty(0, device=device)
        slots, waiting = (
            ShortTermMemory.empty(batch_size, width, self.embed_dim, like) for width in (self.length, self.rate - 1)
        )
        evicted = like.new_zeros(batch_size, 0, self.embed_dim)
        return CompressiveState(slots, waiting, evicted, torch.zeros_like(slots.lengths))

    def write(
        self,
        state: CompressiveState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Report] = None,
    ) -> CompressiveState:
        if reset is not None:
            state = state.reset(reset)
        if lengths is None:
            lengths = torch.full_like(state.slots.lengths, new.shape[1])
        slots, waiting = (part._replace(hidden=part.hidden.to(new.dtype)) for part in (state.slots, state.waiting))
        joined = waiting.append(zero_pads(new, lengths), lengths)
        width, windows = joined.hidden.shape[1], joined.lengths // self.rate
        evicted = joined.from_left()[:, : width // self.rate * self.rate]
        # What attention learns of compressed vectors reaches the vectors, not the convolution, which has its own loss.
        appended = slots.append(self.compress(evicted, learn=False), windows)
        kept = ShortTermMemory(appended.hidden[:, -self.length :], appended.lengths.clamp_max(self.length))
        rest = ShortTermMemory(joined.hidden[:, width - self.rate + 1 :], joined.lengths % self.rate)
        if self.conv is None or not self.training:
            evicted = evicted[:, :0]
        return CompressiveState(kept, rest, evicted, windows * self.rate)

    def compress(self, x: Tensor, learn: bool = True) -> Tensor:
        """One vector (B, W, C) for each of the W windows of ``x`` (B, W · c, C).

        Args:
            learn: let the convolution have gradients.
        """
        windows = x.unflatten(1, (x.shape[1] // self.rate, self.rate))
        if self.conv is not None:
            weight = self.conv.weight if learn else self.conv.weight.detach()
            return F.linear(windows.flatten(2), weight)
        return windows.amax(2) if self.function == "max" else windows.mean(2)

    def read(
        self, query: Tensor, hidden: Tensor, lengths: Tensor, state: CompressiveState, attention: Attention
    ) -> Read:
        """What ordinary attention sees: the compressed vectors, then the waiting ones. In training, a report too."""
        extra = state.slots.append(state.waiting.from_left(), state.waiting.lengths)
        if self.conv is None or not self.training:
            return Read(extra=extra)
        return Read(extra=extra, report=Reconstruction(self._reconstruction_error(query, state, attention), lengths))

    def figures(self, report: Reconstruction) -> dict[str, Figure]:
        """The error, from which nothing but the compression learns."""
        return {"reconstruction": Figure(report.error, weight=1.0)}

    def _reconstruction_error(self, query: Tensor, state: CompressiveState, attention: Attention) -> Tensor:
        if not state.evicted.shape[1]:
            return 0 * self.conv.weight.sum() * query.new_ones(query.shape[:2])
        with torch.no_grad():
            target = _attend(query, state.evicted, state.evicted_lengths, attention)
        compressed = self.compress(state.evicted.detach())
        context = _attend(query.detach(), compressed, state.evicted_lengths // self.rate, attention)
        exact = torch.promote_types(context.dtype, torch.float32)
        return (context - target).to(exact).square().mean((1, 3))


def _attend(query: Tensor, hidden: Tensor, lengths: Tensor, attention: Attention) -> Tensor:
    """Attention (B, H, T, d) by content alone over the first ``lengths`` of ``hidden``; 0 for rows that have none."""
    # A bias of the keys changes no weight, and one of the values no difference of two contexts.
    keys_values = F.linear(hidden, attention.kv_weight.detach())
    keys, values = (attention.split_heads(x) for x in keys_values.chunk(2, dim=-1))
    # A row that has none attends to its first vector, since a softmax needs one.
    mask = ~padding_mask(lengths.clamp_min(1), hidden.shape[1]).to(hidden.device)
    some = (lengths > 0).to(hidden.device)[:, None, None, None]
    query = attention.split_heads(query).to(keys.dtype)
    return F.scaled_dot_product_attention(query, keys, values, mask[:, None, None]) * some
