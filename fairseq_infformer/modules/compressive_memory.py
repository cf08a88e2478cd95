"""The Compressive Transformer's memory: what is old is kept as fewer vectors, which ordinary attention sees too."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention
from .memory import LongTermMemory
from .short_term_memory import ShortTermMemory

COMPRESSIONS = ("conv", "mean", "max")


class CompressiveState(NamedTuple):
    """A compressive memory of B rows."""

    slots: ShortTermMemory  # up to S compressed vectors a row, at the right end
    evicted: Tensor  # (B, L, C), what the last write compressed; L is 0 where nobody will ask
    evicted_lengths: Tensor  # (B,) int64, on the CPU: how many of the L count, from the left

    def detach(self) -> "CompressiveState":
        return self._replace(slots=self.slots._replace(hidden=self.slots.hidden.detach()))

    def reset(self, rows: Tensor) -> "CompressiveState":
        """The state with the rows of the mask ``rows`` (B,) empty."""
        rows = rows.to("cpu", torch.bool)
        return CompressiveState(self.slots.reset(rows), self.evicted, self.evicted_lengths.masked_fill(rows, 0))

    def reorder(self, order: Tensor) -> "CompressiveState":
        """The state whose row i is this one's row ``order[i]``."""
        evicted = self.evicted.index_select(0, order.to(self.evicted.device))
        return CompressiveState(self.slots.reorder(order), evicted, self.evicted_lengths[order.cpu()])


class Reconstruction(NamedTuple):
    """What a read of a compressive memory has to say of itself."""

    error: Tensor  # (B, T): squared error of attention over what was compressed last, mean over heads and components


class CompressiveMemory(LongTermMemory):
    """Vectors that leave the short-term memory, c of them as one, the last S of those (Rae et al. 2020, section 3).

    Windows of c vectors, counted from the first that leaves in a segment, become one vector each. The last window of a
    row may be shorter: ``mean`` and ``max`` pool what it has, ``conv`` sees zeros for the rest.

    The convolution is trained by the attention-reconstruction loss (section 3.2) alone: attention over the compressed
    vectors shall give what attention over the evicted ones gave; no other parameter learns from it. It starts as the
    mean.

    Args:
        embed_dim: C. num_slots: S. rate: c. compression: conv, mean or max.
    """

    def __init__(self, embed_dim: int, num_slots: int, rate: int = 4, compression: str = "conv") -> None:
        super().__init__()
        if num_slots <= 0:
            raise ValueError(f"num_slots must be positive, got {num_slots}")
        if rate <= 0:
            raise ValueError(f"the compression rate must be positive, got {rate}")
        if compression not in COMPRESSIONS:
            raise ValueError(f"unknown compression {compression!r}; choose one of {', '.join(COMPRESSIONS)}")
        self.embed_dim, self.num_slots, self.rate, self.compression = embed_dim, num_slots, rate, compression
        self.conv: Optional[nn.Linear] = None
        if compression == "conv":  # kernel and stride c: a linear map of each window
            self.conv = nn.Linear(rate * embed_dim, embed_dim, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.eye(embed_dim).repeat(1, rate) / rate)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> CompressiveState:
        like = torch.empty(0, device=device)
        slots = ShortTermMemory.empty(batch_size, self.num_slots, self.embed_dim, like)
        return CompressiveState(slots, like.new_zeros(batch_size, 0, self.embed_dim), torch.zeros_like(slots.lengths))

    def write(self, state, x, lengths=None, reset=None, aux=None, queries=None) -> CompressiveState:
        if reset is not None:
            state = state.reset(reset)
        if lengths is None:
            lengths = torch.full_like(state.slots.lengths, x.shape[1])
        slots, used = state.slots, -(-lengths // self.rate)
        appended = slots._replace(hidden=slots.hidden.to(x.dtype)).append(self.compress(x, lengths), used)
        kept = ShortTermMemory(appended.hidden[:, -self.num_slots :], appended.lengths.clamp_max(self.num_slots))
        evicted = x if self.conv is not None and self.training else x[:, :0]
        return CompressiveState(kept, evicted, lengths)

    def compress(self, x: Tensor, lengths: Tensor) -> Tensor:
        """⌈L / c⌉ vectors for the first ``lengths`` (B,) of L vectors (B, L, C); of those, ⌈lengths / c⌉ count."""
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.rate))
        held = (torch.arange(x.shape[1]) < lengths[:, None]).to(x.device)[:, :, None]
        windows, held = (y.unflatten(1, (-1, self.rate)) for y in (x, held))
        if self.compression == "max":
            return windows.masked_fill(~held, -torch.inf).amax(2).masked_fill(~held.any(2), 0)
        windows = windows.masked_fill(~held, 0)
        if self.conv is not None:
            return self.conv(windows.flatten(2))
        return windows.sum(2) / held.sum(2).clamp_min(1)

    def slots(self, state: CompressiveState) -> ShortTermMemory:
        return state.slots

    def read(
        self, query: Tensor, state: CompressiveState, attention: Attention
    ) -> tuple[None, Optional[Reconstruction]]:
        """No context of its own, since ordinary attention sees the slots; the error of the reconstruction."""
        if self.conv is None or not self.training:
            return None, None
        if not state.evicted.shape[1]:
            return None, Reconstruction(0 * self.conv.weight.sum() * query.new_ones(query.shape[:2]))
        with torch.no_grad():
            wanted = _attend(query, state.evicted, state.evicted_lengths, attention)
        compressed = self.compress(state.evicted.detach(), state.evicted_lengths)
        found = _attend(query.detach(), compressed, -(-state.evicted_lengths // self.rate), attention)
        exact = torch.promote_types(found.dtype, torch.float32)
        return None, Reconstruction((found - wanted).to(exact).square().mean((1, 3)))


def _attend(query: Tensor, hidden: Tensor, lengths: Tensor, attention: Attention) -> Tensor:
    """Attention (B, H, T, d) by content alone over the first ``lengths`` of ``hidden``; 0 for rows that have none."""
    # A bias of the keys changes no weight, and one of the values no difference of two contexts.
    keys_values = F.linear(hidden, attention.kv_proj.weight.detach())
    keys, values = (attention.split_heads(x) for x in keys_values.chunk(2, dim=-1))
    held = (torch.arange(hidden.shape[1]) < lengths.clamp_min(1)[:, None]).to(hidden.device)
    some = (lengths > 0).to(hidden.device)[:, None, None, None]
    query = attention.split_heads(query).to(keys.dtype)
    return F.scaled_dot_product_attention(query, keys, values, held[:, None, None]) * some
