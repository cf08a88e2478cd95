"""The last hidden states a layer has seen, as a value."""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_infformer.modules.state import reordered


class ShortTermMemory(NamedTuple):
    """Up to W past hidden states of B rows. A row that holds fewer than W holds them at the right end."""

    hidden: Tensor  # (B, W, C)
    lengths: Tensor  # (B,) int64, always on the CPU

    SAVED_AS = ("hidden", "lengths")
    reorder = reordered

    @staticmethod
    def empty(batch_size: int, width: int, dim: int, like: Tensor) -> "ShortTermMemory":
        return ShortTermMemory(like.new_zeros(batch_size, width, dim), torch.zeros(batch_size, dtype=torch.int64))

    def reset(self, rows: Tensor) -> "ShortTermMemory":
        """The memory with the rows of the CPU mask ``rows`` (B,) empty."""
        return self._replace(lengths=self.lengths.masked_fill(rows, 0))

    def held(self) -> Tensor:
        """(B, W) bool, on the CPU: where there is a vector."""
        width = self.hidden.shape[1]
        return torch.arange(width) >= width - self.lengths[:, None]

    def append(self, x: Tensor, lengths: Tensor) -> "ShortTermMemory":
        """The memory W + T wide that ends with the first ``lengths`` (B,) vectors of each row of ``x`` (B, T, C)."""
        hidden = torch.cat([self.hidden, x], dim=1)
        return ShortTermMemory(_shift_right(hidden, x.shape[1] - lengths), self.lengths + lengths)

    def from_left(self) -> Tensor:
        """The vectors (B, W, C) of each row from the left end on; what is to the right of them does not count."""
        return _shift_right(self.hidden, self.lengths - self.hidden.shape[1])

    def followed_by(self, later: "ShortTermMemory") -> "ShortTermMemory":
        """Both as one; rows of this one must be empty where those of ``later`` are not full."""
        return ShortTermMemory(torch.cat([self.hidden, later.hidden], dim=1), self.lengths + later.lengths)

    def split(self, width: int) -> tuple["ShortTermMemory", Tensor, Tensor]:
        """The last ``width`` vectors, and those before them, which leave.

        Returns:
            the short-term memory (B, at most width, C), the vectors that leave, oldest first from the left
            (B, max(0, W - width), C), and how many leave each row (B,).
        """
        surplus = max(0, self.hidden.shape[1] - width)
        leaving = (self.lengths - width).clamp_min(0)
        # Vectors are at the right end. Where all or none leave, there is nothing to align.
        gone = _shift_right(self.hidden[:, :surplus], torch.where(leaving > 0, leaving - surplus, 0))
        return ShortTermMemory(self.hidden[:, surplus:], self.lengths - leaving), gone, leaving


def _shift_right(x: Tensor, shift: Tensor) -> Tensor:
    """Each row of ``x`` (B, W, C) rotated by ``shift`` (B,) to the right; negative rotates left."""
    if not bool(shift.any()):
        return x
    width = x.shape[1]
    index = (torch.arange(width) - shift[:, None]) % width
    return x.gather(1, index.to(x.device)[:, :, None].expand_as(x))
