"""Reversible sequences: values and gradients of plain back-propagation, activations of one layer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fairseq_infformer.modules.reversible import ReversibleSequence

WIDTH = 24


class Mixer(nn.Module):
    """A feed-forward net of the greatest of the other parts, which looks at ``source`` and may drop units."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.query = nn.Linear(width, 8)
        self.value = nn.Linear(8, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, others: list[Tensor], source: Tensor, masks: dict) -> Tensor:
        hidden = self.norm(torch.stack(others).amax(0))
        scores = (self.query(hidden) @ source.mT).masked_fill(masks["pads"][:, None], -1e4)
        hidden = hidden + self.value(scores.softmax(-1) @ source)
        return self.dropout(self.down(self.up(hidden).relu())) if masks["used"] else hidden


def nets(splits: int, depth: int, dropout: float = 0.0) -> tuple[ReversibleSequence, ReversibleSequence]:
    """A reversible net and one with the same weights that keeps everything."""
    torch.manual_seed(0)
    layers = [[Mixer(WIDTH // splits, dropout) for _ in range(splits)] for _ in range(depth)]
    plain = ReversibleSequence(copy.deepcopy(layers), recompute=False)
    return ReversibleSequence(layers), plain


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, dict]:
    torch.manual_seed(1)
    x, source = torch.randn(2, 5, WIDTH, dtype=dtype), torch.randn(2, 4, 8, dtype=dtype)
    pads = torch.arange(4) >= torch.tensor([[4], [3]])
    return x.requires_grad_(), source.requires_grad_(), {"pads": pads, "used": True}


def outcome(net: ReversibleSequence, x: Tensor, source: Tensor, masks: dict) -> list[Tensor]:
    """The output, and the gradients of input, source and parameters."""
    torch.manual_seed(2)
    y = net(x, source, masks)
    torch.rand(3)  # what is drawn between the passes must not matter
    return [y.detach(), *torch.autograd.grad(y.square().mean(), [x, source, *net.parameters()])]


@pytest.mark.parametrize(("splits", "dropout"), [(2, 0.0), (3, 0.0), (4, 0.0), (3, 0.3)])
def test_gradients_are_those_of_plain_back_propagation(splits, dropout):
    reversible, plain = nets(splits, 6, dropout)
    given = inputs()
    results = [outcome(net.double(), *given) for net in (reversible, plain)]
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert results[0][2].abs().max() > 1e-4  # of the source


def test_rebuild_gives_the_input_back_at_depth_32_in_float32():
    reversible, _ = nets(3, 32)
    x, *extra = inputs(torch.float32)
    with torch.no_grad():
        error = reversible.rebuild(reversible(x, *extra), *extra) - x
    assert 0 < error.abs().max() < 1e-3  # what the paper's depth needs; roundings grow in 96 subtractions


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gradients_under_autocast_repeat_the_first_run(dropout):
    results = []
    for net in nets(2, 3, dropout):
        x, source, masks = inputs(torch.float32)
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x, source, masks)
        results.append([y, *torch.autograd.grad(y.square().mean(), [x, source, *net.parameters()])])
    assert torch.equal(results[0][0], results[1][0])
    # The casts are the same. What rebuilding rounds in float32 may round to the neighbour in bfloat16, 2⁻⁸ away.
    for found, expected in zip(*results):
        assert (found - expected).norm() <= 2**-6 * expected.norm() + 1e-7


def test_half_precision_sums_in_float32():
    reversible, plain = (net.bfloat16() for net in nets(3, 8))
    results = [outcome(net, *inputs(torch.bfloat16)) for net in (reversible, plain)]
    assert torch.equal(results[0][0], results[1][0]) and results[0][0].dtype == torch.bfloat16
    for found, expected in zip(*results):
        assert (found - expected).norm() <= 2**-5 * expected.norm() + 1e-6  # as above, without float32 within functions


def kept_bytes(net: ReversibleSequence) -> int:
    """Bytes that a forward pass leaves for the backward pass, beside inputs and weights."""
    given, storages = inputs(torch.float32), {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*given[:2], given[2]["pads"], *net.parameters())}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = net(*given)
    del y
    return sum(size for pointer, size in storages.items() if pointer not in own)


def test_kept_activations_do_not_grow_with_depth():
    reversible, plain = zip(*(nets(3, depth) for depth in (2, 8)))
    shallow, deep = map(kept_bytes, reversible)
    assert shallow == deep == 4 * 2 * 5 * WIDTH  # the output
    assert kept_bytes(plain[1]) > 50 * deep


def test_backward_twice_gives_the_same_gradients():
    net, _ = nets(2, 2)
    x, source, masks = inputs(torch.float32)
    loss = net(x, source, masks).sum()
    first, second = (torch.autograd.grad(loss, [x, source], retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_frozen_functions_and_constant_inputs_get_no_gradient():
    net, _ = nets(2, 2)
    net.layers[0].requires_grad_(False)
    x, source, masks = inputs(torch.float32)
    net(x.detach(), source.detach(), masks).sum().backward()
    assert all(parameter.grad is None for parameter in net.layers[0].parameters())
    assert all(parameter.grad is not None for parameter in net.layers[1].parameters())


def test_function_without_gradients_passes_on_those_of_its_part():
    class Nothing(nn.Module):
        def forward(self, others: list[Tensor]) -> Tensor:
            return torch.zeros_like(others[0])

    x = torch.randn(2, 6, requires_grad=True)
    ReversibleSequence([[Nothing(), Nothing()]])(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("numbers", [(), (1,), (2, 3)])
def test_layers_of_unequal_or_too_few_functions_are_refused(numbers):
    with pytest.raises(ValueError, match="the same number of functions, 2 or more"):
        ReversibleSequence([[nn.Identity()] * number for number in numbers])


def test_width_that_the_splits_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="3 splits do not divide a width of 8"):
        nets(3, 1)[0](torch.zeros(1, 8))
