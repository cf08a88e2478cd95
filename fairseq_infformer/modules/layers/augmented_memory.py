"""A layer of a streaming encoder: attention over a segment, its context and a memory of all before."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import SuppressedAttention
from fairseq_infformer.modules.memories import LongTermMemory, Read, Report
from fairseq_infformer.modules.padding import padding_mask


class AugmentedMemoryLayer(nn.Module):
    """Pre-norm encoder layer that reads [memory; left context; segment; right context] (Wu et al. 2020, section 3).

    ``x + attention(q, [M; h]) + read(q)`` with ``h = norm(x)``, then ``x + ffn(norm(x))``. What is remembered is the
    segment's h, without the context. The paper's memory is the bank; any other may stand in its place.

    Args:
        embed_dim: C. num_heads: H. ffn_dim: hidden width of the feed-forward network.
        memory: of what came before the left context; None for none.
        dropout, attention_dropout, activation_dropout: probabilities.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        memory: Optional[LongTermMemory] = None,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = dropout, activation_dropout
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.attention = SuppressedAttention(embed_dim, num_heads, attention_dropout, bias=True)
        self.memory = memory
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        for projection in (self.q_proj, self.fc1, self.fc2):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        if memory is not None:
            memory.start_alike(self.q_proj.weight)

    def initial_state(self, batch_size: int, device: Optional[torch.device] = None) -> Optional[NamedTuple]:
        """The memory before any segment."""
        return self.memory and self.memory.initial_state(batch_size, device)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        segment: slice,
        state: Optional[NamedTuple],
        hidden_from: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[NamedTuple], Optional[Report]]:
        """Process one segment.

        Args:
            x: (B, T, C), left context, segment and right context.
            lengths: (B,), on the CPU: how many of the T of each row are speech, from the left.
            segment: which of the T are the segment. state: the memory.
            hidden_from: (T, T) bool, True where a vector may not see another, such as the future; absent: nowhere.

        Returns:
            x (B, T, C), the memory with the segment, and what its read reports.
        """
        hidden = self.attention_norm(x)
        query, read = self.q_proj(hidden), Read()
        if self.memory is not None:
            read = self.memory.read(query, hidden, lengths, state, self.attention)
        # Pads of a row without speech see its first, since a softmax needs one; nothing sees them.
        seen, mask = hidden, padding_mask(lengths.clamp_min(1), x.shape[1])[:, None]
        if hidden_from is not None:
            mask = mask | hidden_from
        if read.extra is not None:
            seen = torch.cat([read.extra.hidden, hidden], dim=1)
            mask = torch.cat([(~read.extra.held())[:, None].expand(-1, mask.shape[1], -1), mask], dim=2)
        context = self.attention(query, seen, mask.to(x.device)[:, None])
        context = context if read.context is None else context + read.context
        x = x + F.dropout(context, self.dropout, self.training)
        inner = F.dropout(self.fc1(self.ffn_norm(x)).relu(), self.activation_dropout, self.training)
        x = x + F.dropout(self.fc2(inner), self.dropout, self.training)
        if self.memory is not None:
            new = hidden[:, segment]
            held = (lengths - segment.start).clamp(0, new.shape[1])
            state = self.memory.write(state, new, held, report=read.report)
        return x, state, read.report
