"""The ∞-former's decoder: layers over a segment."""

from typing import Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.memories import Figure
from fairseq_infformer.modules.streams import Piece, StreamState

from .configuration import InfiniteFormerConfig
from .token_decoder import TokenDecoder
from .vocabulary_layers import position_embedding


class InfiniteFormerDecoder(TokenDecoder):
    """Embeds a segment and passes it through the layers."""

    cfg: InfiniteFormerConfig

    def __init__(
        self,
        cfg: InfiniteFormerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Module,
        layers: list[InfiniteFormerLayer],
    ) -> None:
        super().__init__(cfg, dictionary, embed_tokens)
        self.embed_positions = position_embedding(cfg)
        self.layers = nn.ModuleList(layers)
        self.add_output()

    def initial_state(self, batch_size: int) -> tuple[LayerState, ...]:
        like = self.final_norm.weight.new_zeros(batch_size, 1, self.cfg.decoder_embed_dim)
        return tuple(layer.initial_state(like) for layer in self.layers)

    def read_segment(
        self, before: tuple[LayerState, ...], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[LayerState, ...], tuple[Tensor, list[dict[str, Figure]]]]:
        tokens, in_row, empty = segment
        x = F.dropout(self.embed(tokens), self.cfg.dropout, self.training)
        after = []
        for layer, state in zip(self.layers, before):
            state = layer.advance(state, empty)
            if self.cfg.checkpoint_activations and torch.is_grad_enabled():
                x, then = checkpoint(layer, x, in_row, state, use_reentrant=False)
            else:
                x, then = layer(x, in_row, state)
            after.append(then)
        figures = [
            layer.long_term_memory.figures(state.report)
            for layer, state in zip(self.layers, after)
            if state.report is not None
        ]
        return tuple(after), (self.final_norm(x), figures)

    def empty_streams(self, batch_size: int) -> tuple[StreamState, ...]:
        return tuple(layer.empty_stream(batch_size) for layer in self.layers)

    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple[StreamState, ...]
    ) -> tuple[Tensor, tuple[StreamState, ...]]:
        x, after = self.embed(tokens, piece.start), []
        for layer, stream in zip(self.layers, streams, strict=True):
            x, then = layer.read_piece(x, piece, stream)
            after.append(then)
        return self.final_norm(x), tuple(after)

    def between_segments(self, streams: tuple[StreamState, ...]) -> tuple[LayerState, ...]:
        return tuple(layer.between_segments(stream) for layer, stream in zip(self.layers, streams, strict=True))

    def embed(self, tokens: Tensor, start: Optional[Tensor] = None) -> Tensor:
        """The vectors (B, T, C) of tokens (B, T), which are those of their segments from ``start`` (B,) on."""
        x = super().embed(tokens)
        if self.embed_positions is None:
            return x
        if start is None:
            self.check_length(tokens.shape[1])
            return x + self.embed_positions.weight[: tokens.shape[1]]
        positions = start[:, None] + torch.arange(tokens.shape[1])
        # Those of pads may be beyond.
        return x + self.embed_positions.weight[positions.clamp_max(self.max_positions() - 1).to(x.device)]

    def max_positions(self) -> int:
        """The longest possible segment: of any length, unless positions are learned."""
        return 2**31 - 1 if self.embed_positions is None else self.embed_positions.num_embeddings

    def check_length(self, tokens: int) -> None:
        """InputError if segments of this many tokens are longer than the model has positions for."""
        if tokens > self.max_positions():
            raise InputError(
                f"the model has {self.max_positions()} learned positions, too few for segments of {tokens} tokens; "
                f"give --tokens-per-sample {self.max_positions()} or less"
            )
