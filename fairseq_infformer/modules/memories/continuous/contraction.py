"""How much of [0, 1] the past keeps when new vectors come."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Up to so many times the length of the new segment, n is exact; from there on it is taken from a geometric grid of this
# ratio, so that a long document needs few distinct operators (``README.md``).
EXACT_UP_TO, RATIO = 16.0, 1.05


def _cell_start(blocks: Tensor) -> Tensor:
    """Where the cell of the grid starts that n = ``blocks`` L lies in, over L."""
    cell = ((blocks / EXACT_UP_TO).clamp_min(1).log() / math.log(RATIO)).floor()
    return EXACT_UP_TO * RATIO**cell


def fixed_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The paper's rule: whatever is in memory is pressed into [0, τ] (section 3.2)."""
    return torch.full_like(num_tokens, tau, dtype=torch.float64)


def proportional_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """Every token read keeps an equal share of [0, 1]: ``τ = n/(n + L)``."""
    blocks = num_tokens.double() / lengths.clamp_min(1)
    on_grid = _cell_start(blocks) * (RATIO - 1) / math.log(RATIO)
    blocks = torch.where(blocks > EXACT_UP_TO, on_grid, blocks)
    return blocks / (blocks + 1)


def square_root_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The first m of n tokens read keep √(m/n) of [0, 1]: ``τ = √(n/(n + L))``.

    Against the proportional rule, whose share is m/n, what was read first is kept far longer (the first 12 of 256,000
    tokens have 150 times the share), and what was read last has half the share, no token less.
    """
    return proportional_contraction(num_tokens, lengths, tau).sqrt()


def logarithmic_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The first m of n tokens read keep log(1 + m)/log(1 + n) of [0, 1]: ``τ = log(1 + n)/log(1 + n + L)``.

    What was read first hardly fades: the first 12 of 256,000 tokens keep a fifth. Each doubling of the text gets as
    much as the one before, so that of what was read last little more than an average is left.
    """
    length = lengths.clamp_min(1).double()
    blocks = num_tokens.double() / length
    start = _cell_start(blocks) * length
    on_grid = (start.log1p() / (RATIO * start).log1p()) ** (length / (RATIO * start - start))
    exact = num_tokens.double().log1p() / (num_tokens + length).log1p()
    return torch.where(blocks > EXACT_UP_TO, on_grid, exact)


CONTRACTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "fixed": fixed_contraction,
    "proportional": proportional_contraction,
    "square-root": square_root_contraction,
    "logarithmic": logarithmic_contraction,
}
