"""The ∞-former's decoder: layers over a segment."""

from typing import Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.memories import Figure, LongTermMemory
from fairseq_infformer.modules.pointer import Pointer, PointerState
from fairseq_infformer.modules.streams import Piece, StreamState

from .configuration import InfiniteFormerConfig
from .token_decoder import TokenDecoder
from .vocabulary_layers import position_embedding

# Of a layer or of the pointer, between two segments and anywhere in one.
State = LayerState | PointerState
Stream = StreamState | PointerState


class InfiniteFormerDecoder(TokenDecoder):
    """Embeds a segment and passes it through the layers.

    With a pointer, which has a state as the layers have, the logits take the place of the last hidden states.
    """

    cfg: InfiniteFormerConfig

    def __init__(
        self,
        cfg: InfiniteFormerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Module,
        layers: list[InfiniteFormerLayer],
        pointer: Optional[Pointer] = None,
    ) -> None:
        super().__init__(cfg, dictionary, embed_tokens)
        self.embed_positions = position_embedding(cfg)
        self.layers = nn.ModuleList(layers)
        self.add_output()
        self.pointer = pointer

    @property
    def parts(self) -> list[nn.Module]:
        """What has a state, in their order: the layers, and the pointer if there is one."""
        return [*self.layers, *filter(None, [self.pointer])]

    def initial_state(self, batch_size: int) -> tuple[State, ...]:
        like = self.final_norm.weight.new_zeros(batch_size, 1, self.cfg.decoder_embed_dim)
        return tuple(part.initial_state(like) for part in self.parts)

    def read_segment(
        self, before: tuple[State, ...], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[State, ...], tuple[Tensor, list[dict[str, Figure]]]]:
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
        x = self.final_norm(x)
        if self.pointer is not None:
            x, then = self.pointer(x, tokens, in_row, before[-1].reset(empty), super().output_layer)
            after.append(self.pointer.between_segments(then))
        return tuple(after), (x, figures)

    def empty_streams(self, batch_size: int) -> tuple[Stream, ...]:
        return tuple(part.empty_stream(batch_size) for part in self.parts)

    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple[Stream, ...]
    ) -> tuple[Tensor, tuple[Stream, ...]]:
        x, after = self.embed(tokens, piece.start), []
        for layer, stream in zip(self.layers, streams):
            x, then = layer.read_piece(x, piece, stream)
            after.append(then)
        x = self.final_norm(x)
        if self.pointer is not None:
            before = self.pointer.drop(streams[-1], piece.full)
            x, then = self.pointer(x, tokens, piece.lengths, before, super().output_layer)
            after.append(then)
        return x, tuple(after)

    def between_segments(self, streams: tuple[Stream, ...]) -> tuple[State, ...]:
        return tuple(part.between_segments(stream) for part, stream in zip(self.parts, streams, strict=True))

    def output_layer(self, features: Tensor) -> Tensor:
        return super().output_layer(features) if self.pointer is None else features

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

    def long_term_memories(self) -> dict[int, LongTermMemory]:
        memories = ((number, layer.long_term_memory) for number, layer in enumerate(self.layers))
        return {number: memory for number, memory in memories if memory is not None}

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
