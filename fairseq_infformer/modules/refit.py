"""One update of the continuous memory as a linear map: contraction, sampling and ridge regression in one.

The old signal, evaluated at M points that are put on [0, τ], and L new vectors, put on (τ, 1], are fitted together.
With F the basis at those M + L positions, ``(FᵀF + λI)⁻¹ Fᵀ`` depends on the positions only: it is solved once in
float64, cached, and shared by rows, layers and heads. Where the old signal is evaluated changes the right-hand side
alone.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from .basis import GaussianBasis
from .sampling import midpoints, sample_positions

# How many solved operators are kept, of 2 MiB each at N = L = 512: few for rows that read on in step, which need no
# more memory for a million tokens than for thousands; more for rows of different ages, which meet them again.
OPERATORS_KEPT, OPERATORS_KEPT_AT_MOST, OPERATORS_KEPT_FOR_EACH_NEEDED = 32, 128, 8


# ---- Contraction: how much of [0, 1] the past keeps


def fixed_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The paper's rule: whatever is in memory is pressed into [0, τ] (section 3.2)."""
    return torch.full_like(num_tokens, tau, dtype=torch.float64)


def proportional_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """Every token read keeps an equal share of [0, 1]: ``τ = n/(n + L)``.

    From n = 16 L on, n is taken from a geometric grid of 5 %, so that a long document needs few distinct operators:
    their number grows with the logarithm of what was read. The grid's values are the logarithmic means of its cells,
    which leaves the share of every token what the exact rule gives while n passes through a cell.
    """
    exact_up_to, ratio = 16.0, 1.05
    blocks = num_tokens.double() / lengths.clamp_min(1)
    cell = ((blocks / exact_up_to).clamp_min(1).log() / math.log(ratio)).floor()
    on_grid = exact_up_to * ratio**cell * (ratio - 1) / math.log(ratio)
    blocks = torch.where(blocks > exact_up_to, on_grid, blocks)
    return blocks / (blocks + 1)


CONTRACTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "fixed": fixed_contraction,
    "proportional": proportional_contraction,
}


# ---- The operators of one (τ, L)

# A memory that grows by more than this with every update would overflow. What is written shortly after it may be
# stretched at the ends of the line, by a few per cent that the next contraction takes back.
GROWTH_ALLOWED = 1.1
# Under a fixed contraction, or beyond a horizon, the same update comes again and again, and any growth would. It was
# seen with at most 5 vectors a time, which leave most functions of the basis undetermined.
FEW_VECTORS = 16
# The smallest λ that can be asked for: under it, coefficients are so large that in float32 nothing is left of what
# their sum should be.
LEAST_RIDGE = 1e-8


@torch.inference_mode(False)  # what is solved during an evaluation also serves training
@torch.no_grad()
def refit_operators(
    num_basis: int,
    widths: tuple[float, ...],
    num_samples: int,
    ridge: float,
    tau: float,
    length: int,
    repeated: bool,
    from_samples: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The linear map of one update, ``B' = A B + G X``, or with ``from_samples`` ``B' = P S + G X``.

    Returns:
        A (N, N), for an old signal of coefficients B that is sampled at M midpoints, or P (N, M), for M samples S taken
        anywhere, in order; and G (N, L). τ = 0 leaves nothing of the old signal. The λ is that of ``ridge_used``.
    """
    keep, fit, _ = _stable(num_basis, widths, num_samples, ridge, tau, length, repeated, from_samples)
    return keep.to(device, dtype), fit.to(device, dtype)


@lru_cache(maxsize=4096)
def ridge_used(
    num_basis: int,
    widths: tuple[float, ...],
    num_samples: int,
    ridge: float,
    tau: float,
    length: int,
    repeated: bool = False,
) -> float:
    """λ, raised tenfold as often as the update needs it not to let an old signal grow, and to be solved at all.

    ``repeated``: τ is the same at every update, as in a fixed contraction and beyond a horizon.

    The λ that is asked for is taken but for a few pairs of τ and L at which few new vectors leave functions of the
    basis undetermined: what these do between the vectors is up to the regression, and the next update would take it
    for the signal.
    """
    return _stable(num_basis, widths, num_samples, ridge, tau, length, repeated, False)[2]


@lru_cache(maxsize=128)
def growth(num_basis: int, widths: tuple[float, ...], num_samples: int, ridge: float, tau: float) -> float:
    """By what factor an old signal grows with each update of many vectors at τ, in the long run.

    It stays near or under 1 unless the samples are too few for the basis: what lies between them is then left to the
    regression, which may answer with anything, and each update takes that answer for the signal.
    """
    basis = GaussianBasis(num_basis, widths)
    samples = basis.evaluate(midpoints(num_samples))
    solved = _solve(*_equations(basis, num_samples, tau, 32), ridge)
    return math.inf if solved is None else _spectral_radius(solved[0], samples)


def _stable(
    num_basis: int,
    widths: tuple[float, ...],
    num_samples: int,
    ridge: float,
    tau: float,
    length: int,
    repeated: bool,
    from_samples: bool,
) -> tuple[Tensor, Tensor, float]:
    """A or P, G and the λ of one update; see ``refit_operators`` and ``ridge_used``."""
    basis = GaussianBasis(num_basis, widths)
    samples = basis.evaluate(midpoints(num_samples))
    old, new = _equations(basis, num_samples, tau, length)
    while True:
        solved = _solve(old, new, ridge)
        if solved is not None and _is_stable(solved[0], samples, repeated and 0 < length < FEW_VECTORS):
            keep, fit = solved
            return keep if from_samples else keep @ samples, fit, ridge
        ridge *= 10


def _is_stable(keep: Tensor, samples: Tensor, for_good: bool) -> bool:
    """Whether old coefficients that an update multiplies with ``keep @ samples`` grow by it within bounds."""
    estimate = _spectral_radius(keep, samples)
    if not for_good or estimate > GROWTH_ALLOWED or not estimate > 0:
        return estimate <= GROWTH_ALLOWED
    return float(torch.linalg.eigvals(keep @ samples).abs().max()) <= 1


def _equations(basis: GaussianBasis, num_samples: int, tau: float, length: int) -> tuple[Tensor, Tensor]:
    """The basis at the M places of the samples and at the L of the new vectors, (M, N) and (L, N)."""
    old = basis.evaluate(tau * midpoints(num_samples))
    return torch.zeros_like(old) if tau == 0 else old, basis.evaluate(midpoints(length, tau, 1.0))


def _solve(old: Tensor, new: Tensor, ridge: float) -> Optional[tuple[Tensor, Tensor]]:
    """P (N, M) and G (N, L); None where λ is too small for float64."""
    gram = old.T @ old + new.T @ new
    gram.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        return None
    return torch.cholesky_solve(torch.cat([old, new]).T, factor).split([len(old), len(new)], dim=1)


def _spectral_radius(keep: Tensor, samples: Tensor) -> float:
    """The spectral radius of ``keep @ samples``, which an update multiplies the old coefficients with."""
    vector = torch.randn(samples.shape[1], 2, dtype=keep.dtype, generator=torch.Generator().manual_seed(0))
    steps = []
    for _ in range(24):
        vector = keep @ (samples @ vector)
        steps.append(float(vector.norm()))
        if not 0 < steps[-1] < math.inf:
            return steps[-1]
        vector = vector / steps[-1]
    return math.exp(sum(math.log(step) for step in steps[12:]) / 12)  # the first ones turn it to where it grows


class OperatorCache:
    """The operators solved last, each under the arguments of ``refit_operators``."""

    def __init__(self) -> None:
        self.solved: OrderedDict[tuple, tuple[Tensor, Tensor]] = OrderedDict()
        self.room = OPERATORS_KEPT

    def get(self, wanted: list[tuple]) -> list[tuple[Tensor, Tensor]]:
        """What one batch needs, solved where it is not held."""
        self.room = max(self.room, min(OPERATORS_KEPT_AT_MOST, OPERATORS_KEPT_FOR_EACH_NEEDED * len(wanted)))
        found = []
        for arguments in wanted:
            if arguments not in self.solved:
                self.solved[arguments] = refit_operators(*arguments)
            self.solved.move_to_end(arguments)
            found.append(self.solved[arguments])
        while len(self.solved) > self.room:
            self.solved.popitem(last=False)
        return found


OPERATORS = OperatorCache()


# ---- The update of a batch, opaque to torch.compile: which operators it takes depends on the rows' tokens


class _Update(NamedTuple):
    """The map of every row, ``B'_i = keep_i S_i + fit_i X_i``, with ``S_i = signal_i B_i`` up to their bound."""

    keep: Tensor  # (B or 1, N, N or M)
    fit: Tensor  # (B or 1, N, L)
    signal: Optional[Tensor]  # the basis at sticky samples, (B, M, N); absent: the identity


def _update(
    like: Tensor,
    length: int,
    num_tokens: Tensor,
    lengths: Tensor,
    histogram: Optional[Tensor],
    widths: list[float],
    num_samples: int,
    ridge: float,
    contraction: str,
    tau: float,
    horizon: Optional[int],
    sampling: str,
    seed: int,
) -> _Update:
    num_basis = like.shape[1]
    taus = CONTRACTIONS[contraction](num_tokens.clamp_max(horizon or torch.iinfo(torch.int64).max), lengths, tau)
    taus = taus.masked_fill((num_tokens == 0) | (lengths == 0), 0)
    alike, row = torch.stack([taus, lengths.double()], dim=1).unique(dim=0, return_inverse=True)
    settings = num_basis, tuple(widths), num_samples, ridge
    repeated = contraction == "fixed" or horizon is not None
    kind = repeated, histogram is not None, like.dtype, like.device
    operators = OPERATORS.get([(*settings, tau_alike, int(used), *kind) for tau_alike, used in alike.tolist()])
    operators = [(keep, _padded(fit, length)) for keep, fit in operators]
    if len(operators) == 1:
        keep, fit = (operator[None] for operator in operators[0])
    else:
        keep, fit = (torch.stack(parts)[row.to(like.device)] for parts in zip(*operators))
    if histogram is None:
        return _Update(keep, fit, None)
    positions = sample_positions(histogram, num_samples, sampling, num_tokens, seed)
    return _Update(keep, fit, GaussianBasis(num_basis, widths).evaluate(positions).to(like.dtype))


def _padded(fit: Tensor, length: int) -> Tensor:
    return fit if fit.shape[1] == length else F.pad(fit, (0, length - fit.shape[1]))


def _times(operator: Tensor, x: Tensor) -> Tensor:
    return operator.expand(len(x), -1, -1) @ x


@torch.library.custom_op("fairseq_infformer::refit", mutates_args=())
def refit(
    coefficients: Tensor,
    largest: Tensor,
    x: Tensor,
    num_tokens: Tensor,
    lengths: Tensor,
    histogram: Optional[Tensor],
    widths: list[float],
    num_samples: int,
    ridge: float,
    contraction: str,
    tau: float,
    horizon: Optional[int],
    sampling: str,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The memory after the first ``lengths`` (B,) vectors of each row of ``x`` (B, L, C) were added.

    Between samples that lie far apart the regression overshoots, by a fifth and more. Where attention looks for what
    is large, sticky samples gather there: the next update would take the overshoot for the signal, and so on without
    end. So no sticky sample is longer than the longest vector that was ever written; one that is, is scaled down.

    Args:
        coefficients: (B, N, C) of the memory before. largest: (B,), the greatest norm of a vector written to it.
        num_tokens, lengths: (B,), on the CPU.
        histogram: (B, D), that of sticky sampling; None: samples are uniform. The rest are the settings of
            ``ContinuousMemory``.

    Returns:
        the new coefficients, and their ``largest``, which has no gradient.

    Raises:
        ValueError: on the CPU, if a vector to add is not finite. Elsewhere, where looking would wait for the device,
            its row keeps the memory it had.
    """
    length = x.shape[1]
    if not bool(((lengths >= 0) & (lengths <= length)).all()):
        raise ValueError(f"lengths must lie in 0..{length}, the length of x, got {lengths.tolist()}")
    if not bool((lengths == length).all()):
        # Vectors past a row's length meet zero columns; they are zeroed too, since 0 · inf is not 0.
        unused = torch.arange(length) >= lengths[:, None]
        x = x.masked_fill(unused.to(x.device)[:, :, None], 0)
    settings = (widths, num_samples, ridge, contraction, tau, horizon, sampling, seed)
    update = _update(coefficients, length, num_tokens, lengths, histogram, *settings)
    with torch.autocast(x.device.type, enabled=False):  # the memory is never kept in half precision
        result = _times(update.fit, x)
        if bool(num_tokens.any()):
            old = coefficients
            if update.signal is not None:
                old = update.signal @ coefficients
                old = old * _factors(old, largest)[0]
            result += _times(update.keep, old)
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
    """ValueError with the place of the first value of ``x`` (B, L, C) that is not finite, if there is one."""
    places = (~x.isfinite()).nonzero()
    if len(places):
        row, position, channel = places[0].tolist()
        raise ValueError(
            f"x must be finite, got {float(x[row, position, channel])} in row {row}, vector {position}, channel "
            f"{channel}; the memory would keep it for good"
        )


@refit.register_fake
def _(coefficients: Tensor, largest: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(coefficients), torch.empty_like(largest)


@torch.library.custom_op("fairseq_infformer::refit_transposed", mutates_args=())
def refit_transposed(
    grad: Tensor,
    coefficients: Optional[Tensor],
    largest: Optional[Tensor],
    for_coefficients: bool,
    for_x: bool,
    length: int,
    num_tokens: Tensor,
    lengths: Tensor,
    histogram: Optional[Tensor],
    widths: list[float],
    num_samples: int,
    ridge: float,
    contraction: str,
    tau: float,
    horizon: Optional[int],
    sampling: str,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of ``refit``'s coefficients (B, N, C) and ``x`` (B, L, C): its transposed map, of ``grad``.

    Where samples are sticky, it needs to know which of the old signal were too long. What is not asked for comes back
    empty.
    """
    settings = (widths, num_samples, ridge, contraction, tau, horizon, sampling, seed)
    update = _update(grad, length, num_tokens, lengths, histogram, *settings)
    adds = (lengths > 0).to(grad.device)[:, None, None]
    old, new = grad.new_empty(0), grad.new_empty(0)
    with torch.autocast(grad.device.type, enabled=False):
        if for_coefficients:
            old = _times(update.keep.transpose(1, 2), grad)
            if update.signal is not None:
                samples = update.signal @ coefficients
                factors, norms = _factors(samples, largest)
                along = (old * samples).sum(2, keepdim=True) / norms / norms
                old = factors * (old - torch.where(factors < 1, along, 0) * samples)  # a bounded norm cannot change
                old = update.signal.transpose(1, 2) @ old
            old = torch.where(adds, old, grad)
        if for_x:
            new = _times(update.fit.transpose(1, 2), grad) * adds
    return old, new


@refit_transposed.register_fake
def _(
    grad: Tensor,
    coefficients: Optional[Tensor],
    largest: Optional[Tensor],
    for_coefficients: bool,
    for_x: bool,
    length: int,
    *settings: object,
) -> tuple[Tensor, Tensor]:
    old = torch.empty_like(grad) if for_coefficients else grad.new_empty(0)
    return old, grad.new_empty(grad.shape[0], length, grad.shape[2]) if for_x else grad.new_empty(0)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    coefficients, largest, x, num_tokens, lengths, histogram, *settings = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*((None, None) if histogram is None else (coefficients, largest)))
    ctx.arguments = (x.shape[1], num_tokens, lengths, histogram, *settings)


def _backward(ctx, grad: Tensor, of_largest: Tensor) -> tuple[Optional[Tensor], ...]:
    for_coefficients, _, for_x, *_ = ctx.needs_input_grad
    old, new = refit_transposed(grad.contiguous(), *ctx.saved_tensors, for_coefficients, for_x, *ctx.arguments)
    others = [None] * (len(ctx.arguments) - 1)
    return old if for_coefficients else None, None, new if for_x else None, *others


refit.register_autograd(_backward, setup_context=_save)
