"""An encoder of speech without end: the same states whether a stream comes segment by segment or at once."""

from collections.abc import Callable
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import AugmentedMemoryLayer
from .memories import Figure, LongTermMemory
from .padding import padding_mask
from .settings import SettingError
from .state import detached, reordered
from .subsampling import STRIDE, Subsampling, positions


class EncoderState(NamedTuple):
    """What the encoder knows of the past of B streams, between two segments."""

    frames: Tensor  # (B, l, features): the left context of the next segment
    memories: tuple[Optional[NamedTuple], ...]  # by layer

    detach, reorder = detached, reordered


class Encoded(NamedTuple):
    """States of speech."""

    states: Tensor  # (B, S, C)
    lengths: Tensor  # (B,), on the CPU: how many of the S are speech, from the left
    regulariser: Optional[Tensor] = None  # (): what reads of memories add to the loss, summed over the queries
    queries: int = 0  # of all layers with a memory


class StreamingEncoder(nn.Module):
    """Layers with an augmented memory over segments (Ma, Wang, Dousti, Koehn and Pino 2021).

    Speech is cut into segments. Each is read with some frames before and after it, so a state is known when
    ``right_context`` frames more have come. All that is older is in the memories of the layers. State is constant, and
    so is the work per segment. Positions begin anew in each segment.

    Args:
        features: width of a frame. embed_dim: C. num_heads: H. ffn_dim: hidden width of the feed-forward networks.
        num_layers: of them. segment_size, left_context, right_context: in frames, multiples of 4.
        build_memory: gives the memory of a layer, by its number from 0, or None.
        dropout, attention_dropout, activation_dropout: probabilities.

    Raises:
        SettingError: if a size has a value that it cannot have.
    """

    def __init__(
        self,
        features: int,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        num_layers: int,
        *,
        segment_size: int,
        left_context: int,
        right_context: int,
        build_memory: Callable[[int], Optional[LongTermMemory]],
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (("segment_size", segment_size, STRIDE), ("left_context", left_context, 0))
        for name, size, least in (*sizes, ("right_context", right_context, 0)):
            if size < least or size % STRIDE:
                raise SettingError(
                    name, f"must be {least} or more and a multiple of {STRIDE}, the frames per state; got {size}"
                )
        self.segment_size, self.left_context, self.right_context = segment_size, left_context, right_context
        self.features, self.dropout = features, dropout
        self.subsampling = Subsampling(features, embed_dim)
        self.layers = nn.ModuleList(
            AugmentedMemoryLayer(
                embed_dim,
                num_heads,
                ffn_dim,
                build_memory(number),
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
            )
            for number in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def initial_state(self, batch_size: int, like: Tensor) -> EncoderState:
        """The state before any speech, for frames ``like`` (…, features)."""
        memories = tuple(layer.initial_state(batch_size, like.device) for layer in self.layers)
        return EncoderState(like.new_zeros(batch_size, 0, self.features), memories)

    def forward(self, frames: Tensor, lengths: Tensor) -> Encoded:
        """The states of whole streams: ``encode_segment`` of each segment in turn.

        Args:
            frames: (B, L, features). lengths: (B,), on the CPU: how many of the L of each row are speech.
        """
        state, parts = self.initial_state(len(frames), frames), []
        for start in range(0, frames.shape[1], self.segment_size):
            window = frames[:, start : start + self.segment_size + self.right_context]
            encoded, state = self.encode_segment(window, (lengths - start).clamp(0, window.shape[1]), state)
            parts.append(encoded)
        if not parts:
            return Encoded(frames.new_zeros(len(frames), 0, self.norm.weight.shape[0]), torch.zeros_like(lengths))
        added = [part.regulariser for part in parts if part.regulariser is not None]
        return Encoded(
            torch.cat([part.states for part in parts], 1),
            sum(part.lengths for part in parts),
            sum(added) if added else None,
            sum(part.queries for part in parts),
        )

    def encode_segment(self, frames: Tensor, lengths: Tensor, state: EncoderState) -> tuple[Encoded, EncoderState]:
        """The states of the next segment.

        Args:
            frames: (B, L, features), the segment and its right context; shorter only where all streams end.
            lengths: (B,), on the CPU: how many of the L of each row are speech.
            state: after the segment before.

        Returns:
            states of the segment alone, and the next state, through which gradients go.
        """
        left = state.frames.shape[1]
        window = torch.cat([state.frames, frames], dim=1)
        x, held = self.subsampling(window, torch.where(lengths > 0, left + lengths, 0))
        # Whatever is to the left, a segment begins at the same position.
        x = x * x.shape[-1] ** 0.5 + positions((self.left_context - left) // STRIDE, x.shape[1], x)
        x = F.dropout(x, self.dropout, self.training)
        first = left // STRIDE
        segment = slice(first, min(first + self.segment_size // STRIDE, x.shape[1]))
        memories, added, queries = [], [], 0
        for layer, memory in zip(self.layers, state.memories):
            x, memory, report = layer(x, held, segment, memory)
            memories.append(memory)
            if report is not None:
                figures = layer.memory.figures(report).values()
                added += [_summed(figure, held) for figure in figures if figure.weight]
                queries += int(held.sum())
        counted = (held - first).clamp(0, segment.stop - segment.start)
        encoded = Encoded(self.norm(x[:, segment]), counted, sum(added) if added else None, queries)
        end = left + self.segment_size
        return encoded, EncoderState(window[:, max(0, end - self.left_context) : end], tuple(memories))


def _summed(figure: Figure, lengths: Tensor) -> Tensor:
    """A figure's term in the loss, over the queries that are speech and the mean of the heads: ()."""
    value = figure.value.mean(1) if figure.value.dim() == 3 else figure.value
    pads = padding_mask(lengths, value.shape[1]).to(value.device)
    return figure.weight * value.masked_fill(pads, 0).sum()
