"""Memformer's layers: an encoder's, which reads the memory, and a decoder's, which reads the encoder."""

from collections.abc import Callable
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import CrossAttention, SimplifiedRelativeAttention
from fairseq_infformer.modules.memories.slots import SlotReader, SlotState
from fairseq_infformer.modules.padding import padding_mask

from .decoder_layer import ACTIVATIONS


class MemformerLayer(nn.Module):
    """What both have: pre-norm self-attention and a feed-forward network, and between them another sublayer.

    Args:
        embed_dim: C. num_heads: H. ffn_dim: hidden width of the feed-forward network.
        dropout, attention_dropout, activation_dropout: probabilities. activation: one of ACTIVATIONS.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.dropout, self.activation_dropout, self.activation = dropout, activation_dropout, ACTIVATIONS[activation]
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.attention = SimplifiedRelativeAttention(embed_dim, num_heads, attention_dropout)
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        for projection in (self.q_proj, self.fc1, self.fc2):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def sublayers(self, x: Tensor, mask: Tensor, between: Callable[[Tensor], Optional[Tensor]]) -> Tensor:
        """``x`` (B, T, C) after the three sublayers.

        Args:
            mask: of self-attention, see ``Attention``. between: what the second one adds; None adds nothing.
        """
        hidden = self.attention_norm(x)
        x = x + self._dropped(self.attention(self.q_proj(hidden), hidden, mask))
        if (added := between(x)) is not None:
            x = x + self._dropped(added)
        inner = F.dropout(self.activation(self.fc1(self.ffn_norm(x))), self.activation_dropout, self.training)
        return x + self._dropped(self.fc2(inner))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class MemformerEncoderLayer(MemformerLayer):
    """Self-attention in both directions, a read of the memory, feed-forward (Wu et al. 2020, section 2.2.3).

    Args: those of ``MemformerLayer``, and
        reads: whether it reads the memory.
    """

    def __init__(self, embed_dim: int, num_heads: int, ffn_dim: int, *, reads: bool = True, **settings: object) -> None:
        super().__init__(embed_dim, num_heads, ffn_dim, **settings)
        self.reader: Optional[SlotReader] = None
        if reads:
            self.memory_norm = nn.LayerNorm(embed_dim)
            self.memory_q_proj = nn.Linear(embed_dim, embed_dim, bias=False)
            nn.init.xavier_uniform_(self.memory_q_proj.weight)
            self.reader = SlotReader(embed_dim, num_heads)
            self.reader.start_alike(self.memory_q_proj.weight)

    def forward(self, x: Tensor, lengths: Tensor, state: Optional[SlotState]) -> Tensor:
        """``x`` (B, T, C) after the layer.

        Args:
            lengths: (B,), on the CPU: how many of the T of each row are text. state: the memory, if it reads one.
        """

        def read(x: Tensor) -> Optional[Tensor]:
            if self.reader is None:
                return None
            hidden = self.memory_norm(x)
            return self.reader.read(self.memory_q_proj(hidden), hidden, lengths, state, self.attention).context

        # Pads of a row without text see the first, since a softmax needs one; nothing sees them.
        pads = padding_mask(lengths.clamp_min(1), x.shape[1]).to(x.device)
        return self.sublayers(x, pads[:, None, None], read)


class MemformerDecoderLayer(MemformerLayer):
    """Self-attention to what came before, attention to the encoder's outputs, feed-forward."""

    def __init__(self, embed_dim: int, num_heads: int, ffn_dim: int, **settings: object) -> None:
        super().__init__(embed_dim, num_heads, ffn_dim, **settings)
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = CrossAttention(embed_dim, num_heads, self.attention.dropout)

    def forward(self, x: Tensor, encoded: Tensor, lengths: Tensor) -> Tensor:
        """``x`` (B, T, C) after the layer, which reads ``lengths`` of ``encoded`` (B, S, C); see ``CrossAttention``."""
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return self.sublayers(x, future, lambda x: self.cross_attention(self.cross_norm(x), encoded, lengths))
