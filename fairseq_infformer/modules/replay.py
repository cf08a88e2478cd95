"""Gradients through many segments at the activation memory of one: memory replay back-propagation.

A recurrent step is any function ``step(state, input) -> (state, output)`` of tensors, in tuples, lists or dicts;
the output is a loss, or what a loss is computed from. ``unroll`` runs it over the inputs and keeps all activations for
the backward pass. ``replay`` gives the same outputs and gradients and keeps the states between the steps alone: the
backward pass goes from the last step to the first, runs each again, and passes the gradient of its incoming state on to
the step before (Memformer, Wu et al. 2020, algorithm 1). Random numbers and autocast are those of the first run.

    state, outputs = replay(step, state, segments)
    summed(loss, outputs, model.parameters()).backward()

What a step returns is kept until the backward pass, so let it return hidden states. A step must not change tensors in
place that it was given, nor read what another step has changed outside of the state. What no later step needs, such as
a decoder, an output layer and the loss, belongs to the function that ``summed`` adds up: it runs once per segment.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from .recompute import GradientSums, gradients

State, Input, Output = TypeVar("State"), TypeVar("Input"), TypeVar("Output")
Step = Callable[[State, Input], tuple[State, Output]]


def unroll(step: Step, state: State, inputs: Iterable[Input]) -> tuple[State, list[Output]]:
    """The state after the last input, and the output for each."""
    outputs = []
    for each in inputs:
        state, output = step(state, each)
        outputs.append(output)
    return state, outputs


def replay(step: Step, state: State, inputs: Iterable[Input]) -> tuple[State, list[Output]]:
    """What ``unroll`` returns; the backward pass runs each step again instead of keeping its activations."""

    if not torch.is_grad_enabled():
        return unroll(step, state, inputs)
    # A parameter's gradient is added up inside one backward pass, so that ranks synchronise once, and a loss that is
    # scaled for half precision is scaled once: what PyTorch's checkpoints give, taken from one state to the next.
    return unroll(lambda *arguments: checkpoint(step, *arguments, use_reentrant=False), state, inputs)


def summed(function: Callable[[Input], Tensor], inputs: Iterable[Input], parameters: Iterable[Tensor]) -> Tensor:
    """``Σ function(input)``, a scalar; ``function`` runs once per input, and keeps its activations no longer.

    Its gradients are computed right after it ran. They need no more than the gradient of the sum, a number, which the
    backward pass multiplies them with.

    Args:
        function: gives a scalar for tensors, in tuples, lists or dicts.
        parameters: all that ``function`` depends on beside its input.
    """
    inputs = list(inputs)
    if not torch.is_grad_enabled():
        return sum(function(each) for each in inputs)
    leaves, structure = tree_flatten(inputs)
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    return _Summed.apply(function, structure, len(leaves), *leaves, *parameters)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable, structure: TreeSpec, num_leaves: int, *arguments: Any) -> Tensor:
        needed = ctx.needs_input_grad[3:]
        leaves = [
            leaf.detach().requires_grad_() if needs else leaf for leaf, needs in zip(arguments[:num_leaves], needed)
        ]
        parameters = arguments[num_leaves:]
        sums = GradientSums()
        total: Any = 0
        for each in tree_unflatten(leaves, structure):
            with torch.enable_grad():
                value = function(each)
            own = [leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor) and leaf.requires_grad]
            sums.add([*own, *parameters], gradients(value, [*own, *parameters]))
            total = total + value.detach()
        ctx.gradients = sums.of([*leaves, *parameters])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple:
        found, ctx.gradients = ctx.gradients, None
        return None, None, None, *(each if each is None else each * scale.to(each) for each in found)
