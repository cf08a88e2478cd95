"""A function of a reversible layer: operations on the pooled other parts."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.settings import check_choice

from .base import Surroundings

POOLINGS = ("max", "mean")


class Node(nn.Module):
    """``G = Σ_o weight_o · o(H)``, where H is the greatest or the mean value of the other parts, element by element.

    Args:
        operations: one, which has no weight, or those of a search.
        pooling: ``max`` or ``mean``.
        place: of its weights: layer and node.
    """

    def __init__(self, operations: Sequence[nn.Module], pooling: str = "max", place: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        check_choice("pooling", pooling, POOLINGS)
        self.operations, self.pooling, self.place = nn.ModuleList(operations), pooling, place

    def forward(self, others: list[Tensor], surroundings: Surroundings, weights: Optional[Tensor] = None) -> Tensor:
        """The function's value (B, T, w).

        Args:
            others: the other parts, (B, T, w) each.
            weights: of a search, (layers, nodes, operations): those of this node are at its place.
        """
        stacked = torch.stack(others)
        pooled = stacked.amax(0) if self.pooling == "max" else stacked.mean(0)
        if len(self.operations) == 1:
            return self.operations[0](pooled, surroundings)
        own = weights[self.place].to(pooled.dtype)
        return sum(weight * operation(pooled, surroundings) for weight, operation in zip(own, self.operations))
