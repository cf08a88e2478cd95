"""Weak attention suppression (Shi et al. 2020)."""

import torch
from torch import Tensor

SUPPRESSION = 0.5  # γ: standard deviations below the mean


def suppressed_weights(scores: Tensor, mask: Tensor, gamma: float = SUPPRESSION) -> Tensor:
    """Attention without its weakest weights: those below mean - γ · deviation of the keys that a query may see.

    The softmax is taken again over the others. The greatest weight always stays.

    Args:
        scores: (..., T, K). mask: bool, True where attention is forbidden, as broad as that; each query may see a key.

    Returns:
        weights (..., T, K), in float32 at least.
    """
    exact = torch.promote_types(scores.dtype, torch.float32)
    scores = scores.to(exact).masked_fill(mask, -torch.inf)
    with torch.no_grad():  # which ones stay is a choice
        weights = scores.softmax(-1)
        count = (~mask).expand_as(scores).sum(-1, keepdim=True)
        mean = 1 / count
        variance = (weights - mean).square().masked_fill(mask, 0).sum(-1, keepdim=True) / count
        weak = weights < mean - gamma * variance.sqrt()
    return scores.masked_fill(weak, -torch.inf).softmax(-1)
