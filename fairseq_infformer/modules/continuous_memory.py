"""The ∞-former's memory: the past as one continuous signal on [0, 1], contracted to make room for the new."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from .basis import GaussianBasis
from .continuous_attention import ContinuousAttention
from .density import Density
from .memory import LongTermMemory

# How many (τ, L) the cache of solved operators holds; one of N = L = 512 takes 2 MiB.
OPERATOR_CACHE_SIZE = 128


class ContinuousState(NamedTuple):
    """A continuous memory of B rows."""

    coefficients: Tensor  # (B, N, C), float32 or float64: x̄(t) = coefficientsᵀ ψ(t)
    num_tokens: Tensor  # (B,) int64, always on the CPU: choosing an operator never waits for the device

    def detach(self) -> "ContinuousState":
        return ContinuousState(self.coefficients.detach(), self.num_tokens)

    def reset(self, rows: Tensor) -> "ContinuousState":
        """The state with the rows of the mask ``rows`` (B,) empty."""
        rows = rows.to(torch.bool)
        return ContinuousState(
            self.coefficients.masked_fill(rows.to(self.coefficients.device)[:, None, None], 0),
            self.num_tokens.masked_fill(rows.cpu(), 0),
        )

    def reorder(self, order: Tensor) -> "ContinuousState":
        """The state whose row i is this one's row ``order[i]``."""
        return ContinuousState(
            self.coefficients.index_select(0, order.to(self.coefficients.device)),
            self.num_tokens.index_select(0, order.cpu()),
        )


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


def midpoints(count: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Positions of ``count`` vectors on [start, stop]: the midpoints of equal parts, in float64."""
    return start + (stop - start) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


@lru_cache(maxsize=OPERATOR_CACHE_SIZE)
@torch.inference_mode(False)  # what is solved during an evaluation also serves training
@torch.no_grad()
def refit_operators(
    num_basis: int,
    widths: tuple[float, ...],
    num_samples: int,
    ridge: float,
    tau: float,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The linear map of one update, ``B' = A B + G X``: contraction, sampling and ridge regression in one.

    The old signal, evaluated at M midpoints and put on [0, τ], and the L new vectors, put on (τ, 1], are fitted
    together: with F the basis at those M + L positions, ``(FᵀF + λI)⁻¹ Fᵀ`` splits into its old and its new columns.
    It depends on positions only, is solved in float64, and is shared by all rows, layers and heads.

    Returns:
        A (N, N) and G (N, L). τ = 0 leaves nothing of the old signal; L = 0 leaves it as it is.
    """
    if length == 0:
        keep = torch.eye(num_basis) if tau > 0 else torch.zeros(num_basis, num_basis)
        return keep.to(device, dtype), torch.zeros(num_basis, 0, device=device, dtype=dtype)
    basis = GaussianBasis(num_basis, widths)
    samples = midpoints(num_samples if tau > 0 else 0)
    old, new = basis.evaluate(tau * samples), basis.evaluate(midpoints(length, tau, 1.0))
    gram = old.T @ old + new.T @ new + ridge * torch.eye(num_basis, dtype=torch.float64)
    right = torch.cat([old.T @ basis.evaluate(samples), new.T], dim=1)
    solution = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
    keep, fit = solution.split([num_basis, length], dim=1)
    return keep.to(device, dtype), fit.to(device, dtype)


@lru_cache(maxsize=OPERATOR_CACHE_SIZE)
def growth(num_basis: int, widths: tuple[float, ...], num_samples: int, ridge: float, tau: float) -> float:
    """By what factor an old signal grows with each update at τ, in the long run: the spectral radius of A.

    It stays near or under 1 unless the samples are too few for the basis: what lies between them is then left to the
    regression, which may answer with anything, and each update takes that answer for the signal.
    """
    solve, cpu = refit_operators.__wrapped__, torch.device("cpu")  # no operator of a run: not in its cache
    power, _ = solve(num_basis, widths, num_samples, ridge, tau, 32, torch.float64, cpu)
    doublings = 7
    for _ in range(doublings):
        power = power @ power
    return float(torch.linalg.matrix_norm(power)) ** (0.5**doublings)


class ContinuousMemory(nn.Module):
    """An unbounded memory of fixed size: N coefficients a channel (paper, sections 3.1 and 3.2).

    Args:
        basis: the basis functions.
        num_samples: M, how many samples of the old signal each update keeps.
        ridge: λ > 0 of the regression.
        contraction: ``fixed``, the paper's, gives the old signal [0, τ]; ``proportional`` gives every token an
            equal share, so that nothing old is forgotten for being old.
        tau: τ in (0, 1), of the fixed contraction.
        sampling: ``uniform``, samples at the midpoints of M equal parts.
    """

    def __init__(
        self,
        basis: GaussianBasis,
        num_samples: int = 512,
        ridge: float = 1.0,
        contraction: str = "fixed",
        tau: float = 0.75,
        sampling: str = "uniform",
    ) -> None:
        super().__init__()
        if num_samples <= 0:
            raise ValueError(f"num_samples must be positive, got {num_samples}")
        if not 0 < ridge < math.inf:
            raise ValueError(f"ridge must be positive, got {ridge}")
        if contraction not in CONTRACTIONS:
            raise ValueError(f"unknown contraction {contraction!r}; choose one of {', '.join(CONTRACTIONS)}")
        if not 0 < tau < 1:
            raise ValueError(f"tau must lie inside (0, 1), got {tau}")
        if sampling != "uniform":
            raise ValueError(f"unknown sampling {sampling!r}; choose one of uniform")
        self.basis = basis
        self.num_samples, self.ridge, self.tau, self.sampling = num_samples, ridge, tau, sampling
        self.contraction = contraction
        factor = growth(basis.num_basis, basis.widths, num_samples, ridge, tau if contraction == "fixed" else 0.9)
        if not factor < 1.1:  # 1 and what the 128th root leaves of a constant
            raise ValueError(
                f"{num_samples} samples are too few for {basis.num_basis} functions of widths {basis.widths}: the "
                f"memory would grow {factor:.3g}-fold with every update; use more samples, more functions or wider ones"
            )

    def initial_state(
        self, batch_size: int, dim: int, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32
    ) -> ContinuousState:
        """The empty memory: all-zero coefficients (B, N, C). ``dtype`` is float32, or float64 for exact work."""
        coefficients = torch.zeros(batch_size, self.basis.num_basis, dim, device=device, dtype=dtype)
        return ContinuousState(coefficients, torch.zeros(batch_size, dtype=torch.int64))

    def write(
        self,
        state: ContinuousState,
        x: Tensor,
        lengths: Optional[Tensor | Sequence[int]] = None,
        reset: Optional[Tensor | Sequence[bool]] = None,
        density: Optional[Density] = None,
    ) -> ContinuousState:
        """The memory after ``x`` was added to it.

        The first vectors of an empty row are fitted on all of [0, 1].

        Args:
            state: the memory before.
            x: (B, L, C), oldest first; any L.
            lengths: (B,), how many of the L vectors of each row count, from the left; absent: all. Best on the CPU.
            reset: (B,), rows to empty first; absent: none. Best on the CPU.
            density: the density of the last read; only sticky sampling uses it.

        Raises:
            ValueError: if ``x``, ``lengths`` or ``reset`` do not fit the state.
        """
        length = self._check(state, x)
        x = x.to(state.coefficients.dtype)
        num_tokens = state.num_tokens
        if reset is not None:
            state = state.reset(self._per_row(reset, "reset", x, torch.bool))
            num_tokens = state.num_tokens
        if lengths is None:
            lengths = torch.full_like(num_tokens, length)
        else:
            lengths = self._per_row(lengths, "lengths", x, torch.int64)
            if not bool(((lengths >= 0) & (lengths <= length)).all()):
                raise ValueError(f"lengths must lie in 0..{length}, the length of x, got {lengths.tolist()}")
        tau = CONTRACTIONS[self.contraction](num_tokens, lengths, self.tau)
        tau = tau.masked_fill(lengths == 0, 1).masked_fill(num_tokens == 0, 0)
        rows_alike, row = torch.stack([tau, lengths.double()], dim=1).unique(dim=0, return_inverse=True)
        operators = [self._operators(tau, int(used), x) for tau, used in rows_alike.tolist()]
        if len(operators) == 1:
            keep, fit = operators[0]
            x = x[:, : fit.shape[1]]
        else:
            # Vectors past a row's length meet zero columns; they are zeroed too, since 0 · inf is not 0.
            keep = torch.stack([keep for keep, _ in operators])[row]
            fit = torch.stack([nn.functional.pad(fit, (0, length - fit.shape[1])) for _, fit in operators])[row]
            unused = (torch.arange(length) >= lengths[:, None]).to(x.device)
            x = x.masked_fill(unused[:, :, None], 0)
        with torch.autocast(x.device.type, enabled=False):  # the memory is never kept in half precision
            coefficients = fit @ x
            if bool(num_tokens.any()):
                coefficients = coefficients + keep @ state.coefficients
        return ContinuousState(coefficients, num_tokens + lengths)

    def _operators(self, tau: float, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        grid = (self.basis.num_basis, self.basis.widths, self.num_samples, self.ridge)
        return refit_operators(*grid, tau, length, like.dtype, like.device)

    def _check(self, state: ContinuousState, x: Tensor) -> int:
        batch_size, num_basis, dim = state.coefficients.shape
        if num_basis != self.basis.num_basis:
            raise ValueError(f"the state has {num_basis} coefficients a channel, the basis {self.basis.num_basis}")
        if x.dim() != 3 or x.shape[0] != batch_size or x.shape[2] != dim:
            raise ValueError(f"x must be ({batch_size}, length, {dim}) like the state, got {tuple(x.shape)}")
        return x.shape[1]

    @staticmethod
    def _per_row(value: Tensor | Sequence, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
        value = torch.as_tensor(value, dtype=dtype).cpu()
        if value.shape != x.shape[:1]:
            raise ValueError(f"{name} must be ({x.shape[0]},), one a row, got {tuple(value.shape)}")
        return value

    def extra_repr(self) -> str:
        rule = f"tau={self.tau}" if self.contraction == "fixed" else self.contraction
        return f"num_samples={self.num_samples}, ridge={self.ridge}, {rule}, sampling={self.sampling}"


class ContinuousLongTermMemory(LongTermMemory):
    """A ``ContinuousMemory`` with the ``ContinuousAttention`` that reads it: one layer's long-term memory."""

    def __init__(self, memory: ContinuousMemory, attention: ContinuousAttention) -> None:
        super().__init__()
        self.memory, self.attention = memory, attention

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> ContinuousState:
        return self.memory.initial_state(batch_size, self.attention.embed_dim, device)

    def write(self, state, x, lengths=None, reset=None, aux: Optional[Density] = None) -> ContinuousState:
        return self.memory.write(state, x, lengths, reset, density=aux)

    def read(self, query: Tensor, state: ContinuousState) -> tuple[Tensor, Density]:
        return self.attention(query, state.coefficients)
