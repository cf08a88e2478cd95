"""What every long-term memory offers to a decoder layer.

State is a value: ``write`` takes one and returns the next, ``read`` takes one and changes nothing. Whoever streams
text keeps the state; a module never does.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Optional

from torch import Tensor, nn


class LongTermMemory(nn.Module, ABC):
    """A memory of fixed size for vectors of width C that leave the short-term memory.

    States are NamedTuples of tensors whose first axis is the batch, with ``detach()``, ``reset(rows)`` and
    ``reorder(order)``.
    """

    @abstractmethod
    def initial_state(self, batch_size: int, device=None) -> NamedTuple:
        """The empty memory of ``batch_size`` rows."""

    @abstractmethod
    def write(
        self,
        state: Any,
        x: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        aux: Any = None,
        queries: Optional[Tensor] = None,
    ) -> Any:
        """The memory after the rows in ``reset`` were emptied and ``x`` was added.

        Args:
            state: the memory before.
            x: new vectors (B, L, C), oldest first.
            lengths: (B,) how many of the L vectors of each row count, from the left; absent: all.
            reset: (B,) bool, the rows to empty first; absent: none.
            aux: what the last ``read`` returned beside its context; sticky memories keep what it looked at.
            queries: (B,) how many of the queries of that read count, from the left; absent: all.
        """

    @abstractmethod
    def read(self, query: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Context (B, T, C) for queries (B, T, C), and what the read has to say about itself (or None)."""
