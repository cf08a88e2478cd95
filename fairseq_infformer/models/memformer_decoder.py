"""Memformer: an encoder that reads a segment and the memory, and a decoder that predicts the next segment from it."""

from collections.abc import Callable
from typing import NamedTuple, Optional

import torch
from fairseq.data import Dictionary
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.modules.layers import MemformerDecoderLayer, MemformerEncoderLayer
from fairseq_infformer.modules.memories import Figure
from fairseq_infformer.modules.memories.slots import SlotState, SlotWriter
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, emptied, reordered
from fairseq_infformer.modules.streams import Piece

from .configuration import TransformerConfig
from .token_decoder import TokenDecoder


class MemformerState(NamedTuple):
    """What the model knows of B streams between two segments.

    What the encoder made of a segment is written when the next one is encoded, so that its loss trains the writer, and
    a row that ends costs nothing. Lengths are on the CPU.
    """

    memory: Optional[SlotState]
    encoded: Tensor  # (B, S, C): what the encoder made of the segment before the last; not written yet
    encoded_lengths: Tensor  # (B,) int64
    text: Tensor  # (B, T) int64: the tokens of the last segment; not encoded yet
    text_lengths: Tensor  # (B,) int64

    SAVED_AS = ("memory", "encoded", "encoded_lengths", "text", "text_lengths")
    detach, reorder, reset = detached, reordered, emptied


class MemformerStream(NamedTuple):
    """What the model knows of B streams that stop anywhere in a segment."""

    before: MemformerState  # the open segment
    segment: ShortTermMemory  # (B, t, 1): the tokens of the open segment

    SAVED_AS = ("before", "segment")
    detach, reorder = detached, reordered


class Encoded(NamedTuple):
    """What the decoder reads: a segment's tokens (B, T), and what the encoder made of the segment before (B, S, C)."""

    tokens: Tensor
    encoded: Tensor
    lengths: Tensor  # (B,) int64, on the CPU: how many of the S count


class MemformerDecoder(TokenDecoder):
    """The whole model: ``M' = Write(M, H)``, ``H' = Enc(s, M')``, and the words of the next segment ``Dec(x, H')``.

    H is of the segment before s (Wu et al. 2020, equations 5 to 7). A stream starts without text to encode, so that its
    first segment is predicted too, and every token is a target once.

    Args:
        encoder, decoder: the layers. writer: of the memory; None without one.
    """

    def __init__(
        self,
        cfg: TransformerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Module,
        encoder: list[MemformerEncoderLayer],
        writer: Optional[SlotWriter],
        decoder: list[MemformerDecoderLayer],
    ) -> None:
        super().__init__(cfg, dictionary, embed_tokens)
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.encoder_norm = nn.LayerNorm(cfg.decoder_embed_dim)
        self.writer = writer
        self.add_output()

    def initial_state(self, batch_size: int) -> tuple[MemformerState]:
        like = self.final_norm.weight
        none = torch.zeros(batch_size, dtype=torch.int64)
        encoded = like.new_zeros(batch_size, 1, self.cfg.decoder_embed_dim)
        text = torch.full((batch_size, 1), self.dictionary.eos(), device=like.device)
        memory = self.writer and self.writer.initial_state(batch_size, like.device)
        return (MemformerState(memory, encoded, none, text, none),)

    def read_segment(
        self, before: tuple[MemformerState], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[MemformerState], tuple[Encoded, list[dict[str, Figure]]]]:
        tokens, lengths, empty = segment
        state = before[0].reset(empty)
        memory = self.writer and self.writer.write(state.memory, state.encoded, state.encoded_lengths)
        x = self._embedded(state.text)
        for layer in self.encoder:
            x = self._run(layer, x, state.text_lengths, memory)
        encoded = self.encoder_norm(x)
        after = MemformerState(memory, encoded, state.text_lengths, tokens, lengths)
        return (after,), (Encoded(tokens, encoded, state.text_lengths), [])

    def empty_streams(self, batch_size: int) -> tuple[MemformerStream]:
        (before,) = self.initial_state(batch_size)
        return (MemformerStream(before, ShortTermMemory.empty(batch_size, 0, 1, before.text)),)

    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple[MemformerStream]
    ) -> tuple[Tensor, tuple[MemformerStream]]:
        """See ``StreamingDecoder.read_piece``. The open segment is read again with each piece, since the decoder, which
        sees no more than it, keeps no keys and values."""
        before, segment = streams[0]
        if bool(piece.full.any()):
            (after,), _ = self._read_open(before, segment)
            before = _chosen(piece.full, after, before)
            segment = segment.reset(piece.full)
        segment = segment.append(tokens[:, :, None], piece.lengths)
        segment, _, _ = segment.split(int(segment.lengths.max()))
        _, (output, _) = self._read_open(before, segment)
        columns = piece.start[:, None] + torch.arange(tokens.shape[1])
        columns = columns.clamp_max(output.tokens.shape[1] - 1).to(tokens.device)  # those of pads may be beyond
        features = self.features(output)
        features = features.gather(1, columns[:, :, None].expand(-1, -1, features.shape[2]))
        return features, (MemformerStream(before, segment),)

    def between_segments(self, streams: tuple[MemformerStream]) -> tuple[MemformerState]:
        return self._read_open(*streams[0])[0]

    def _read_open(
        self, before: MemformerState, segment: ShortTermMemory
    ) -> tuple[tuple[MemformerState], tuple[Encoded, list[dict[str, Figure]]]]:
        none = torch.zeros_like(segment.lengths, dtype=torch.bool)
        return self.read_segment((before,), (segment.from_left()[:, :, 0], segment.lengths, none))

    def features(self, output: Encoded) -> Tensor:
        x = self._embedded(output.tokens)
        for layer in self.decoder:
            x = self._run(layer, x, output.encoded, output.lengths)
        return self.final_norm(x)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return F.dropout(self.embed(tokens), self.cfg.dropout, self.training)

    def _run(self, layer: Callable[..., Tensor], *arguments: object) -> Tensor:
        if self.cfg.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(layer, *arguments, use_reentrant=False)
        return layer(*arguments)

    def max_positions(self) -> int:
        """The longest possible segment: of any length."""
        return 2**31 - 1


def _chosen(rows: Tensor, state: MemformerState, other: MemformerState) -> MemformerState:
    """The rows (B,) bool of ``state``, and the others of ``other``."""

    def choose(one: Optional[Tensor], two: Optional[Tensor]) -> Optional[Tensor]:
        if one is None:  # without a memory
            return None
        if one.dim() > 1 and one.shape[1] != two.shape[1]:  # vectors from the left, of which lengths say how many
            width = max(one.shape[1], two.shape[1])
            one, two = (F.pad(x, [*[0, 0] * (x.dim() - 2), 0, width - x.shape[1]]) for x in (one, two))
        return torch.where(rows.to(one.device).view(-1, *[1] * (one.dim() - 1)), one, two)

    return tree_map(choose, state, other)
