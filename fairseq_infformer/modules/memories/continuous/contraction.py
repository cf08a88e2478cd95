"""How much of [0, 1] the past keeps when new vectors come."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def fixed_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The paper's rule: whatever is in memory is pressed into [0, τ] (section 3.2)."""
    return torch.full_like(num_tokens, tau, dtype=torch.float64)


def proportional_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """Every token read keeps an equal share of [0, 1]: ``τ = n/(n + L)``.

    From n = 16 L on, n is taken from a geometric grid of 5 %, so that a long document needs few distinct operators.
    The shares stay exact, see ``README.md``.
    """
    exact_up_to, ratio = 16.0, 1.05
    blocks = num_tokens.double() / lengths.clamp_min(1)
    cell = ((blocks / exact_up_to).clamp_min(1).log() / math.log(ratio)).floor()
    on_grid = exact_up_to * ratio**cell * (ratio - 1) / math.log(ratio)
    blocks = torch.where(blocks > exact_up_to, on_grid, blocks)
    return blocks / (blocks + 1)


def square_root_contraction(num_tokens: Tensor, lengths: Tensor, tau: float) -> Tensor:
    """The first m of n tokens read keep √(m/n) of [0, 1]: ``τ = √(n/(n + L))``.

    Against the proportional rule, whose share is m/n, what was read first is kept far longer (the first 12 of 256,000
    tokens have 150 times the share), and what was read last has half the share, no token less.
    """
    return proportional_contraction(num_tokens, lengths, tau).sqrt()


CONTRACTIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "fixed": fixed_contraction,
    "proportional": proportional_contraction,
    "square-root": square_root_contraction,
}
