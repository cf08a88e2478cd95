"""What the benchmark measures against computes the same as the package does."""

import re
import sys

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import ContinuousAttention, ContinuousMemory, GaussianBasis
from recipes.benchmarks import memory
from recipes.benchmarks.plain import PlainMemory


def test_plain_memory_equals_the_fast_one():
    torch.manual_seed(0)
    basis = GaussianBasis(64, (0.02, 0.1))
    memory = ContinuousMemory(basis, 48, ridge=0.5, contraction="fixed", tau=0.6)
    attention = ContinuousAttention(6, 2, basis, "gaussian", min_sigma=0, flat_start=True).double()
    plain = PlainMemory(6, 2, 64, basis.widths, 48, 0.5, 0.6).double()
    plain.load_state_dict(attention.state_dict(), strict=False)
    plain.centers, plain.scales = basis.float64_grid()
    old, new, query = (torch.randn(2, count, 6, dtype=torch.float64) for count in (30, 20, 7))
    state = memory.write(memory.initial_state(2, 6, dtype=torch.float64), old)

    def fast(x: Tensor, q: Tensor) -> Tensor:
        return attention(q, memory.write(state, x).coefficients)[0]

    def slow(x: Tensor, q: Tensor) -> Tensor:
        return plain.read(q, plain.write(state.coefficients, x))

    results = []
    for step, module in ((fast, attention), (slow, plain)):
        arguments = [new.clone().requires_grad_(), query.clone().requires_grad_(), *module.parameters()]
        context = step(*arguments[:2])
        results.append([context, *torch.autograd.grad(context.square().sum(), arguments)])
    for a, b in zip(*results):
        # The regression's conditioning, with positions that the plain code computes in float32.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_memory_benchmark_refuses_unknown_rows(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["memory.py", "--rows", "99"])
    with pytest.raises(SystemExit, match="2"):
        memory.parse()
    assert re.search(r"--rows takes some of 1,2,3,[\d,]+, got 99", capsys.readouterr().err)
