"""Attention by content alone, without its weakest weights."""

from torch import Tensor
from torch.nn import functional as F

from .base import Attention
from .suppression import suppressed_weights


class SuppressedAttention(Attention):
    """Attention by content alone with weak attention suppression (Shi et al. 2020): positions, if there are any, are in
    the hidden states. Arguments are those of ``Attention``."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        scores = query.to(keys.dtype) @ keys.mT * keys.shape[-1] ** -0.5
        weights = F.dropout(suppressed_weights(scores, mask), self.dropout, self.training)
        return weights.to(values.dtype) @ values
