"""The slots of some rows, as a value."""

from typing import NamedTuple

from torch import Tensor

from fairseq_infformer.modules.state import detached, emptied, reordered


class SlotState(NamedTuple):
    """The slots of B rows."""

    slots: Tensor  # (B, k, C), float32 at least; those of an empty row do not count
    num_tokens: Tensor  # (B,) int64, on the CPU: how many vectors were written

    detach, reorder, reset = detached, reordered, emptied

    def is_empty(self) -> Tensor:
        """(B,) bool: the rows that hold nothing."""
        return self.num_tokens == 0
