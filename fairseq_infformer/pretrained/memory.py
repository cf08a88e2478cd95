"""The long-term memory of one layer behind a gate: what a pretrained layer gets from it can start at nothing."""

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.memories import LongTermMemory, Report
from fairseq_infformer.modules.padding import padding_mask

from .projections import Projections

STARTS = ("copied", "silent")


class GatedMemory(nn.Module):
    """A long-term memory, and the gate that what the layer gets from it is multiplied with.

    Args:
        memory: of one layer. dim: C. The parameter ``gate`` (1,) counts √C-fold: it then has the size of a weight of a
            projection, and by Adam changes as fast in proportion.
    """

    def __init__(self, memory: LongTermMemory, dim: int) -> None:
        super().__init__()
        self.memory, self.scale = memory, dim**0.5
        self.gate = nn.Parameter(torch.ones(1) / self.scale)

    def forward(self, given: Tensor) -> Tensor:
        """What the layer gets (…) of what the memory gives (…)."""
        return self.scale * self.gate * given

    @torch.no_grad()
    def start(self, start: str, projections: Projections) -> None:
        """Let training start with the loss of the model without memory.

        Args:
            start: one of STARTS. ``copied``: the memory reads by the layer's own projections, where it has the like,
                and the gate starts at zero. ``silent``: the memory starts as ``LongTermMemory.start_silent`` says, and
                the gate at one. A read that attention sees (``Read.extra``) cannot start silent.
        """
        if start == "copied":
            self.memory.start_from(*projections.weights())
            nn.init.zeros_(self.gate)
        else:
            self.memory.start_silent()

    def penalty(self, report: Report) -> Tensor:
        """What a read adds to the loss, summed over the queries that are text."""
        total = self.gate.new_zeros(())
        for figure in self.memory.figures(report).values():
            if figure.weight:
                value = figure.value if figure.value.dim() == 2 else figure.value.mean(1)
                pads = padding_mask(report.lengths, value.shape[1]).to(value.device)
                total = total + figure.weight * value.masked_fill(pads, 0).sum()
        return total
