"""Sums of losses whose gradients are computed input by input."""

import weakref

import torch
from torch import Tensor

from fairseq_infformer.modules.replay import summed


def setup() -> tuple[torch.nn.Module, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3).double()
    layer.unused = torch.nn.Parameter(torch.zeros(2))
    return layer, [
        {"x": torch.randn(5, 4).double().requires_grad_(), "lengths": torch.tensor([count])} for count in (2, 5, 3)
    ]


def test_summed_has_the_values_and_gradients_of_a_sum():
    layer, inputs = setup()

    def loss(each: dict[str, Tensor]) -> Tensor:
        return layer(each["x"])[: each["lengths"]].square().sum()

    parameters = [layer.weight, layer.bias, *(each["x"] for each in inputs)]
    plain, at_once = sum(loss(each) for each in inputs), summed(loss, inputs, layer.parameters())
    assert torch.equal(plain, at_once)
    gradients = (torch.autograd.grad(3 * total, parameters) for total in (plain, at_once))
    for expected, found in zip(*gradients):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_summed_runs_once_per_input_and_keeps_the_activations_of_one():
    layer, inputs = setup()
    activations: list[weakref.ref] = []

    def loss(each: dict[str, Tensor]) -> Tensor:
        assert all(earlier() is None for earlier in activations)
        hidden = layer(each["x"]).exp()
        activations.append(weakref.ref(hidden))
        return hidden.sum()

    summed(loss, inputs, layer.parameters()).backward()
    assert len(activations) == len(inputs)
    assert layer.weight.grad is not None and layer.unused.grad is None


def test_summed_without_gradients_is_a_sum():
    layer, inputs = setup()
    with torch.no_grad():
        assert not summed(lambda each: layer(each["x"]).sum(), inputs, layer.parameters()).requires_grad


def test_summed_adds_gradients_that_two_parameters_share():
    first, second = (torch.zeros(3, requires_grad=True) for _ in range(2))
    # The gradient of a sum is one tensor for both of its terms.
    summed(lambda each: ((first + second) * each).sum(), [torch.ones(3)] * 4, [first, second]).mul(3).backward()
    assert first.grad.tolist() == second.grad.tolist() == [12.0] * 3
