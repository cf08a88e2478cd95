"""The ∞-former's memory: the past as one continuous signal on [0, 1], contracted to make room for the new."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.attention import Attention
from fairseq_infformer.modules.memories.base import Figure, LongTermMemory, Read, register_memory
from fairseq_infformer.modules.settings import SettingError, check_choice, renamed
from fairseq_infformer.modules.state import detached, emptied, reordered

from .basis import GaussianBasis
from .contraction import CONTRACTIONS
from .density import DENSITIES, Density, GaussianDensity, SparsemaxDensity
from .gibbs import GibbsAttention, GibbsDensity
from .operators import GROWTH_ALLOWED, LEAST_RIDGE, Regression, growth
from .read import ContinuousAttention
from .sampling import SAMPLINGS, attention_histogram
from .settings import ContinuousSettings
from .update import RefitSettings, refit


class ContinuousState(NamedTuple):
    """A continuous memory of B rows."""

    coefficients: Tensor  # (B, N, C), float32 or float64: x̄(t) = coefficientsᵀ ψ(t)
    num_tokens: Tensor  # (B,) int64, always on the CPU: choosing an operator never waits for the device
    largest: Tensor  # (B,), the greatest norm of a vector that was written, which bounds sticky samples

    SAVED_AS = ("coefficients", "num_tokens", "largest")
    detach, reorder, reset = detached, reordered, emptied

    def is_empty(self) -> Tensor:
        """(B,) bool, on the CPU: the rows that hold nothing."""
        return self.num_tokens == 0


class ContinuousMemory(nn.Module):
    """An unbounded memory of fixed size: N coefficients per channel (paper, sections 3.1 and 3.2, and sticky memories).

    Args:
        basis: the basis functions.
        samples: M, how many samples of the old signal each update refits.
        ridge: λ of the regression, 1e-8 or more. Where few new vectors come and an old signal would grow with it, an
            update takes a larger one (``operators.ridge_used``).
        contraction: ``fixed``, the paper's, gives the old signal [0, τ]; ``proportional`` gives every token an
            equal share, so that nothing old is forgotten for being old; ``square-root`` gives the first m of n tokens
            √(m/n), so that what was read first stays readable, and no token has less than half an equal share;
            ``logarithmic`` gives them log(1 + m)/log(1 + n), and so each doubling of the text as much as the last.
        tau: τ in (0, 1), of the fixed contraction.
        horizon: of the proportional contraction: how many tokens share [0, 1] equally. With more, what is older
            fades, by a factor e every ``horizon`` tokens. Absent: all of them.
        sampling: where the old signal is sampled. ``uniform``: at the midpoints of M equal parts; ``sticky``: where
            the last segment's attention was, M independent draws that repeat when the run repeats;
            ``sticky-quantile``: the same without randomness, the attention's quantiles at M even probabilities.
        seed: of the draws of ``sticky``; layers with other seeds draw independently.
    """

    @renamed(num_samples="samples")
    def __init__(
        self,
        basis: GaussianBasis,
        samples: int = ContinuousSettings.samples,
        ridge: float = ContinuousSettings.ridge,
        contraction: str = ContinuousSettings.contraction,
        tau: float = ContinuousSettings.tau,
        *,
        sampling: str = ContinuousSettings.sampling,
        seed: int = 0,
        horizon: Optional[int] = ContinuousSettings.horizon,
    ) -> None:
        super().__init__()
        if samples <= 0:
            raise SettingError("samples", f"must be positive, got {samples}")
        if not LEAST_RIDGE <= ridge < math.inf:
            raise SettingError("ridge", f"must be {LEAST_RIDGE:g} or more and finite, got {ridge}")
        check_choice("contraction", contraction, CONTRACTIONS)
        if not 0 < tau < 1:
            raise SettingError("tau", f"must lie inside (0, 1), got {tau}")
        if horizon is not None and contraction != "proportional":
            raise SettingError("horizon", f"needs the proportional contraction, got {horizon} with {contraction}")
        if horizon is not None and horizon <= 0:
            raise SettingError("horizon", f"must be positive, got {horizon}")
        check_choice("sampling", sampling, SAMPLINGS)
        self.basis = basis
        self.samples, self.ridge, self.tau, self.seed = samples, ridge, tau, seed
        self.contraction, self.horizon, self.sampling = contraction, horizon, sampling
        regression = Regression(basis.num_basis, basis.widths, samples, ridge)
        factor = growth(regression, tau if contraction == "fixed" else 0.9)
        if not factor <= GROWTH_ALLOWED:
            raise SettingError(
                "samples",
                f"must be more for {basis.num_basis} functions of widths {basis.widths}, got {samples}: the memory "
                f"would grow {factor:.3g}-fold with every update; give more samples, more functions or wider ones",
            )

    def initial_state(
        self, batch_size: int, dim: int, device: Optional[torch.device] = None, dtype: torch.dtype = torch.float32
    ) -> ContinuousState:
        """The empty memory: all-zero coefficients (B, N, C). ``dtype`` is float32, or float64 for exact work."""
        coefficients = torch.zeros(batch_size, self.basis.num_basis, dim, device=device, dtype=dtype)
        largest = torch.zeros(batch_size, device=device, dtype=dtype)
        return ContinuousState(coefficients, torch.zeros(batch_size, dtype=torch.int64), largest)

    def write(
        self,
        state: ContinuousState,
        x: Tensor,
        lengths: Optional[Tensor | Sequence[int]] = None,
        reset: Optional[Tensor | Sequence[bool]] = None,
        density: Optional[Density] = None,
        queries: Optional[Tensor | Sequence[int]] = None,
    ) -> ContinuousState:
        """The memory after ``x`` was added to it.

        The first vectors of an empty row are fitted on all of [0, 1].

        Args:
            state: the memory before.
            x: (B, L, C), oldest first; any L.
            lengths: (B,), how many of the L vectors of each row count, from the left; absent: all. Best on the CPU.
            reset: (B,), rows to empty first; absent: none. Best on the CPU.
            density: what the last read of this state returned, (B, H, T); sticky sampling takes more samples where
                it has more mass. Absent: nothing has been read, and samples are uniform.
            queries: (B,), how many of the T queries of ``density`` count, from the left; absent: all.

        Raises:
            ValueError: if an argument does not fit the state, or, on the CPU, if a vector to add is not finite.
                Elsewhere a row that is given such a vector keeps the memory it had.
        """
        batch_size, length = self._check(state, x)
        if reset is not None:
            state = state.reset(_per_row(reset, "reset", batch_size, torch.bool))
        if lengths is None:
            lengths = torch.full_like(state.num_tokens, length)
        else:
            lengths = _per_row(lengths, "lengths", batch_size, torch.int64)
        histogram = None
        if density is not None and self.sampling != "uniform":
            if density.mean.dim() != 3 or len(density.mean) != batch_size:
                raise ValueError(f"density must be ({batch_size}, heads, queries), got {tuple(density.mean.shape)}")
            if queries is not None:
                queries = _per_row(queries, "queries", batch_size, torch.int64)
            with torch.no_grad():
                histogram = attention_histogram(density, queries)
        coefficients, largest = refit(
            state.coefficients,
            state.largest,
            x.to(state.coefficients.dtype),
            state.num_tokens,
            lengths,
            histogram,
            *self.settings(),
        )
        return ContinuousState(coefficients, state.num_tokens + lengths, largest)

    def settings(self) -> RefitSettings:
        """What an update takes of the settings."""
        return RefitSettings(
            widths=self.basis.widths,
            samples=self.samples,
            ridge=self.ridge,
            contraction=self.contraction,
            tau=self.tau,
            horizon=self.horizon,
            sampling=self.sampling,
            seed=self.seed,
        )

    def _check(self, state: ContinuousState, x: Tensor) -> tuple[int, int]:
        batch_size, num_basis, dim = state.coefficients.shape
        if num_basis != self.basis.num_basis:
            raise ValueError(f"the state has {num_basis} coefficients per channel, the basis {self.basis.num_basis}")
        if x.dim() != 3 or x.shape[0] != batch_size or x.shape[2] != dim:
            raise ValueError(f"x must be ({batch_size}, length, {dim}) like the state, got {tuple(x.shape)}")
        return batch_size, x.shape[1]

    def extra_repr(self) -> str:
        rule = f"tau={self.tau}" if self.contraction == "fixed" else self.contraction
        rule += "" if self.horizon is None else f", horizon={self.horizon}"
        return f"samples={self.samples}, ridge={self.ridge}, {rule}, sampling={self.sampling}"


def _per_row(value: Tensor | Sequence, name: str, batch_size: int, dtype: torch.dtype) -> Tensor:
    value = torch.as_tensor(value, dtype=dtype).cpu()
    if value.shape != (batch_size,):
        raise ValueError(f"{name} must be ({batch_size},), one per row, got {tuple(value.shape)}")
    return value


class ContinuousReport(NamedTuple):
    """What a read of a continuous memory reports: the densities of its queries."""

    density: Density  # parameters (B, H, T)
    lengths: Tensor  # (B,)

    SAVED_AS = ("density", "lengths")


@register_memory("continuous", settings=ContinuousSettings, prefix="ltm")
class ContinuousLongTermMemory(LongTermMemory):
    """A ``ContinuousMemory`` with the ``ContinuousAttention`` that reads it: one layer's long-term memory.

    Args:
        kl_weight, kl_sigma: weight in the loss, and σ₀, of the regulariser (paper, section 3.1).
    """

    logged = ("kl", "ltm_mu", "ltm_mu_std", "ltm_sigma", "ltm_sigma_std", "ltm_outside")

    def __init__(
        self,
        memory: ContinuousMemory,
        attention: ContinuousAttention | GibbsAttention,
        kl_weight: float = ContinuousSettings.kl_weight,
        kl_sigma: float = ContinuousSettings.kl_sigma,
    ) -> None:
        super().__init__()
        if not 0 <= kl_weight < math.inf:
            raise SettingError("kl_weight", f"must be 0 or more, got {kl_weight}")
        if not 0 < kl_sigma < math.inf:
            raise SettingError("kl_sigma", f"must be positive, got {kl_sigma}")
        self.memory, self.attention = memory, attention
        self.kl_weight, self.kl_sigma = kl_weight, kl_sigma

    @classmethod
    def build(
        cls,
        settings: ContinuousSettings,
        embed_dim: int,
        num_heads: int,
        layer: int,
        head_dim: Optional[int] = None,
    ) -> "ContinuousLongTermMemory":
        try:
            basis = GaussianBasis(settings.basis, settings.widths)
        except SettingError as error:  # the module's num_basis is the setting basis
            raise SettingError(error.setting.removeprefix("num_"), error.problem) from error
        memory = ContinuousMemory(
            basis,
            samples=settings.samples,
            ridge=settings.ridge,
            contraction=settings.contraction,
            tau=settings.tau,
            horizon=settings.horizon,
            sampling=settings.sampling,
            seed=layer,
        )
        check_choice("density", settings.density, sorted([*DENSITIES, "gibbs"]))
        if settings.density == "gibbs":
            if settings.addressing != ContinuousSettings.addressing:
                raise SettingError("addressing", f"does not apply to the density gibbs, got {settings.addressing}")
            attention = GibbsAttention(
                embed_dim,
                num_heads,
                basis,
                flat_start=settings.flat_start,
                weights=settings.sampling != "uniform",
                head_dim=head_dim,
            )
        else:
            attention = ContinuousAttention(
                embed_dim,
                num_heads,
                basis,
                density=settings.density,
                min_sigma=settings.min_sigma,
                flat_start=settings.flat_start,
                addressing=settings.addressing,
                head_dim=head_dim,
            )
        return cls(memory, attention, settings.kl_weight, settings.kl_sigma)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> ContinuousState:
        return self.memory.initial_state(batch_size, self.attention.embed_dim, device)

    def write(
        self,
        state: ContinuousState,
        new: Tensor,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
        report: Optional[ContinuousReport] = None,
    ) -> ContinuousState:
        density, queries = (None, None) if report is None else (report.density, report.lengths)
        return self.memory.write(state, new, lengths, reset, density, queries)

    def read(
        self, query: Tensor, hidden: Tensor, lengths: Tensor, state: ContinuousState, attention: Attention
    ) -> Read:
        context, density = self.attention(query, state.coefficients)
        return Read(context, report=ContinuousReport(density, lengths))

    def figures(self, report: ContinuousReport) -> dict[str, Figure]:
        """KL(N(μ, σ²) ‖ N(μ, σ₀²)), which keeps σ from growing until the read is a plain average; μ and σ.

        And the share of the density outside [0, 1], where it may have any, which reads nothing.
        """
        mean, variance = report.density.mean, report.density.variance
        moments = {
            "ltm_mu": Figure(mean.detach(), spread=True),
            "ltm_sigma": Figure(variance.detach().sqrt(), spread=True),
        }
        if isinstance(report.density, GaussianDensity | SparsemaxDensity):
            inside = report.density.cdf(mean.new_tensor([0, 1])).detach().diff(dim=-1)[..., 0]
            moments["ltm_outside"] = Figure(1 - inside)
        if isinstance(report.density, GibbsDensity):  # its width follows from the scores
            return moments
        ratio = variance / self.kl_sigma**2
        # The clamp keeps the paper's form, which has no floor on σ, from log(0).
        kl = 0.5 * (ratio - ratio.clamp_min(1e-12).log() - 1)
        return {"kl": Figure(kl, weight=self.kl_weight)} | moments

    def start_alike(self, query: Tensor) -> None:
        self.attention.start_alike(query)

    def start_silent(self) -> None:
        """The output projection learns from the first update, what is read by it from the second."""
        nn.init.zeros_(self.attention.out_proj.weight)

    @torch.no_grad()
    def start_from(self, key: Tensor, value: Tensor, output: Tensor) -> None:
        """The signal's keys and values are the layer's; where a density has means and variances, they start as ever."""
        self.attention.k_proj.weight.copy_(key)
        self.attention.v_proj.weight.copy_(value)
        self.attention.out_proj.weight.copy_(output)
