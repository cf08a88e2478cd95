"""Reads as if a memory were empty, or another row's: they show whether a model uses its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.settings import SettingError
from fairseq_infformer.modules.state import reordered

from .base import Read


def swapped(state: Any, empty: Tensor) -> Any:
    """A state whose row i is the row before's, but for the rows ``empty`` (B,); SettingError if there is one row."""
    if len(empty) == 1:
        raise SettingError("ablation", "swap reads the memory of another row, but the batch has one")
    return state.reorder(torch.arange(len(empty)).roll(1)).reset(empty)


@dataclass
class Zeroed:
    """A ``read`` that gives the layer nothing."""

    read: Callable[..., Read]

    def __call__(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: Any, attention: Attention) -> Read:
        return Read()


@dataclass
class Swapped:
    """A ``read`` of the memory of the row before, or of an empty one while the row's own is empty."""

    read: Callable[..., Read]

    def __call__(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: Any, attention: Attention) -> Read:
        read = self.read(query, hidden, lengths, swapped(state, state.is_empty()), attention)
        # A memory is written by what was read of it, which is what the row after it reports.
        return read._replace(report=reordered(read.report, torch.arange(len(query)).roll(-1)))


ABLATIONS: dict[str, Callable[[Callable[..., Read]], Callable[..., Read]]] = {"zero": Zeroed, "swap": Swapped}


class Readable(Protocol):
    """A memory, or the part of it that a layer has."""

    read: Callable[..., Read]  # see ``LongTermMemory.read``


def ablate(memory: Readable, ablation: str) -> None:
    """Let ``memory`` be read in another way, one of ABLATIONS; it writes as before."""
    memory.read = ABLATIONS[ablation](memory.read)
