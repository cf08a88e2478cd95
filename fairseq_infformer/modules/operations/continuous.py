"""Attention to a continuous signal that is fitted to the encoder's vectors."""

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.memories.continuous import ContinuousMemory, GaussianBasis, GibbsAttention

from .base import Operation, Sizes, Surroundings, register_operation


@register_operation("continuous-attention")
class ContinuousSourceAttention(Operation):
    """The Gibbs read of a continuous memory that holds the encoder's vectors.

    A source of any length becomes N coefficients per channel, so that each query costs the same. A candidate of this
    project, not of DARTSformer.
    """

    needs_source = True

    def __init__(self, sizes: Sizes, causal: bool, *, num_basis: int = 32) -> None:
        super().__init__(sizes, causal)
        # One width, some 1.25 times as wide as the centres lie apart, as in the small language models.
        basis = GaussianBasis(num_basis, (1.25 / num_basis,))
        self.memory = ContinuousMemory(basis, samples=2 * num_basis)
        self.source_proj = nn.Linear(sizes.source_width, sizes.width)
        self.q_proj = nn.Linear(sizes.width, sizes.width)
        # What it gives is added to its input and normalised, so it need not start at zero.
        self.attention = GibbsAttention(sizes.width, sizes.heads, basis, flat_start=True)

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        cache = surroundings.cache
        if cache is None or self not in cache:
            coefficients = self.fit(surroundings)
            if cache is not None:
                cache[self] = (coefficients,)
        else:
            (coefficients,) = cache[self]
        return self.attention(self.q_proj(x), coefficients)[0]

    def fit(self, surroundings: Surroundings) -> Tensor:
        """The coefficients (B, N, w) of the source, in order from 0 to 1, without its pads."""
        vectors, lengths = self.source_proj(surroundings.source), None
        if surroundings.source_pads is not None:
            order = surroundings.source_pads.int().argsort(dim=1, stable=True)  # pads last, wherever they were
            vectors = vectors.gather(1, order[:, :, None].expand_as(vectors))
            lengths = (~surroundings.source_pads).sum(1).cpu()
        exact = torch.promote_types(vectors.dtype, torch.float32)
        empty = self.memory.initial_state(len(vectors), vectors.shape[2], vectors.device, exact)
        return self.memory.write(empty, vectors.to(exact), lengths).coefficients
