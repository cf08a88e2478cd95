"""How fast the memory and ordinary attention are on a GPU, and what part of what the card can do that is."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from recipes.benchmarks import attention as attention_benchmark
from recipes.benchmarks import memory as memory_benchmark
from recipes.benchmarks.measure import seconds
from recipes.gpu.agreement import Row

OPERATORS = torch.ops.fairseq_infformer


@register_flop_formula([OPERATORS.gaussian_read])
def _read_flops(mean: Any, variance: Any, values: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    rows, functions, dim = values
    return 2 * rows * mean[1] * functions * dim


@register_flop_formula([OPERATORS.gaussian_read_backward])
def _read_backward_flops(grad: Any, mean: Any, variance: Any, values: Any, *_: Any, **__: Any) -> int:
    return 2 * _read_flops(mean, variance, values)  # one product for the values, one for mean and variance


@register_flop_formula([OPERATORS.refit])
def _write_flops(coefficients: Any, largest: Any, x: Any, *_: Any, **__: Any) -> int:
    rows, functions, dim = coefficients
    return 2 * rows * functions * (functions + x[1]) * dim


@register_flop_formula([OPERATORS.refit_transposed])
def _write_backward_flops(
    grad: Any, coefficients: Any, largest: Any, needed: list[bool], length: int, *_: Any, **__: Any
) -> int:
    rows, functions, dim = grad
    return 2 * rows * functions * (functions * needed[0] + length * needed[1]) * dim


def ceilings(device: torch.device, small: bool) -> dict[str, float]:
    """What a copy and matrix products reach: bytes/s (read and written) and FLOP/s, the best of ten."""
    size = 256 if small else 8192
    source = torch.randn(size, size, 1 if small else 8, device=device)
    found = {"copy": 2 * source.nbytes / best(partial(torch.empty_like(source).copy_, source))}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * size**3 / best(partial(torch.matmul, a, b))
    return found


def best(run: Callable[[], Any]) -> float:
    for _ in range(3):
        run()
    return min(seconds(run) for _ in range(10))


def measure(device: torch.device, small: bool) -> Iterator[Row]:
    """The rows of ``benchmarks/memory.py`` on few and on many rows of memory, then ``benchmarks/attention.py``."""
    yield {"what": "ceilings", "ok": True, "ceilings": ceilings(device, small)}
    repeats, batches = ("2", ("1",)) if small else ("30", ("4", "64"))
    for batch in batches:
        rows = "2,3" if small else "1,2,3,4,5,6,7" if batch == "4" else "1,2,3"
        options = [
            "--rows",
            rows,
            "--repeats",
            repeats,
            "--device",
            str(device),
            "--batch",
            batch,
            "--tokens",
            "200000",
        ]
        args = memory_benchmark.parse(options)
        work = work_of_rows(args)
        for name, result in memory_benchmark.measured(args):
            result.pop("samples")
            yield {
                "what": f"{name}: {memory_benchmark.WHAT[name]}, {batch} rows",
                "ok": True,
                **result,
                **work.get(name, {}),
            }
    for dtype in ("float32",) if small else ("float32", "bfloat16"):
        options = ["--device", str(device), "--dtype", dtype, "--repeats", repeats]
        options += ["--batch", "1", "--segment", "16", "--stm-length", "16"] if small else ["--batch", "16"]
        results = attention_benchmark.measured(attention_benchmark.parse(options))
        slowest = results["xl, all scores kept"]["both_ms"]
        for name, result in results.items():
            yield {
                "what": f"attention, {name}, {dtype}",
                "ok": True,
                "ours": result["both_ms"] / 1e3,
                "other": slowest / 1e3,
                "ratio": result["both_ms"] / slowest,
                "unit": "s",
                "peak_mib": result["peak_mib"],
            }


def work_of_rows(args: Any) -> dict[str, dict[str, float]]:
    """Of row 1, which writes and reads: the operations, and the bytes that cannot but be moved."""
    if "1" not in args.rows:
        return {}
    run = memory_benchmark.sides(args)["ours"]
    with FlopCounterMode(display=False) as counter:
        results = run()
    # What goes in and comes out once: as much as the results, the state and its operators, and x, query and gradient.
    state = 2 * args.batch * memory_benchmark.BASIS * memory_benchmark.DIM * 4
    inputs = 3 * args.batch * memory_benchmark.LENGTH * memory_benchmark.DIM * 4
    operators = memory_benchmark.BASIS * (memory_benchmark.BASIS + memory_benchmark.LENGTH) * 4
    moved = sum(result.nbytes for result in results) + state + inputs + operators
    return {"1 time": {"flops": counter.get_total_flops(), "bytes": moved}}
