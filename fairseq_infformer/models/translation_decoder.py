"""A decoder of words that waits for k reads of speech, and then writes one word per read."""

from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.layers import MemformerDecoderLayer
from fairseq_infformer.modules.streaming_encoder import Encoded
from fairseq_infformer.modules.subsampling import positions
from fairseq_infformer.modules.wait_k import visible_states


class WaitKDecoder(FairseqDecoder):
    """Layers of self-attention and of attention to the states that each word may see, and tied embeddings.

    Both have sinusoidal positions that count from the start of the utterance. Those in a streaming encoder's states
    begin anew in each segment, and words could not be read in their order by them.

    It has no incremental state: a prefix is decoded again with each word, so that its words see what they saw.

    Args:
        dictionary: of the target. embed_dim: C. layers: of width C. dropout: on the embeddings.
        pre_decision: r, states per read. wait_k: k for whoever names none; None waits for all.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        embed_dim: int,
        layers: list[MemformerDecoderLayer],
        *,
        dropout: float,
        pre_decision: int,
        wait_k: Optional[int],
    ) -> None:
        super().__init__(dictionary)
        self.dropout, self.pre_decision, self.wait_k = dropout, pre_decision, wait_k
        self.embed_tokens = nn.Embedding(len(dictionary), embed_dim, dictionary.pad())
        nn.init.normal_(self.embed_tokens.weight, std=embed_dim**-0.5)
        nn.init.zeros_(self.embed_tokens.weight[dictionary.pad()])
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self, prev_output_tokens: Tensor, encoder_out: Encoded, visible: Optional[Tensor] = None, **unused: object
    ) -> tuple[Tensor, dict[str, Any]]:
        """Logits (B, T, V) of the words after each of ``prev_output_tokens`` (B, T).

        Args:
            encoder_out: the states.
            visible: (B, T), on the CPU, how many of the states each word may see; absent: as many as wait-k lets it.
        """
        if visible is None:
            visible = self.policy(encoder_out, prev_output_tokens, self.wait_k)
        x = self.embed_tokens(prev_output_tokens) * self.embed_tokens.embedding_dim**0.5
        states = encoder_out.states + positions(0, encoder_out.states.shape[1], encoder_out.states)
        x = F.dropout(x + positions(0, x.shape[1], x), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, states, visible)
        return F.linear(self.norm(x), self.embed_tokens.weight), {"attn": None}

    def policy(self, encoder_out: Encoded, words: Tensor, wait_k: Optional[int]) -> Tensor:
        """How many states each of ``words`` (B, T) may see by wait-k: (B, T), on the CPU."""
        return visible_states(encoder_out.lengths, words.shape[1], wait_k, self.pre_decision)

    def max_positions(self) -> int:
        """The longest possible translation: of any length."""
        return torch.iinfo(torch.int32).max
