"""What is computed once more in a backward pass: under the conditions of the first time, with gradients that add up."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


class Conditions:
    """The state of the random numbers and of autocast, as ``tensors`` are about to be used; ``restored`` repeats it."""

    def __init__(self, *tensors: Tensor) -> None:
        self._device = tensors[0].device.type
        self._generator = torch.get_rng_state()
        self._devices, self._states = get_device_states(*tensors)
        self._autocast = {
            "enabled": torch.is_autocast_enabled(self._device),
            "dtype": torch.get_autocast_dtype(self._device),
            "cache_enabled": torch.is_autocast_cache_enabled(),
        }

    def forget_unused(self) -> None:
        """Free the random numbers' state, 5 kB on a CPU, if none has been drawn since."""
        if self._generator is not None and torch.equal(self._generator, torch.get_rng_state()):
            self._generator = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Run a block under these conditions; those of its caller continue afterwards."""
        # Beside the CPU's random numbers, fork_rng keeps those of one type of device; without devices any will do.
        device = "cuda" if self._device == "cpu" else self._device
        with torch.random.fork_rng(self._devices, device_type=device), torch.autocast(self._device, **self._autocast):
            if self._generator is not None:
                torch.set_rng_state(self._generator)
            if self._devices:
                set_device_states(self._devices, self._states, device_type=device)
            yield


def gradients(value: Tensor, of: Sequence[Tensor], upstream: Optional[Tensor] = None) -> list[Optional[Tensor]]:
    """The gradients of ``value``, which ``upstream`` multiplies; None of a tensor on which it does not depend."""
    if not (value.requires_grad and of):
        return [None] * len(of)
    with torch.autocast(value.device.type, enabled=False):
        return list(torch.autograd.grad(value, of, upstream, allow_unused=True))


class GradientSums:
    """Sums of gradients, one per tensor."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, tensors: Sequence[Tensor], found: Sequence[Optional[Tensor]]) -> None:
        """Add what was found of some tensors, which must outlive this object."""
        for tensor, gradient in zip(tensors, found):
            if gradient is not None:
                before = self._sums.get(id(tensor))
                # Not in place: two tensors that were added have one gradient.
                self._sums[id(tensor)] = gradient if before is None else before + gradient

    def of(self, tensors: Sequence[Any]) -> list[Optional[Tensor]]:
        """The sum for each; None where nothing was added."""
        return [self._sums.get(id(tensor)) for tensor in tensors]
