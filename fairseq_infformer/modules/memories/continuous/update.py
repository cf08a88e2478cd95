"""One update of a batch of continuous memories, as an operator of PyTorch with its gradients.

It is opaque to torch.compile, since which linear maps it takes depends on how many tokens the rows have read.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.padding import zero_pads

from .basis import GaussianBasis
from .contraction import CONTRACTIONS
from .operators import OPERATORS, Regression, Step
from .sampling import sample_positions


class RefitSettings(NamedTuple):
    """The settings of a ``ContinuousMemory``, in the order in which the operators below take them."""

    widths: tuple[float, ...]
    samples: int
    ridge: float
    contraction: str
    tau: float
    horizon: Optional[int]
    sampling: str
    seed: int


# What an operator of PyTorch has to know of them.
SETTINGS = "float[] widths, int samples, float ridge, str contraction, float tau, int? horizon, str sampling, int seed"


class RowMaps(NamedTuple):
    """The map of every row: ``Θ'_i = old_map_i S_i + new_map_i X_i``, and ``S_i = sample_basis_i Θ_i`` bounded."""

    old_map: Tensor  # (B or 1, N, N or M)
    new_map: Tensor  # (B or 1, N, L)
    sample_basis: Optional[Tensor]  # the basis at sticky samples, (B, M, N); absent: the identity


def contractions(num_tokens: Tensor, lengths: Tensor, settings: RefitSettings) -> Tensor:
    """τ (B,) of rows that have read ``num_tokens`` (B,) and are given ``lengths`` (B,) more, in float64.

    It is 0 where nothing is old or new.
    """
    counted = num_tokens if settings.horizon is None else num_tokens.clamp_max(settings.horizon)
    taus = CONTRACTIONS[settings.contraction](counted, lengths, settings.tau)
    return taus.masked_fill((num_tokens == 0) | (lengths == 0), 0)


def row_maps(
    like: Tensor, length: int, num_tokens: Tensor, lengths: Tensor, histogram: Optional[Tensor], settings: RefitSettings
) -> RowMaps:
    """The maps of rows that have read ``num_tokens`` (B,) and are given ``lengths`` (B,) of L = ``length`` vectors.

    Args:
        like: (B, N, C), whose dtype and device the maps have. histogram: see ``refit``.
    """
    regression = Regression(like.shape[1], tuple(settings.widths), settings.samples, settings.ridge)
    taus = contractions(num_tokens, lengths, settings)
    distinct, row = torch.stack([taus, lengths.double()], dim=1).unique(dim=0, return_inverse=True)
    repeated = settings.contraction == "fixed" or settings.horizon is not None
    steps = [Step(tau, int(used), repeated) for tau, used in distinct.tolist()]
    operators = OPERATORS.get([(regression, step, histogram is not None, like.dtype, like.device) for step in steps])
    maps = [(old_map, _padded(new_map, length)) for old_map, new_map in operators]
    if len(maps) == 1:
        old_map, new_map = (each[None] for each in maps[0])
    else:
        old_map, new_map = (torch.stack(each)[row.to(like.device)] for each in zip(*maps))
    if histogram is None:
        return RowMaps(old_map, new_map, None)
    positions = sample_positions(histogram, settings.samples, settings.sampling, num_tokens, settings.seed)
    basis = GaussianBasis(regression.num_basis, regression.widths)
    return RowMaps(old_map, new_map, basis.evaluate(positions).to(like.dtype))


def _padded(new_map: Tensor, length: int) -> Tensor:
    return new_map if new_map.shape[1] == length else F.pad(new_map, (0, length - new_map.shape[1]))


def _times(operator: Tensor, x: Tensor) -> Tensor:
    return operator.expand(len(x), -1, -1) @ x


@torch.library.custom_op(
    "fairseq_infformer::refit",
    mutates_args=(),
    schema="(Tensor coefficients, Tensor largest, Tensor x, Tensor num_tokens, Tensor lengths, Tensor? histogram, "
    f"{SETTINGS}) -> (Tensor, Tensor)",
)
def refit(
    coefficients: Tensor,
    largest: Tensor,
    x: Tensor,
    num_tokens: Tensor,
    lengths: Tensor,
    histogram: Optional[Tensor],
    *settings: object,
) -> tuple[Tensor, Tensor]:
    """The memory after the first ``lengths`` (B,) vectors of each row of ``x`` (B, L, C) were added.

    No sticky sample may be longer than the longest vector that was ever written: one that is, is scaled down, since
    overshoot between samples would grow from update to update (``README.md``).

    Args:
        coefficients: (B, N, C) of the memory before. largest: (B,), the greatest norm of a vector written to it.
        num_tokens, lengths: (B,), on the CPU.
        histogram: (B, D), that of sticky sampling; None: samples are uniform.
        settings: those of ``RefitSettings``.

    Returns:
        the new coefficients, and their ``largest``, which has no gradient.

    Raises:
        ValueError: on the CPU, if a vector to add is not finite. Elsewhere, where looking would wait for the device,
            its row keeps the memory it had.
    """
    length = x.shape[1]
    if not bool(((lengths >= 0) & (lengths <= length)).all()):
        raise ValueError(f"lengths must lie in 0..{length}, the length of x, got {lengths.tolist()}")
    x = zero_pads(x, lengths)
    maps = row_maps(coefficients, length, num_tokens, lengths, histogram, RefitSettings(*settings))
    with torch.autocast(x.device.type, enabled=False):  # the memory is never kept in half precision
        result = _times(maps.new_map, x)
        if bool(num_tokens.any()):
            old = coefficients
            if maps.sample_basis is not None:
                old = maps.sample_basis @ coefficients
                old = old * _factors(old, largest)[0]
            result += _times(maps.old_map, old)
    larger = torch.cat([largest[:, None], x.norm(dim=2)], dim=1).amax(1)
    finite = x.sum(dim=(1, 2)).isfinite()  # of any vector that is not, so is the sum
    if x.device.type != "cpu":
        result = torch.where((finite & (lengths > 0).to(x.device))[:, None, None], result, coefficients)
        return result, torch.where(finite, larger, largest)
    if not bool(finite.all()):
        refuse_nonfinite(x)
    if not bool(lengths.all()):
        result = torch.where((lengths > 0)[:, None, None], result, coefficients)
    return result, larger


def _factors(samples: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """What brings each sample (B, M, C) down to the norm ``largest`` (B,), and its norm, both (B, M, 1)."""
    norms = samples.norm(dim=2, keepdim=True).clamp_min(torch.finfo(samples.dtype).tiny)
    return (largest[:, None, None] / norms).clamp_max(1), norms


def refuse_nonfinite(x: Tensor) -> None:
    """ValueError names the first value of ``x`` (B, L, C) that is not finite, if any."""
    indices = (~x.isfinite()).nonzero()
    if len(indices):
        row, vector, channel = indices[0].tolist()
        raise ValueError(
            f"x must be finite, got {float(x[row, vector, channel])} in row {row}, vector {vector}, channel "
            f"{channel}; the memory would keep it for good"
        )


@refit.register_fake
def _(coefficients: Tensor, largest: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(coefficients), torch.empty_like(largest)


@torch.library.custom_op(
    "fairseq_infformer::refit_transposed",
    mutates_args=(),
    schema="(Tensor grad, Tensor? coefficients, Tensor? largest, bool[] needed, int length, "
    f"Tensor num_tokens, Tensor lengths, Tensor? histogram, {SETTINGS}) -> (Tensor, Tensor)",
)
def refit_transposed(
    grad: Tensor,
    coefficients: Optional[Tensor],
    largest: Optional[Tensor],
    needed: Sequence[bool],
    length: int,
    num_tokens: Tensor,
    lengths: Tensor,
    histogram: Optional[Tensor],
    *settings: object,
) -> tuple[Tensor, Tensor]:
    """The gradients of ``refit``'s coefficients (B, N, C) and ``x`` (B, L, C): its transposed map, of ``grad``.

    Args:
        coefficients, largest: those of ``refit`` if samples are sticky: which of them were too long; otherwise None.
        needed: which of the two gradients are needed; the other one comes back empty.
        length: L. num_tokens, lengths, histogram, settings: as for ``refit``.
    """
    maps = row_maps(grad, length, num_tokens, lengths, histogram, RefitSettings(*settings))
    adds = (lengths > 0).to(grad.device)[:, None, None]
    old, new = grad.new_empty(0), grad.new_empty(0)
    with torch.autocast(grad.device.type, enabled=False):
        if needed[0]:
            old = _times(maps.old_map.transpose(1, 2), grad)
            if maps.sample_basis is not None:
                samples = maps.sample_basis @ coefficients
                factors, norms = _factors(samples, largest)
                along = (old * samples).sum(2, keepdim=True) / norms / norms
                old = factors * (old - torch.where(factors < 1, along, 0) * samples)  # a bounded norm cannot change
                old = maps.sample_basis.transpose(1, 2) @ old
            old = torch.where(adds, old, grad)
        if needed[1]:
            new = _times(maps.new_map.transpose(1, 2), grad) * adds
    return old, new


@refit_transposed.register_fake
def _(grad: Tensor, _: object, __: object, needed: Sequence[bool], length: int, *___: object) -> tuple[Tensor, Tensor]:
    old = torch.empty_like(grad) if needed[0] else grad.new_empty(0)
    return old, grad.new_empty(grad.shape[0], length, grad.shape[2]) if needed[1] else grad.new_empty(0)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    coefficients, largest, x, num_tokens, lengths, histogram, *settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*((None, None) if histogram is None else (coefficients, largest)))
    ctx.arguments = (x.shape[1], num_tokens, lengths, histogram, *settings)


def _backward(ctx, grad: Tensor, of_largest: Tensor) -> tuple[Optional[Tensor], ...]:
    needed = [ctx.needs_input_grad[0], ctx.needs_input_grad[2]]
    old, new = refit_transposed(grad.contiguous(), *ctx.saved_tensors, needed, *ctx.arguments)
    others = [None] * (len(ctx.arguments) - 1)
    return old if needed[0] else None, None, new if needed[1] else None, *others


refit.register_autograd(_backward, setup_context=_save)
