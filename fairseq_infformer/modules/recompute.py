"""What is computed once more in a backward pass: under the conditions of the first time, with gradients that add up."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
        # Each costs as much time as a small layer, so only what is needed is done.
        with ExitStack() as stack:
            if self._generator is not None or self._devices:
                # Beside the CPU's random numbers, fork_rng keeps those of one type of device; without any, of no other.
                device = "cuda" if self._device == "cpu" else self._device
                stack.enter_context(torch.random.fork_rng(self._devices, device_type=device))
                if self._generator is not None:
                    torch.set_rng_state(self._generator)
                if self._devices:
                    set_device_states(self._devices, self._states, device_type=device)
            if self._autocast["enabled"] or torch.is_autocast_enabled(self._device):
                stack.enter_context(torch.autocast(self._device, **self._autocast))
            yield


def gradients(value: Tensor, of: Sequence[Tensor], upstream: Optional[Tensor] = None) -> list[Optional[Tensor]]:
    """The gradients of ``value``, which ``upstream`` multiplies; None of a tensor on which it does not depend."""
    if not (value.requires_grad and of):
        return [None] * len(of)
    enabled = torch.is_autocast_enabled(value.device.type)
    with torch.autocast(value.device.type, enabled=False) if enabled else nullcontext():
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
