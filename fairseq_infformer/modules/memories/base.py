"""What every long-term memory offers to a decoder layer, and the names under which memories are known.

State is a value: ``write`` takes one and returns the next, ``read`` takes one and changes nothing. Whoever streams
text keeps the state; a module never does.

In training, gradients go from the read of a segment through the write just before it, so that parameters of ``write``
are trained. With K segments in a sample (``--bptt-segments``) they go through the writes between all of them. Between
two samples, states and the vectors that are still to be written are detached.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Optional, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.registration import check_plugin
from fairseq_infformer.modules.short_term_memory import ShortTermMemory


class Figure(NamedTuple):
    """A figure of each query, which is averaged over layers and scored queries."""

    value: Tensor  # (B, T), or (B, H, T), whose heads are averaged too
    weight: float = 0.0  # of its mean in the loss; 0 if it is only logged
    spread: bool = False  # whether its standard deviation is logged beside its mean


class Report(Protocol):
    """What a read reports of itself: a NamedTuple of tensors, the first axis of each the batch."""

    lengths: Tensor  # (B,) int64, on the CPU: how many of the read's queries are text, from the left


class Read(NamedTuple):
    """What a read gives a layer. Each part may be absent."""

    context: Optional[Tensor] = None  # (B, T, C), added to what ordinary attention gives
    # Hidden states that the layer's own attention projects and sees, at the positions just before its short-term
    # memory. A row may have any only where its short-term memory is full. They depend on the state alone, since the
    # queries of a segment may come one by one.
    extra: Optional[ShortTermMemory] = None
    report: Optional[Report] = None


class LongTermMemory(nn.Module, ABC):
    """A memory of fixed size for vectors of width C that leave the short-term memory.

    States are NamedTuples of tensors whose first axis is the batch, with ``detach()``, ``reset(rows)``,
    ``reorder(order)`` and ``is_empty()``, (B,) bool on the CPU; ``modules.state`` has functions that serve as the first
    three. ``SAVED_AS`` names their fields in checkpoints.
    """

    logged: ClassVar[tuple[str, ...]] = ()  # what ``figures`` gives to the log, with the deviations

    @classmethod
    @abstractmethod
    def build(cls, settings: Any, embed_dim: int, num_heads: int, layer: int) -> "LongTermMemory":
        """The memory of a layer.

        Args:
            settings: of the dataclass that the memory is registered with.
            embed_dim: C. num_heads: H of the layer. layer: its number, from 0.

        If it takes ``head_dim`` too, it also serves layers whose heads are not C / H wide. It gets the width d of a
        head of such a layer; its queries are (B, T, H · d).

        Raises:
            SettingError: if a setting has a value that it cannot have.
        """

    @abstractmethod
    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> Any:
        """The empty memory of ``batch_size`` rows."""

    @abstractmethod
    def write(
        self,
        state: Any,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[Report] = None,
    ) -> Any:
        """The memory after the rows in ``reset`` were emptied and ``new`` was added.

        Args:
            state: the memory before.
            new: vectors (B, L, C), oldest first.
            lengths: (B,) how many of the L vectors of each row count, from the left; absent: all.
            reset: (B,) bool, the rows to empty first; absent: none.
            report: of the last read of ``state``; absent: nothing was read.

        Returns:
            the next state, through which gradients reach ``state``, ``new`` and the parameters.
        """

    @abstractmethod
    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: Any, attention: Attention) -> Read:
        """What the layer gets for its queries.

        Args:
            query: projected queries (B, T, C). hidden: the hidden states (B, T, C) that they come from.
            lengths: (B,) int64, on the CPU: how many of the T are text, from the left.
            state: the memory. attention: the layer's ordinary attention.
        """

    def figures(self, report: Report) -> dict[str, Figure]:
        """What the loss and the log get of a read's report, by the names in the log."""
        return {}

    def start_alike(self, query: Tensor) -> None:
        """Let each query find what is like it, for layers that are trained from scratch; by default nothing changes.

        Args:
            query: the layer's weight of queries, (C, C).
        """

    def start_silent(self) -> None:
        """Let the memory add nothing until it has learned to: for layers that were trained without one."""

    def start_from(self, key: Tensor, value: Tensor, output: Tensor) -> None:
        """Read as the layer attends, for layers that were trained without a memory; by default nothing is copied.

        What is read then goes through a gate that starts at zero. So it must not be zero too, or neither would learn.

        Args:
            key, value: the layer's own weights of keys and values, (H · d, C), or (C, C). output: that of its output.
        """


class Registered(NamedTuple):
    """A memory that is known by a name."""

    memory: type[LongTermMemory]
    settings: type  # a dataclass; the metadata of a field may have ``help``, ``choices`` and ``metavar``
    prefix: str  # of its options: --PREFIX-FIELD


MEMORIES: dict[str, Registered] = {}
# Called with the name of each memory that is registered.
LISTENERS: list[Callable[[str], None]] = []

Memory = TypeVar("Memory", bound=type[LongTermMemory])


def register_memory(name: str, settings: type, prefix: Optional[str] = None) -> Callable[[Memory], Memory]:
    """Class decorator: makes a memory known as ``--long-term-memory name``, with an option for each of its settings.

    Args:
        settings: a dataclass of plain values, or tuples of numbers, with a default each.
        prefix: of the options; absent: the name.
    """

    def register(memory: Memory) -> Memory:
        if name in MEMORIES or name == "none":
            raise ValueError(f"a long-term memory named {name!r} is registered already; give yours another name")
        check_plugin(memory)
        MEMORIES[name] = Registered(memory, settings, prefix or name)
        for listener in LISTENERS:
            listener(name)
        return memory

    return register
