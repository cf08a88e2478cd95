"""The Triton kernels against the plain blocks; where there is no GPU, in Triton's interpreter (see conftest)."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.memories.continuous.kernels import cpu, triton_kernels

pytest.importorskip("triton", reason="Triton is not installed: pip install 'fairseq-infformer[test]'")

from fairseq_infformer.modules.memories.continuous.kernels import triton as gaussian_sum_triton

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(rows: int, queries: int, functions: int, dim: int) -> list[Tensor]:
    torch.manual_seed(0)
    mean = torch.rand(rows, queries, dtype=torch.float64)
    variance = torch.rand(rows, queries, dtype=torch.float64) ** 3 + 1e-3
    values = torch.randn(rows, functions, dim, dtype=torch.float64)
    return [mean, variance, values, torch.linspace(-0.2, 1.2, functions, dtype=torch.float64)]


def agree(fast: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(fast.double().cpu(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


# Fewer than a tile, just as many, and tiles that are not full, for each of the three widths of a tile.
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 64, 64, 64), (2, 70, 83, 50), (1, 33, 40, 100), (1, 20, 17, 200)])
def test_gaussian_sum_matches_the_cpu_in_values_and_gradients(shape):
    exact = inputs(*shape)
    single = [x.float().to(DEVICE) for x in exact]
    agree(gaussian_sum_triton.gaussian_sum(*single), cpu.gaussian_sum(*exact))
    grad = torch.randn(*shape[:2], shape[3], dtype=torch.float64)
    fast = gaussian_sum_triton.gaussian_sum_backward(grad.float().to(DEVICE), *single)
    for a, b in zip(fast, cpu.gaussian_sum_backward(grad, *exact)):
        agree(a, b)


def test_gaussian_sum_accepts_no_queries():
    mean, variance, values, centers = (x.float().to(DEVICE) for x in inputs(2, 0, 5, 4))
    assert gaussian_sum_triton.gaussian_sum(mean, variance, values, centers).shape == (2, 0, 4)
    _, _, grad = gaussian_sum_triton.gaussian_sum_backward(values[:, :0], mean, variance, values, centers)
    assert not grad.any()


def test_gaussian_sum_accepts_strided_arguments():
    mean, variance, values, centers = (x.float().to(DEVICE) for x in inputs(2, 6, 5, 4))
    strided = values.transpose(1, 2).contiguous().transpose(1, 2)
    fast = [gaussian_sum_triton.gaussian_sum(mean, variance, v, centers) for v in (values, strided)]
    assert torch.equal(*fast)


def test_triton_kernels_are_used_where_they_work():
    triton_kernels.cache_clear()
    assert triton_kernels(torch.device(DEVICE)) is gaussian_sum_triton


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairseq_infformer.modules.memories.continuous.kernels import triton as kernels

for kernel in (kernels._forward, kernels._backward_queries, kernels._backward_values):
    tile = {"BLOCK": 64, "BLOCK_D": 16}
    types = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types | dict.fromkeys(tile, "constexpr"), constexprs=tile)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
"""


def test_kernels_compile_for_a_gpu(tmp_path):
    """The interpreter takes programs that the compiler refuses; to compile needs no GPU."""
    settings = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    subprocess.run(command, check=True, env=os.environ | settings)
