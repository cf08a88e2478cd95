"""Operations on each vector alone, which need no cache."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Operation, Sizes, Surroundings, register_operation


@register_operation("feed-forward")
class FeedForward(Operation):
    """``W₂ relu(W₁ h)`` with ``hidden`` units between."""

    def __init__(self, sizes: Sizes, causal: bool) -> None:
        super().__init__(sizes, causal)
        self.up, self.down = nn.Linear(sizes.width, sizes.hidden), nn.Linear(sizes.hidden, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        return self.down(self.dropout(self.up(x).relu()))


@register_operation("gated-linear-unit")
class GatedLinearUnit(Operation):
    """``(W₁ h) ∘ sigmoid(W₂ h)`` (Dauphin et al. 2017)."""

    def __init__(self, sizes: Sizes, causal: bool) -> None:
        super().__init__(sizes, causal)
        self.proj = nn.Linear(sizes.width, 2 * sizes.width)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        return F.glu(self.proj(x))


@register_operation("zero")
class Zero(Operation):
    """Nothing: the function that uses it leaves its part unchanged."""

    residual = False

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        return torch.zeros_like(x)


@register_operation("identity")
class Identity(Operation):
    """The vectors themselves."""

    residual = False

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        return x
