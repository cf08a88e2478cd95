"""One ∞-former layer: attention over what is near, continuous attention over what is far, feed-forward."""

from functools import partial
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.memories import LongTermMemory, Read, Report
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered
from fairseq_infformer.modules.streams import Piece, StreamState

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "gelu-tanh": partial(F.gelu, approximate="tanh"), "swish": F.silu}


class LayerState(NamedTuple):
    """What one layer knows of the past, between two segments.

    ``recent`` still holds the whole of the last segment: what leaves the short-term memory is written to the
    long-term memory when the next segment comes, so that a row that ends with the segment costs
    nothing.
    """

    recent: ShortTermMemory
    long_term: Optional[NamedTuple]
    report: Optional[Report]  # of the last read of ``long_term``

    SAVED_AS = ("short_term", "memory", "report")
    detach, reorder = detached, reordered


class InfiniteFormerLayer(nn.Module):
    """Pre-norm decoder layer whose attention reads segment, short-term memory and long-term memory.

    ``x + short(q, h) + long(q)`` with ``h = norm(x)`` and one query projection ``q`` for both, then
    ``x + ffn(norm(x))``. What is remembered is h.

    Args:
        embed_dim: C. num_heads: H. ffn_dim: hidden width of the feed-forward network.
        stm_length: how many past hidden states ordinary attention sees; 0 for none.
        long_term_memory: the long-term memory, or None for a plain Transformer-XL layer.
        dropout, attention_dropout, activation_dropout: probabilities. activation: one of ACTIVATIONS.
        position_encoding: of ordinary attention, one of POSITION_ENCODINGS.
        attention_bias: give the projections of queries and of ordinary attention biases.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int,
        stm_length: int,
        long_term_memory: Optional[LongTermMemory] = None,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: str = "relu",
        position_encoding: str = "xl",
        attention_bias: bool = False,
    ) -> None:
        super().__init__()
        if stm_length < 0:
            raise ValueError(f"stm_length must be 0 or more, got {stm_length}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        if position_encoding not in POSITION_ENCODINGS:
            raise ValueError(
                f"unknown position encoding {position_encoding!r}; choose one of {', '.join(POSITION_ENCODINGS)}"
            )
        self.stm_length, self.dropout, self.activation_dropout = stm_length, dropout, activation_dropout
        self.activation = ACTIVATIONS[activation]
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=attention_bias)
        self.attention = POSITION_ENCODINGS[position_encoding](embed_dim, num_heads, attention_dropout, attention_bias)
        self.long_term_memory = long_term_memory
        self.ffn_norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        for projection in (self.q_proj, self.fc1, self.fc2):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        if long_term_memory is not None:
            long_term_memory.start_alike(self.q_proj.weight)

    def initial_state(self, like: Tensor) -> LayerState:
        """The state before any text, for hidden states like ``like`` (B, T, C)."""
        recent = ShortTermMemory.empty(like.shape[0], self.stm_length, like.shape[2], like)
        memory = self.long_term_memory
        long_term = memory and memory.initial_state(like.shape[0], like.device)
        return LayerState(recent, long_term, None)

    def advance(self, state: LayerState, reset: Tensor) -> LayerState:
        """The state before a new segment: rows in ``reset`` (B,) empty, and short-term memory cut to its length,
        with what leaves it written to the long-term memory."""
        recent, leaving, lengths = state.recent.reset(reset).split(self.stm_length)
        long_term = state.long_term
        if long_term is not None:
            long_term = self.long_term_memory.write(long_term, leaving, lengths, reset, state.report)
        return LayerState(recent, long_term, None)

    def forward(self, x: Tensor, lengths: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Process one segment.

        Args:
            x: (B, T, C).
            lengths: (B,), on the CPU: how many of the T of each row are text and will be remembered.
            state: from ``advance``.

        Returns:
            x (B, T, C) and the state after the segment, through which gradients reach what was written: detach it
            where they should end.
        """
        hidden = self.attention_norm(x)
        x, report = self._attend(x, hidden, lengths, state.recent, state.long_term)
        return x, LayerState(state.recent.append(hidden, lengths), state.long_term, report)

    def empty_stream(self, batch_size: int) -> StreamState:
        """The stream of each row before any text."""
        return StreamState.empty(batch_size, 0, self.stm_length, self.q_proj.weight, self.long_term_memory)

    def read_piece(self, x: Tensor, piece: Piece, stream: StreamState) -> tuple[Tensor, StreamState]:
        """What ``advance`` and ``forward`` do for a segment, for a piece of one.

        Args:
            x: (B, T, C). piece: says how many of the T of each row are text. stream: before the piece.

        Returns:
            x (B, T, C) and the stream after the piece.
        """
        if bool(piece.full.any()):
            stream = stream.commit(piece.full, self.long_term_memory, self._report)
        hidden = self.attention_norm(x)
        before = stream.window.append(stream.segment.from_left(), stream.segment.lengths)
        x, report = self._attend(x, hidden, piece.lengths, before, stream.long_term)
        return x, stream.extend(hidden, piece.lengths, report)

    def between_segments(self, stream: StreamState) -> LayerState:
        """The state from which ``advance`` continues, if the open segments end with what they have."""
        recent = stream.window.append(stream.segment.from_left(), stream.segment.lengths)
        report = stream.report
        if report is not None and not report.lengths.equal(stream.segment.lengths):
            report = self._report(stream)
        return LayerState(recent, stream.long_term, report)

    def _report(self, stream: StreamState) -> Optional[Report]:
        """That of one read for all of the open segments."""
        hidden, lengths = stream.segment.from_left(), stream.segment.lengths
        query = self.q_proj(hidden)
        return self.long_term_memory.read(query, hidden, lengths, stream.long_term, self.attention).report

    def _attend(
        self, x: Tensor, hidden: Tensor, lengths: Tensor, before: ShortTermMemory, long_term: Optional[NamedTuple]
    ) -> tuple[Tensor, Optional[Report]]:
        """The layer's output (B, T, C) for x (B, T, C) with ``hidden``, its norm, after the hidden states ``before``;
        and the report of the read of ``long_term``."""
        query, read = self.q_proj(hidden), Read()
        if self.long_term_memory is not None:
            read = self.long_term_memory.read(query, hidden, lengths, long_term, self.attention)
        if read.extra is not None:
            extra = read.extra._replace(hidden=read.extra.hidden.to(hidden.dtype))  # a memory may be more exact
            before = extra.append(before.from_left(), before.lengths)
        mask = attention_mask(before, x.shape[1])
        context = self.attention(query, torch.cat([before.hidden, hidden], dim=1), mask)
        context = context if read.context is None else context + read.context
        x = x + F.dropout(context, self.dropout, self.training)
        inner = F.dropout(self.activation(self.fc1(self.ffn_norm(x))), self.activation_dropout, self.training)
        return x + F.dropout(self.fc2(inner), self.dropout, self.training), read.report


def attention_mask(past: ShortTermMemory, queries: int) -> Tensor:
    """Forbids T queries to attend to what comes after them, and to what the short-term memory of a row does not fill.

    Returns:
        bool, True where attention is forbidden: (T, W + T), or (B, 1, T, W + T) where rows differ.
    """
    width, device = past.hidden.shape[1], past.hidden.device
    future = torch.ones(queries, width + queries, dtype=torch.bool, device=device).triu(width + 1)
    if bool((past.lengths == width).all()):
        return future
    empty = (width - past.lengths).to(device, non_blocking=True)
    unused = torch.arange(width + queries, device=device) < empty[:, None]
    return future | unused[:, None, None]
