"""Streams of text that may stop anywhere in a segment: the open segment, and its commitment once it is full.

Every past token of a stream is in exactly one place: the open segment, the window (a short-term memory), the sinks or
the long-term memory. A full segment stays open until the next token comes; then it is committed: it moves into the
window, and what leaves the window is written to the long-term memory. So a text gives the same states whether it is
read in one pass, segment by segment or token by token, and the streams of a batch may be at different tokens of their
segments.

The first few tokens to leave the window, which a text begins with, become its sinks instead and stay visible. Attention
that was trained on texts from their start puts the weight that it has no use for on the first token, and fails without
(Xiao et al. 2023, StreamingLLM).

    for piece in pieces(lengths, state.segment.lengths, segment):
        if piece.full.any():
            state = state.commit(piece.full, memory, read)
        …
        state = state.extend(hidden, piece.lengths, report)
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_infformer.modules.memories import LongTermMemory, Report
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import detached, reordered


class Piece(NamedTuple):
    """Consecutive tokens of B streams, of each as many as its segment has room for; all tensors are on the CPU."""

    first: Tensor  # (B,) int64: how many of the tokens that are read come before the piece
    start: Tensor  # (B,) int64: how many tokens of the segment come before the piece
    lengths: Tensor  # (B,) int64: how many tokens the piece has
    full: Tensor  # (B,) bool: the rows whose segment is full, and is committed before the piece is read


def pieces(lengths: Tensor, start: Tensor, segment: int) -> Iterator[Piece]:
    """Cut the next ``lengths`` (B,) tokens of B streams into pieces.

    Args:
        start: (B,) how many tokens the open segments hold already. segment: how many they hold when they are full.
    """
    first = torch.zeros_like(lengths)
    while bool((first < lengths).any()):
        full = (start == segment) & (first < lengths)
        start = start.masked_fill(full, 0)
        taken = torch.minimum(lengths - first, segment - start)
        yield Piece(first, start, taken, full)
        first, start = first + taken, start + taken


class StreamState(NamedTuple):
    """What one layer knows of B streams."""

    sinks: ShortTermMemory  # (B, S, C): hidden states of the first tokens, once they have left the window
    window: ShortTermMemory  # (B, W, C): those just before the open segment
    segment: ShortTermMemory  # (B, t, C): those of the open segment
    long_term: Optional[NamedTuple]  # None for a layer without long-term memory
    report: Optional[Report]  # of the last read of ``long_term``

    SAVED_AS = ("sinks", "window", "segment", "memory", "report")
    detach, reorder = detached, reordered

    @staticmethod
    def empty(
        batch_size: int, sinks: int, window: int, like: Tensor, memory: Optional[LongTermMemory]
    ) -> "StreamState":
        """Before any text, with room for so many hidden states like those of ``like`` (…, C)."""
        parts = (ShortTermMemory.empty(batch_size, width, like.shape[-1], like) for width in (sinks, window, 0))
        return StreamState(*parts, memory and memory.initial_state(batch_size, like.device), None)

    def reset(self, rows: Tensor) -> "StreamState":
        """The state with the rows of the CPU mask ``rows`` (B,) before any text."""
        parts = (part.reset(rows) for part in (self.sinks, self.window, self.segment))
        report = self.report and self.report._replace(lengths=self.report.lengths.masked_fill(rows, 0))
        return StreamState(*parts, self.long_term and self.long_term.reset(rows), report)

    def past(self) -> ShortTermMemory:
        """(B, S + W, C): the sinks and the window after them."""
        return self.sinks.followed_by(self.window)

    def commit(
        self, full: Tensor, memory: Optional[LongTermMemory], read: Callable[["StreamState"], Optional[Report]]
    ) -> "StreamState":
        """The state after the segments of the rows ``full`` (B,) were committed; other rows stay as they are.

        Args:
            memory: of the layer, which a state with a ``long_term`` needs.
            read: gives the report of one read for all of the open segments. It is called where the report that there is
                is of a part of them.
        """
        moved = self.segment.lengths.masked_fill(~full, 0)
        width = self.window.hidden.shape[1]
        window, leaving, lengths = self.window.append(self.segment.from_left(), moved).split(width)
        sinks, leaving, lengths = self._with_sinks(leaving, lengths)
        long_term = self.long_term
        if memory is not None:
            report = self.report
            if report is not None and not report.lengths[full].equal(moved[full]):
                report = read(self)
            long_term = memory.write(long_term, leaving, lengths, report=report)
        segment = _narrowed(ShortTermMemory(self.segment.hidden, self.segment.lengths - moved))
        return StreamState(sinks, window, segment, long_term, None)

    def _with_sinks(self, leaving: Tensor, lengths: Tensor) -> tuple[ShortTermMemory, Tensor, Tensor]:
        """The sinks after they took what there is room for, and the rest of what leaves (B, L, C), with its lengths."""
        width = self.sinks.hidden.shape[1]
        taken = torch.minimum(width - self.sinks.lengths, lengths)
        sinks = self.sinks.append(leaving, taken).split(width)[0]
        rest = ShortTermMemory(leaving, leaving.shape[1] - taken).from_left()
        return sinks, rest, lengths - taken

    def extend(self, hidden: Tensor, lengths: Tensor, report: Optional[Report]) -> "StreamState":
        """The state after the first ``lengths`` (B,) of ``hidden`` (B, T, C) joined the open segments.

        Args:
            report: of the read with these tokens' queries.
        """
        segment = _narrowed(self.segment.append(hidden, lengths))
        return self._replace(segment=segment, report=report)


def _narrowed(vectors: ShortTermMemory) -> ShortTermMemory:
    """The same in the least width, since rows take turns to be committed and the width would grow for ever."""
    return vectors.split(int(vectors.lengths.max()))[0]
