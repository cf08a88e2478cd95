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

    def append(self, x: Tensor, lengths: Tensor) -> "ShortTermMemory":
        """The memory W + T wide that ends with the first ``lengths`` (B,) vectors of each row of ``x`` (B, T, C)."""
        hidden = torch.cat([self.hidden, x], dim=1)
        return ShortTermMemory(_shift_right(hidden, x.shape[1] - lengths), self.lengths + lengths)

    def from_left(self) -> Tensor:
        """The vectors (B, W, C) of each row from the left end on; what stands to the right of them does not count."""
        return _shift_right(self.hidden, self.lengths - self.hidden.shape[1])

    def followed_by(self, later: "ShortTermMemory") -> "ShortTermMemory":
        """Both as one; rows of ``later`` that are not full must be empty here."""
        return ShortTermMemory(torch.cat([self.hidden, later.hidden], dim=1), self.lengths + later.lengths)

    def split(self, width: int) -> tuple["ShortTermMemory", Tensor, Tensor]:
        """What the ``width`` last places keep, and what leaves them.

        Returns:
            the short-term memory (B, at most width, C), the vectors that leave, oldest first from the left (B, those
            of the W places that are more than width, C), and how many leave each row (B,).
        """
        places = max(0, self.hidden.shape[1] - width)
        leaving = (self.lengths - width).clamp_min(0)
        # Vectors lie at the right end of their places. Where all or none leave, there is nothing to align.
        gone = _shift_right(self.hidden[:, :places], torch.where(leaving > 0, leaving - places, 0))
        return ShortTermMemory(self.hidden[:, places:], self.lengths - leaving), gone, leaving


def _shift_right(x: Tensor, places: Tensor) -> Tensor:
    """Each row of ``x`` (B, W, C) moved ``places`` (B,) to the right, round the end; negative moves left."""
    if not bool(places.any()):
        return x
    width = x.shape[1]
    index = (torch.arange(width) - places[:, None]) % width
    return x.gather(1, index.to(x.device)[:, :, None].expand_as(x))
