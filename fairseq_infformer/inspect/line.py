"""Where on the line of a continuous memory each vector lies that was written to it."""

from typing import Optional

import torch
from torch import Tensor

from fairseq_infformer.modules.memories.continuous import ContinuousMemory, ContinuousReport
from fairseq_infformer.modules.memories.continuous.sampling import attention_histogram, midpoints, sample_positions
from fairseq_infformer.modules.memories.continuous.update import contractions


class Line:
    """The intervals of [0, 1] that the vectors of one row have, followed through every update.

    An update puts what is old on [0, τ] and the L new vectors on (τ, 1], on an equal part each. Uniform samples of what
    is old keep its order and its shares. Sticky ones are put at even distances wherever they were taken, so that what
    attention looked at gets more room; between two samples, intervals follow linearly.

    Vector i lies on [edges[i], edges[i + 1]].
    """

    def __init__(self, memory: ContinuousMemory) -> None:
        self.memory = memory
        self.edges = torch.zeros(1, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def centers(self) -> Tensor:
        """(n,): the middle of each vector's interval."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def write(self, new: int, report: Optional[ContinuousReport] = None) -> None:
        """Follow an update by so many vectors, after the read that ``report`` (of one row) is of."""
        if not new:
            return
        settings, known = self.memory.settings(), torch.tensor([len(self)])
        tau = float(contractions(known, torch.tensor([new]), settings))
        sticky = report is not None and settings.sampling != "uniform"
        old = self.edges
        if sticky and len(self):
            histogram = attention_histogram(report.density, report.lengths).cpu()
            taken = sample_positions(histogram, settings.samples, settings.sampling, known, settings.seed)[0]
            old = _interpolated(old, taken, midpoints(settings.samples))
        self.edges = torch.cat([tau * old[:-1], torch.linspace(tau, 1, new + 1, dtype=torch.float64)])

    def vectors_at(self, positions: Tensor) -> Tensor:
        """The numbers (…) of the vectors that lie at positions (…) of [0, 1]; there must be some."""
        numbers = torch.searchsorted(self.edges, positions.double().contiguous(), right=True) - 1
        return numbers.clamp(0, len(self) - 1)


def _interpolated(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Where points ``x`` of [0, 1] come to lie if the sorted ``xs`` (M,) are put at ``ys`` (M,), and the ends stay."""
    ends = xs.new_tensor([0.0]), xs.new_tensor([1.0])
    xs, ys = torch.cat([ends[0], xs, ends[1]]), torch.cat([ends[0], ys, ends[1]])
    right = torch.searchsorted(xs, x, right=True).clamp(1, len(xs) - 1)
    width = (xs[right] - xs[right - 1]).clamp_min(torch.finfo(xs.dtype).tiny)
    share = ((x - xs[right - 1]) / width).clamp(0, 1)
    return ys[right - 1] + share * (ys[right] - ys[right - 1])
