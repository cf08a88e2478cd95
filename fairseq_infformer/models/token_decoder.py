"""What decoders that are trained from scratch have at both ends: embedded tokens, and words from hidden states."""

from typing import Optional

from fairseq.data import Dictionary
from fairseq.modules import AdaptiveSoftmax
from torch import Tensor, nn

from .configuration import TransformerConfig
from .streaming_decoder import StreamingDecoder
from .vocabulary_layers import adaptive_softmax, output_projection


class TokenDecoder(StreamingDecoder):
    """Embeds tokens, plainly or adaptively; after its layers, a subclass adds the output with ``add_output``."""

    adaptive_softmax: Optional[AdaptiveSoftmax]
    output_projection: Optional[nn.Linear]  # None under an adaptive softmax

    def __init__(self, cfg: TransformerConfig, dictionary: Dictionary, embed_tokens: nn.Module) -> None:
        super().__init__(dictionary)
        self.cfg, self.embed_tokens = cfg, embed_tokens
        self.embed_scale = 1.0 if cfg.adaptive_input or cfg.no_scale_embedding else cfg.decoder_embed_dim**0.5

    def add_output(self) -> None:
        """Add the last norm and the output layer, which may be tied to the embedding."""
        self.final_norm = nn.LayerNorm(self.cfg.decoder_embed_dim)
        self.adaptive_softmax = adaptive_softmax(self.cfg, self.dictionary, self.embed_tokens)
        plain = self.adaptive_softmax is None
        self.output_projection = output_projection(self.cfg, self.dictionary, self.embed_tokens) if plain else None

    def output_layer(self, features: Tensor) -> Tensor:
        return features if self.output_projection is None else self.output_projection(features)

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors (B, T, C) of tokens (B, T)."""
        x = self.embed_tokens(tokens) * self.embed_scale
        if self.cfg.adaptive_input:  # DDP waits for the gradients of every band, with words or without
            x = x + sum(band(tokens[:0]).sum() for band in self.embed_tokens.embeddings)
        return x
