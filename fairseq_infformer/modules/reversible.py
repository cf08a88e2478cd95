"""Deep nets at the activation memory of one layer: multi-split reversible sequences (Zhao et al. 2021).

A layer cuts the channels of its input X into n parts of equal width, and has a function G_k for each:

    Y_k = X_k + G_k(X_{k+1}, …, X_n, Y_1, …, Y_{k−1}),   k = 1, …, n
    X_k = Y_k − G_k(the same inputs),                    k = n, …, 1

n = 2 is RevNet (Gomez et al. 2017). The second line rebuilds a layer's input from its output, so the sequence keeps the
output of its last layer alone. The backward pass goes from the last function to the first and runs each once more, with
the random numbers and the autocast of the first time: it costs a third more time than plain back-propagation.

    class Mean(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.layer = nn.Linear(width, width)

        def forward(self, others, scale):
            return scale * torch.relu(self.layer(sum(others) / len(others)))

    net = ReversibleSequence([[Mean(32), Mean(32), Mean(32)] for _ in range(24)])
    net(torch.randn(8, 96), torch.ones(32, requires_grad=True)).sum().backward()

A function gets a list of the n − 1 other parts, in the order above, and all extra inputs of the sequence, such as an
encoder's output or a mask. It may depend on nothing else that needs a gradient but its own parameters, and must change
nothing: the running averages of batch normalisation would count twice.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .recompute import Conditions, GradientSums, gradients


class ReversibleSequence(nn.Module):
    """Layers of n functions each, for inputs (..., C) of which n divides C.

    Args:
        layers: the n functions of each layer, as modules: ``function(others, *extra)`` gives (..., C / n) for a list of
            n − 1 such tensors.
        recompute: rebuild what the backward pass needs instead of keeping it. Otherwise the same values and gradients
            come by plain back-propagation.
    """

    def __init__(self, layers: Iterable[Sequence[nn.Module]], *, recompute: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(functions) for functions in layers)
        self.recompute = recompute
        numbers = {len(functions) for functions in self.layers}
        if len(numbers) != 1 or min(numbers) < 2:
            raise ValueError(f"every layer needs the same number of functions, 2 or more, got {sorted(numbers)}")
        self.splits = numbers.pop()

    def forward(self, x: Tensor, *extra: Any) -> Tensor:
        """The output (..., C) of the last layer, in the dtype of ``x``.

        Args:
            x: (..., C). What the functions add to it is summed in float32 or better, since rebuilding subtracts it.
            extra: tensors, in tuples, lists or dicts, and anything else that the functions take. The tensors get
                gradients, summed over all functions. What a function changes in a list or dict is kept only without
                gradients.
        """
        if x.shape[-1] % self.splits:
            raise ValueError(f"{self.splits} splits do not divide a width of {x.shape[-1]}")
        if not (self.recompute and torch.is_grad_enabled()):
            return self._run(x, extra, x.dtype).to(x.dtype)
        leaves, structure = tree_flatten(extra)
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return _Reversible.apply(self, x, structure, len(leaves), *leaves, *parameters).to(x.dtype)

    def rebuild(self, y: Tensor, *extra: Any) -> Tensor:
        """The input (..., C) of which ``forward``, in float32 or better and without randomness, gave ``y``."""
        parts = list(y.chunk(self.splits, dim=-1))
        for functions in reversed(self.layers):
            for k in reversed(range(self.splits)):
                parts[k] = parts[k] - functions[k](_others(parts, k), *extra)
        return torch.cat(parts, dim=-1)

    def _run(self, x: Tensor, extra: tuple, dtype: torch.dtype, conditions: list[Conditions] | None = None) -> Tensor:
        parts = list(x.to(torch.promote_types(dtype, torch.float32)).chunk(self.splits, dim=-1))
        for functions in self.layers:
            for k, function in enumerate(functions):
                if conditions is not None:
                    conditions.append(Conditions(x))
                others = [part.to(dtype) for part in _others(parts, k)]
                parts[k] = parts[k] + function(others, *extra)
                if conditions is not None:
                    conditions[-1].forget_unused()
        return torch.cat(parts, dim=-1)


def _others(parts: list[Tensor], k: int) -> list[Tensor]:
    return parts[k + 1 :] + parts[:k]


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: ReversibleSequence, x: Tensor, structure: TreeSpec, num_leaves: int, *arguments: Any
    ) -> Tensor:
        leaves, parameters = arguments[:num_leaves], arguments[num_leaves:]
        ctx.net, ctx.structure, ctx.dtype, ctx.conditions = net, structure, x.dtype, []
        y = net._run(x, tree_unflatten(leaves, structure), x.dtype, ctx.conditions)
        ctx.parameters = parameters
        ctx.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        ctx.tensors = [number for number, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        ctx.save_for_backward(y, *(leaves[number] for number in ctx.tensors))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        y, *tensors = ctx.saved_tensors
        leaves = list(ctx.constants)
        for number, tensor in zip(ctx.tensors, tensors):
            leaves[number] = tensor.detach().requires_grad_(ctx.needs_input_grad[4 + number])
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        extra = tree_unflatten(leaves, ctx.structure)
        net: ReversibleSequence = ctx.net
        parts, of_parts = ([part.contiguous() for part in each.chunk(net.splits, dim=-1)] for each in (y, upstream))
        sums, conditions = GradientSums(), list(ctx.conditions)
        for functions in reversed(net.layers):
            for k in reversed(range(net.splits)):
                others = [part.to(ctx.dtype).detach().requires_grad_() for part in _others(parts, k)]
                with torch.enable_grad(), conditions.pop().restored():
                    value = functions[k](others, *extra)
                parts[k] = parts[k] - value.detach()
                shared = [*inputs, *(parameter for parameter in functions[k].parameters() if parameter.requires_grad)]
                found = gradients(value, [*others, *shared], of_parts[k].to(value.dtype))
                sums.add(shared, found[len(others) :])
                for number, gradient in enumerate(found[: len(others)]):
                    if gradient is not None:
                        j = (k + 1 + number) % net.splits
                        of_parts[j] = of_parts[j] + gradient
        of_x = torch.cat(of_parts, dim=-1).to(ctx.dtype)
        return None, of_x, None, None, *sums.of([*leaves, *ctx.parameters])
