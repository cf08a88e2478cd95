"""Encoders of whole utterances, to compare a streaming one with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import AugmentedMemoryLayer
from .streaming_encoder import Encoded
from .subsampling import Subsampling, positions


class WholeEncoder(nn.Module):
    """The layers of a streaming encoder without segments and memory: a state sees all, or all before it.

    The convolutions let a state see 3 frames that come after its own 4.

    Args:
        features: width of a frame. embed_dim: C. num_heads: H. ffn_dim: hidden width of the feed-forward networks.
        num_layers: of them. unidirectional: let a state see no later one.
        dropout, attention_dropout, activation_dropout: probabilities.
    """

    def __init__(
        self,
        features: int,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        *,
        unidirectional: bool,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.unidirectional, self.dropout = unidirectional, dropout
        self.subsampling = Subsampling(features, embed_dim)
        rates = {
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "activation_dropout": activation_dropout,
        }
        self.layers = nn.ModuleList(
            AugmentedMemoryLayer(embed_dim, num_heads, ffn_dim, **rates) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, frames: Tensor, lengths: Tensor) -> Encoded:
        """The states of whole utterances; arguments are those of ``StreamingEncoder``."""
        x, lengths = self.subsampling(frames, lengths)
        count = x.shape[1]
        x = F.dropout(x * x.shape[-1] ** 0.5 + positions(0, count, x), self.dropout, self.training)
        future = torch.ones(count, count, dtype=torch.bool).triu(1) if self.unidirectional else None
        for layer in self.layers:
            x, _, _ = layer(x, lengths, slice(0, count), None, future)
        return Encoded(self.norm(x), lengths)
