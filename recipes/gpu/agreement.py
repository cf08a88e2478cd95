"""How far a result may be from the exact one: as far as the same computation on the CPU is, in the same precision."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]

# The GPU adds in another order than the CPU, so its rounding is another draw of about the same size.
TIMES_THE_CPU = 4
# Of a result that the CPU happens to hit exactly.
EPSILONS = 8


def deviation(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The greatest ‖found − exact‖ / ‖exact‖ of several tensors; infinite if one is not finite."""
    errors = []
    for a, b in zip(found, exact, strict=True):
        a, b = a.detach().double().cpu(), b.detach().double().cpu()
        error = (a - b).norm() / b.norm().clamp_min(1e-30)
        errors.append(float(error) if bool(a.isfinite().all()) else float("inf"))
    return max(errors)


def failed(what: str, failure: Exception) -> Row:
    """The row of what has ended in an error."""
    return {"what": what, "failed": f"{type(failure).__name__}: {failure}".splitlines()[0], "ok": False}


def compared(
    what: str,
    compute: Callable[[torch.device, torch.dtype], Sequence[Tensor]],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    exact: Callable[[], Sequence[Tensor]] | None = None,
) -> Row:
    """Compare what ``compute`` gives on ``device`` with the CPU's float64, in units of what the CPU's own error is.

    Args:
        compute: values and gradients, from inputs that it draws alike on every device and rounds to ``dtype`` first.
        exact: the exact results, where they are not ``compute``'s own in float64.
    """
    try:
        truth = exact() if exact else compute(torch.device("cpu"), torch.float64)
        by_cpu = deviation(compute(torch.device("cpu"), dtype), truth)
        error = deviation(compute(device, dtype), truth)
    except Exception as failure:
        return failed(what, failure)
    for where, value in (("on the CPU", by_cpu), (f"on {device}", error)):
        if not math.isfinite(value):
            return {"what": what, "failed": f"not finite {where}", "ok": False}
    allowed = max(TIMES_THE_CPU * by_cpu, EPSILONS * torch.finfo(dtype).eps)
    return {"what": what, "error": error, "allowed": allowed, "ok": error <= allowed}
