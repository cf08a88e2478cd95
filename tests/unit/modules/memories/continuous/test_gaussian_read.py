import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import GaussianBasis
from fairseq_infformer.modules.memories.continuous import kernels, naive
from fairseq_infformer.modules.memories.continuous.kernels import cpu

BASES = [
    GaussianBasis(24, (0.1,)),
    GaussianBasis(40, (0.05, 0.2)),
    GaussianBasis(3, (0.02, 0.1, 0.3)),
    GaussianBasis(180, (0.02, 0.15)),
]


@pytest.fixture(params=BASES, ids=lambda basis: str(basis.num_basis))
def basis(request) -> GaussianBasis:
    return request.param


@pytest.fixture(params=[1, 3, 20, 1 << 18], ids=["a query", "some queries", "some rows", "all"])
def block(request, monkeypatch) -> None:
    """What a block holds, in numbers of queries; the last block is not full."""
    monkeypatch.setattr(cpu, "block_queries", lambda centers: request.param)


def inputs(basis: GaussianBasis, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (2, 3, 4) and values (2, 3, N, 5)."""
    torch.manual_seed(0)
    mean = torch.rand(2, 3, 4, dtype=torch.float64)
    variance = torch.rand(2, 3, 4, dtype=torch.float64) ** 3 + 1e-4
    values = torch.randn(2, 3, basis.num_basis, 5, dtype=torch.float64)
    return tuple(x.to(dtype).requires_grad_() for x in (mean, variance, values))


def plain_read(mean: Tensor, variance: Tensor, values: Tensor, basis: GaussianBasis) -> Tensor:
    weights = [
        naive.expected_basis(naive.gaussian(*parameters), basis)
        for parameters in zip(mean.flatten(), variance.flatten())
    ]
    return torch.stack(weights).view(*mean.shape, -1) @ values


def weighted_gradients(read: Tensor, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.randn(read.shape, dtype=read.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((read * weights).sum(), arguments)


@cache
def integral(basis: GaussianBasis) -> tuple[Tensor, ...]:
    """The integral's values and gradients, which no block changes."""
    arguments = inputs(basis)
    slow = plain_read(*arguments, basis)
    return slow.detach(), *weighted_gradients(slow, arguments)


def test_gaussian_read_matches_the_integral_in_values_and_gradients(basis, block):
    arguments = inputs(basis)
    fast = kernels.gaussian_read(*arguments, basis)
    for a, b in zip((fast, *weighted_gradients(fast, arguments)), integral(basis), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_gaussian_read_passes_gradcheck(block):
    mean, variance, values = inputs(BASES[1])
    # Finite differences need a read that is smooth on the length of their step: a floor on the variance.
    arguments = mean[:1, :2, :2], variance[:1, :2, :2] + 0.01, values[:1, :2]
    assert torch.autograd.gradcheck(lambda *x: kernels.gaussian_read(*x, BASES[1]), arguments)


def test_gaussian_read_in_float32_is_close_to_float64(basis, block):
    exact, single = (inputs(basis, dtype) for dtype in (torch.float64, torch.float32))
    outputs = [kernels.gaussian_read(*arguments, basis) for arguments in (exact, single)]
    assert outputs[1].dtype == torch.float32
    scale = float(outputs[0].abs().max())
    torch.testing.assert_close(outputs[1].double(), outputs[0], rtol=1e-5, atol=1e-5 * scale)
    for a, b in zip(*(torch.autograd.grad(y.sum(), x) for y, x in zip(outputs, (exact, single)))):
        torch.testing.assert_close(b.double(), a, rtol=1e-5, atol=1e-5 * float(a.abs().max()))


def test_gaussian_read_leaves_its_arguments_unchanged(basis, block):
    arguments = inputs(basis)
    before = [x.detach().clone() for x in arguments]
    kernels.gaussian_read(*arguments, basis).sum().backward()
    assert all(torch.equal(x, y) for x, y in zip(arguments, before))


def test_gaussian_read_gives_one_argument_alone_its_gradient(basis):
    for which in range(3):
        arguments = [x.detach() for x in inputs(basis)]
        arguments[which].requires_grad_()
        kernels.gaussian_read(*arguments, basis).sum().backward()
        assert float(arguments[which].grad.abs().max()) > 0


@pytest.mark.parametrize("gradients", [True, False])
def test_gaussian_read_operator_passes_opcheck(basis, gradients):
    """Nothing is changed in place, results alias no argument, and shapes are those that the compiler assumes."""
    arguments = [x.detach().flatten(0, 1).requires_grad_(gradients) for x in inputs(basis)]
    counts, widths = zip(*basis.by_width())
    centers = basis.grid_like(arguments[0])[0]
    torch.library.opcheck(torch.ops.fairseq_infformer.gaussian_read, (*arguments, centers, counts, widths))


def test_gaussian_read_accepts_no_queries(basis):
    mean, variance, values = inputs(basis)
    read = kernels.gaussian_read(mean[..., :0], variance[..., :0], values, basis)
    assert read.shape == (2, 3, 0, 5)
    read.sum().backward()
    assert not values.grad.any()


def test_gaussian_read_refuses_a_second_derivative(basis):
    mean, variance, values = inputs(basis)
    total = kernels.gaussian_read(mean, variance, values, basis).square().sum()
    (gradient,) = torch.autograd.grad(total, mean, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        gradient.sum().backward()


def test_triton_kernels_warn_once_without_triton(monkeypatch, caplog):
    kernels.triton_kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "fairseq_infformer.modules.memories.continuous.kernels.triton", raising=False)
    monkeypatch.delattr(kernels, "triton", raising=False)
    for _ in range(2):
        assert kernels.triton_kernels(torch.device("cpu")) is None
    assert len(caplog.records) == 1 and "without Triton on cpu: ModuleNotFoundError" in caplog.text
    kernels.triton_kernels.cache_clear()


def test_triton_kernels_can_be_switched_off(monkeypatch, caplog):
    kernels.triton_kernels.cache_clear()
    monkeypatch.setenv("INFFORMER_TRITON", "0")
    assert kernels.triton_kernels(torch.device("cpu")) is None and not caplog.records
    kernels.triton_kernels.cache_clear()
