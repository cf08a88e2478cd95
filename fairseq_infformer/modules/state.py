"""States of streams as tensors by name, which is how checkpoints hold them.

A state is a NamedTuple of tensors and of other states. ``SAVED_AS`` of its class declares the names of its fields in
the order of the fields. These names never change, whatever the fields are called; without ``SAVED_AS`` they are the
fields' own.
"""

from collections.abc import Iterator
from typing import NamedTuple, Optional, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

State = TypeVar("State", bound=NamedTuple)


def named_tensors(state: Optional[NamedTuple], prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a state by name; a state in a field gives ``field.name``. None has none."""
    tensors = {}
    for name, value in _fields(state):
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, tuple):
            tensors |= named_tensors(value, f"{prefix}{name}.")
    return tensors


def with_tensors(like: State, tensors: dict[str, Tensor], prefix: str = "") -> State:
    """A state of the class of ``like`` with these tensors, in the dtypes and on the devices of its own.

    Args:
        tensors: has all names that ``named_tensors`` gives of ``like``.
    """
    values = []
    for name, value in _fields(like):
        if isinstance(value, Tensor):
            value = tensors[prefix + name].to(value)
        elif isinstance(value, tuple):
            value = with_tensors(value, tensors, f"{prefix}{name}.")
        values.append(value)
    return type(like)(*values)


def detached(state: State) -> State:
    """A state, or None, through which no gradient goes."""
    return tree_map_only(Tensor, Tensor.detach, state)


def reordered(state: State, order: Tensor) -> State:
    """A state, or None, whose row i is the given one's row ``order[i]``."""
    return tree_map_only(Tensor, lambda rows: rows.index_select(0, order.to(rows.device)), state)


def emptied(state: State, rows: Tensor) -> State:
    """A state, or None, with zeros in the rows of the mask ``rows`` (B,), on any device."""

    def zero(tensor: Tensor) -> Tensor:
        mask = rows.to(tensor.device, torch.bool)
        return tensor.masked_fill(mask.view(-1, *[1] * (tensor.dim() - 1)), 0)

    return tree_map_only(Tensor, zero, state)


def _fields(state: Optional[NamedTuple]) -> Iterator[tuple[str, object]]:
    if state is None:
        return iter(())
    return zip(getattr(type(state), "SAVED_AS", state._fields), state, strict=True)
