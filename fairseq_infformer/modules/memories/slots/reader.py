"""Reading slots: cross-attention of the queries to them."""

from typing import Any, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import check_heads, split_heads
from fairseq_infformer.modules.memories.base import Read

from .state import SlotState


class SlotReader(nn.Module):
    """Attention of queries to the slots M, ``softmax(q (M W_K)ᵀ / √d) M W_V`` (Wu et al. 2022, Memory Reading).

    Where a row's memory is empty it gives nothing.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. head_dim: d, the width of a head of the queries; absent: C / H.
    """

    def __init__(self, embed_dim: int, num_heads: int, head_dim: Optional[int] = None) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        width = num_heads * (head_dim or embed_dim // num_heads)
        self.k_proj = nn.Linear(embed_dim, width, bias=False)
        self.v_proj = nn.Linear(embed_dim, width, bias=False)
        self.out_proj = nn.Linear(width, embed_dim, bias=False)
        for projection in (self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight)
        # A read that starts as noise costs more than it gives, until the layers have learned to ignore it.
        nn.init.zeros_(self.out_proj.weight)

    def read(self, query: Tensor, hidden: Tensor, lengths: Tensor, state: SlotState, attention: Any) -> Read:
        """See ``LongTermMemory.read``."""
        slots = state.slots.to(query.dtype)
        keys, values = split_heads(self.k_proj(slots), self.num_heads), split_heads(self.v_proj(slots), self.num_heads)
        context = F.scaled_dot_product_attention(split_heads(query, self.num_heads).to(keys.dtype), keys, values)
        empty = state.is_empty().to(query.device)[:, None, None]
        return Read(self.out_proj(context.transpose(1, 2).flatten(2)).masked_fill(empty, 0))

    @torch.no_grad()
    def start_alike(self, query: Tensor) -> None:
        """See ``LongTermMemory.start_alike``."""
        self.k_proj.weight.copy_(query)
