"""The memory of all layers as a checkpoint holds it: tensors by name, in a numbered format."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.state import named_tensors, with_tensors

MEMORY_FORMAT = 1
START_OVER = "give --reset-dataloader to start the text over with an empty memory"

# In format 0, names were paths of attributes, such as "[0].recent.hidden". A compressive memory did not yet keep
# vectors for the next write, and every layer had the lengths of a read.
FORMAT_0 = re.compile(r"\[(\d+)\]\.(.*)")
PARTS_OF_FORMAT_0 = {
    "recent.": "short_term.",
    "long_term.": "memory.",
    "looked.error": "report.error",
    "looked.": "report.density.",
    "queries": "report.lengths",
}
NOT_IN_FORMAT_0 = ("memory.waiting.hidden", "memory.waiting.lengths")


def tensors_of(states: Sequence[NamedTuple]) -> dict[str, Tensor]:
    """The memory of all layers; the first axis of each tensor is the rows of the batch."""
    return {
        f"layers.{number}.{name}": tensor
        for number, state in enumerate(states)
        for name, tensor in named_tensors(state).items()
    }


def states_from(
    tensors: dict[str, Tensor], number: int, like: Sequence[NamedTuple], empty: Sequence[NamedTuple]
) -> tuple[NamedTuple, ...]:
    """The memory of all layers from what ``tensors_of`` returned; InputError if a different model wrote it.

    Args:
        number: the format of ``tensors``.
        like: states as the layers have them after a segment.
        empty: states before any text, which supply what an earlier format lacks.
    """
    wanted = tensors_of(like).keys()
    if number > MEMORY_FORMAT:
        raise InputError(
            f"the checkpoint's memory has format {number}, but this version reads up to {MEMORY_FORMAT}; use the "
            f"version that wrote it, or {START_OVER}"
        )
    if number == 0:
        added = {name: tensor for name, tensor in tensors_of(empty).items() if name.endswith(NOT_IN_FORMAT_0)}
        tensors = added | {_renamed(name): tensor for name, tensor in tensors.items()}
        tensors = {name: tensors[name] for name in tensors if name in wanted or not name.endswith("report.lengths")}
    if differing := sorted(tensors.keys() ^ wanted):
        raise InputError(
            f"the memories of checkpoint and model differ ({', '.join(differing)}); resume with the settings that the "
            f"checkpoint was trained with, or {START_OVER}"
        )
    return tuple(with_tensors(state, tensors, f"layers.{layer}.") for layer, state in enumerate(like))


def _renamed(name: str) -> str:
    path = FORMAT_0.fullmatch(name)
    for old, new in PARTS_OF_FORMAT_0.items():
        if path and path[2].startswith(old):
            return f"layers.{path[1]}.{new}{path[2].removeprefix(old)}"
    return name
