"""What every long-term memory offers to a decoder layer.

State is a value: ``write`` takes one and returns the next, ``read`` takes one and changes nothing. Whoever streams
text keeps the state; a module never does.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Optional

from torch import Tensor, nn

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.short_term_memory import ShortTermMemory


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
    def read(self, query: Tensor, state: Any, attention: Optional[Attention] = None) -> tuple[Optional[Tensor], Any]:
        """What the layer adds for queries (B, T, C), and what the read has to say of itself.

        Args:
            query: projected queries (B, T, C). state: the memory.
            attention: the layer's ordinary attention, for a memory that learns from it.

        Returns:
            context (B, T, C), or None where there is none to add, and a NamedTuple of tensors whose first axis is the
            batch, or None.
        """

    def slots(self, state: Any) -> Optional[ShortTermMemory]:
        """Vectors that ordinary attention sees before the short-term memory; None: there are none.

        A row may have any only where its short-term memory is full.
        """
        return None
