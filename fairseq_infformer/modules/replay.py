"""Gradients through many segments at the activation memory of one: memory replay back-propagation.

A recurrent step is any function ``step(state, input) -> (state, output)`` of tensors, in tuples, lists or dicts;
the output is a loss, or what a loss is computed from. ``unroll`` runs it over the inputs and keeps all activations for
the backward pass. ``replay`` gives the same outputs and gradients and keeps the states between the steps alone: the
backward pass goes from the last step to the first, runs each again, and passes the gradient of its incoming state on to
the step before (Wu et al. 2020, Memformer, algorithm 1). Random numbers and autocast are those of the first run.

    state, losses = replay(step, state, segments)
    torch.stack(losses).sum().backward()

What a step returns is kept until the backward pass: return a loss or hidden states rather than logits. A step must not
change tensors in place that it was given, nor read what another step has changed outside of the state.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

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
