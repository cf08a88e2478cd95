"""Interfaces through which one part of the package uses another that it does not import."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Remembers(Protocol):
    """A model with a memory of its streams, which checkpoints keep."""

    memory_format: int  # the number of the format that ``memory_state`` has

    def memory_state(self) -> dict[str, Tensor]:
        """The memory of training after its last segment: tensors by name, whose first axis is the rows of the batch."""

    def load_memory_state(self, memory: dict[str, Tensor], number: int) -> None:
        """Let training continue from what ``memory_state`` returned, in the format of this number."""


@runtime_checkable
class CollectsMemory(Protocol):
    """A task that gathers what its ranks remember before a checkpoint is written."""

    def collect_memory(self, group: Any, device: torch.device) -> None:
        """Gather the memory of the ranks of ``group``; every rank calls it."""


@runtime_checkable
class LoadsPretrained(Protocol):
    """A model that may start from pretrained weights."""

    def load_pretrained(self, cfg: Any) -> None:
        """Load these weights, if the settings name any, and note in ``cfg``, the settings that checkpoints get, what
        building the model again needs."""


@runtime_checkable
class CompletesSettings(Protocol):
    """A class of models with settings that name files, whose content checkpoints must hold."""

    def complete(self, cfg: Any) -> None:
        """Put into ``cfg``, the settings that checkpoints get, what building the model again needs."""


class ReadsPrompts(Protocol):
    """A model as fairseq's generators take one, which continues what it has read."""

    def read(self, prompts: Tensor, lengths: Tensor) -> None:
        """Read new prompts, the first ``lengths`` (B,) of the tokens (B, T) of each row, of any number."""


@runtime_checkable
class ContinuesPrompts(Protocol):
    """A language model that can continue prompts."""

    def prompted(self, segment: int) -> ReadsPrompts:
        """Itself, which reads prompts in segments of this many tokens."""


@runtime_checkable
class Searches(Protocol):
    """A model whose architecture is trained: the parameters of the ``param_group`` "architecture"."""

    def operation_weights(self) -> dict[str, list]:
        """The weights of each operation, by side, layer, node and operation."""
