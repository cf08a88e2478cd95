"""Attention by content alone."""

from torch import Tensor
from torch.nn import functional as F

from .base import Attention


class PlainAttention(Attention):
    """Attention by content alone (Vaswani et al. 2017, section 3.2): positions, if there are any, are in the hidden
    states. Arguments are those of ``Attention``."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, ~mask, self.dropout_now)
