"""Time and memory of two pieces of code, measured in turn."""

import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def paired(name: str, ours: Callable[[], Any], other: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of both, measured in turn, and the median of their ratios."""
    for _ in range(3):
        ours(), other()
    samples = []
    for repeat in range(repeats):
        progress(f"{name}: {repeat + 1}/{repeats}")
        samples.append([seconds(ours), seconds(other)])
    return summary(samples, "s")


def summary(samples: list[list[float]], unit: str) -> dict[str, Any]:
    ratios = sorted(ours / other for ours, other in samples)
    return {
        "ratio": statistics.median(ratios),
        "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "ours": statistics.median(ours for ours, _ in samples),
        "other": statistics.median(other for _, other in samples),
        "unit": unit,
        "samples": samples,
    }


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds that ``run`` takes, until the GPU has done what it started there."""
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def wait() -> None:
    """Wait for the GPU, if this process uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def in_use(device: torch.device) -> int:
    """Bytes that this process uses now: on the GPU those of its tensors, on the CPU all that is resident."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    give_back_freed_memory()
    return resident()


def peak_on_gpu(run: Callable[[], Any]) -> int:
    """Bytes by which ``run`` raises the memory of tensors on the GPU above what they took before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory: now (VmRSS), or at most since the peak was reset (VmHWM). Linux only."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        if entry.startswith(field):
            return int(entry.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def give_back_freed_memory() -> None:
    """Return what was freed to the system, so that ``resident`` reports what is in use.

    glibc keeps freed blocks for later, some ten MiB more at one moment than at the next.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
