"""The settings of the continuous memory, as the command line and checkpoints know them."""

from dataclasses import dataclass, field
from typing import Optional

from .contraction import CONTRACTIONS
from .density import DENSITIES
from .sampling import SAMPLINGS

# How a query gets the mean and the variance of its density.
ADDRESSINGS = ("projection", "content", "mixed")


@dataclass
class ContinuousSettings:
    basis: int = field(default=512, metadata={"help": "N, number of basis functions"})
    widths: tuple[float, ...] = field(
        default=(0.01, 0.05), metadata={"help": "widths of the basis functions on [0, 1]"}
    )
    samples: int = field(default=512, metadata={"help": "M, samples of the old signal that an update refits"})
    ridge: float = field(default=1.0, metadata={"help": "λ, penalty of the ridge regression"})
    contraction: str = field(
        default="proportional",
        metadata={
            "help": "fixed (the paper's): the past gets [0, τ]; proportional: every token an equal share; square-root: "
            "the first m of n tokens √(m/n), none less than half an equal share; logarithmic: log(1+m)/log(1+n)",
            "choices": CONTRACTIONS,
        },
    )
    tau: float = field(default=0.75, metadata={"help": "τ of the fixed contraction"})
    horizon: Optional[int] = field(
        default=None,
        metadata={
            "help": "of the proportional contraction: how many tokens have equal shares; older ones fade (default: all)"
        },
    )
    sampling: str = field(
        default="uniform",
        metadata={
            "help": "where an update samples the old signal: uniform, or where the last segment's attention was: "
            "sticky (random draws, the paper's sticky memories) or sticky-quantile (without randomness)",
            "choices": SAMPLINGS,
        },
    )
    density: str = field(
        default="renormalized-gaussian",
        metadata={
            "help": f"what a query lays over the memory: {', '.join(DENSITIES)} (gaussian is the paper's), or gibbs "
            "(softmax attention over the signal at the centres of the basis)"
        },
    )
    addressing: str = field(
        default="projection",
        metadata={
            "help": "how a query gets the mean and variance of its density: projection (the paper's: linear in the "
            "scores of all basis functions), content (those of softmax attention over the signal at the centres: finds "
            "a single fact) or mixed (half of the heads each)",
            "choices": ADDRESSINGS,
        },
    )
    min_sigma: float = field(
        default=-1, metadata={"help": "floor of the density's σ; -1: the narrowest width; 0: none, the paper's form"}
    )
    flat_start: bool = field(
        default=False,
        metadata={"help": "start all heads with the paper's flat read instead of heads that tile the memory"},
    )
    kl_weight: float = field(
        default=1e-6,
        metadata={"help": "weight of the KL term, a mean over layers, heads and scored queries; 1e-6 is the paper's"},
    )
    kl_sigma: float = field(default=0.05, metadata={"help": "σ₀, the width that the KL term pulls σ towards"})
