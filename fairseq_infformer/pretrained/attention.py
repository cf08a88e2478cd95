"""Attention of a pretrained layer to the open segment, to what is kept of the text before it, and to the memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.memories import LongTermMemory, Read, Report
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered
from fairseq_infformer.modules.streams import Piece, StreamState

from .memory import GatedMemory
from .projections import Projections, rotated

# Gives cosine and sine (B, T, d) of positions (B, T), like the tensor that it is given first.
Rotary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class LayerStream(NamedTuple):
    """What a layer knows of B streams, with the keys and values that their next tokens attend to.

    Keys and values are side by side, (B, S, 2 · H' · d), and turned by their positions.
    """

    state: StreamState
    near: Optional[ShortTermMemory]  # of sinks, window and open segment; None until a token attends to them
    extra: Optional[ShortTermMemory]  # of what the long-term memory lets attention see, if it does

    detach, reorder = detached, reordered

    def reset(self, rows: Tensor) -> "LayerStream":
        """The streams with the rows of the CPU mask ``rows`` (B,) before any text."""
        return LayerStream(self.state.reset(rows), *(part and part.reset(rows) for part in (self.near, self.extra)))


@dataclass
class Passage:
    """One pass of the model over a piece of its streams: what the attentions of its layers take and leave."""

    piece: Piece
    before: tuple[LayerStream, ...]  # by layer
    memories: Mapping[int, GatedMemory]  # by layer
    rotary: Optional[Rotary]  # None if positions are in the hidden states
    after: dict[int, LayerStream] = field(default_factory=dict)  # by layer
    mask: Optional[Tensor] = None  # (B, T, S) bool: what is ``visible``, the same in all layers


class StreamAttention(nn.Module):
    """A layer's attention, which within a ``Passage`` sees sinks, window and memory too, and otherwise is what it was.

    Positions count from the first of the sinks, right before the window, so that they stay small however long the text
    is. What the memory lets attention see lies before, at negative positions.

    Args:
        attention: of ``transformers``. projections: its own. layer: its number, from 0.
    """

    def __init__(self, attention: nn.Module, projections: Projections, layer: int) -> None:
        super().__init__()
        self.attention, self.projections, self.layer = attention, projections, layer

    def forward(
        self, hidden_states: Tensor, *args: Any, passage: Optional[Passage] = None, **kwargs: Any
    ) -> tuple[Tensor, Optional[Tensor]]:
        """What the layer adds to its input (B, T, C); within a passage, no weights of attention.

        Args:
            hidden_states: (B, T, C), after the layer's norm: what is remembered.
            passage: has the streams before the T tokens, and gets those after them.
            args, kwargs: of the attention; within a passage, cosine and sine of the T tokens' positions count alone.
        """
        if passage is None:
            return self.attention(hidden_states, *args, **kwargs)
        return self._attend(hidden_states, kwargs.get("position_embeddings"), passage), None

    def _attend(self, hidden: Tensor, rotation: Optional[tuple[Tensor, Tensor]], passage: Passage) -> Tensor:
        gated, piece = passage.memories.get(self.layer), passage.piece
        state, near, extra = passage.before[self.layer]
        if bool(piece.full.any()):
            state, near, extra = self._commit(state, piece.full, gated and gated.memory), None, None
        if near is None:
            near = self._near(state, passage.rotary)

        query, keys, values = self.projections.project(hidden)
        read = Read()
        if gated is not None:
            read = gated.memory.read(query, hidden, piece.lengths, state.long_term, self.projections)
        if extra is None and read.extra is not None:
            positions = torch.arange(-read.extra.hidden.shape[1], 0)[None]
            extra = read.extra._replace(hidden=read.extra.hidden.to(hidden.dtype))
            extra = self._keys_values(extra, positions, passage.rotary)
        near = near.append(torch.cat([rotated(keys, rotation), values], dim=-1), piece.lengths)
        state = state.extend(hidden, piece.lengths, read.report)
        passage.after[self.layer] = LayerStream(state, near, extra)

        query = rotated(query, rotation)
        if passage.mask is None:
            passage.mask = visible(near, piece.lengths, query.shape[1]).to(query.device)
        context = self._context(query, near.hidden, passage.mask)
        if extra is not None:
            mask = extra.held()[:, None].expand(-1, query.shape[1], -1).to(query.device)
            seen = torch.cat([extra.hidden, near.hidden], dim=1)
            with_extra = self._context(query, seen, torch.cat([mask, passage.mask], dim=-1))
            context = context + gated(with_extra - context)
        output = self.projections.output(context)
        return output if read.context is None else output + gated(read.context)

    def _commit(self, state: StreamState, full: Tensor, memory: Optional[LongTermMemory]) -> StreamState:
        def read(state: StreamState) -> Optional[Report]:
            hidden, lengths = state.segment.from_left(), state.segment.lengths
            query, _, _ = self.projections.project(hidden)
            return memory.read(query, hidden, lengths, state.long_term, self.projections).report

        return state.commit(full, memory, read)

    def _near(self, state: StreamState, rotary: Optional[Rotary]) -> ShortTermMemory:
        """Keys and values of sinks, window and open segment."""
        hidden = state.past().append(state.segment.from_left(), state.segment.lengths)
        width = state.segment.hidden.shape[1]
        # The first position of an open segment comes right after the past, whose vectors are at its right end.
        positions = state.segment.lengths[:, None] - width + torch.arange(hidden.hidden.shape[1])
        return self._keys_values(hidden, positions, rotary)

    def _keys_values(self, hidden: ShortTermMemory, positions: Tensor, rotary: Optional[Rotary]) -> ShortTermMemory:
        """Keys and values of hidden states at positions (B, S), or (1, S) for all rows."""
        vectors = hidden.hidden
        keys, values = self.projections.keys_values(vectors)
        rotation = rotary and rotary(vectors, positions.to(vectors.device))
        return hidden._replace(hidden=torch.cat([rotated(keys, rotation), values], dim=-1))

    def _context(self, query: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """(B, T, H · d) for queries (B, T, H · d), by attention to what the mask (B, T, S) lets them see."""
        keys, values = keys_values.chunk(2, dim=-1)
        query, keys, values = (self.projections.split_heads(x) for x in (query, keys, values))
        context = F.scaled_dot_product_attention(
            query.to(keys.dtype),
            keys,
            values,
            mask[:, None],
            dropout_p=self.projections.dropout if self.training else 0.0,
            scale=self.projections.scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return context.transpose(1, 2).flatten(2)


def visible(near: ShortTermMemory, lengths: Tensor, queries: int) -> Tensor:
    """(B, T, S) bool, on the CPU: what each of T queries sees of S slots.

    Args:
        near: (B, S, …), which ends with the first ``lengths`` (B,) of the queries' own tokens. The others are pads.
    """
    own = near.hidden.shape[1] - lengths[:, None] + torch.arange(queries)  # the slot of each query
    before = torch.arange(near.hidden.shape[1]) <= own[:, :, None]
    # A pad of a row without text sees one slot, whatever is in it: a softmax over none is not a number.
    return before & near._replace(lengths=near.lengths.clamp_min(1)).held()[:, None]
