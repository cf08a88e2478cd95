"""Streams that stop anywhere in a segment."""

from typing import NamedTuple

import pytest
import torch

from fairseq_infformer.modules.state import detached, reordered
from fairseq_infformer.modules.streams import StreamState, pieces

SEGMENT = 4


def test_pieces_cover_each_token_once_and_end_with_segments():
    lengths, start = torch.tensor([11, 0, 3, 4]), torch.tensor([2, 3, 4, 0])
    read, filled = torch.zeros(4, dtype=torch.int64), start
    for piece in pieces(lengths, start, SEGMENT):
        assert piece.first.equal(read)
        assert piece.full.equal((filled == SEGMENT) & (read < lengths))
        assert piece.start.equal(filled.masked_fill(piece.full, 0))
        read, filled = read + piece.lengths, piece.start + piece.lengths
        assert bool(piece.lengths.any()) and bool((filled <= SEGMENT).all())
    assert read.equal(lengths)
    assert filled.tolist() == [1, 3, 3, 4]  # full segments stay open


def test_pieces_of_no_tokens_are_none():
    assert list(pieces(torch.zeros(2, dtype=torch.int64), torch.tensor([4, 1]), SEGMENT)) == []


class Written(NamedTuple):
    numbers: torch.Tensor  # (B, n): what was written, -1 for pads

    detach, reorder = detached, reordered


class Reported(NamedTuple):
    lengths: torch.Tensor


class Recorder:
    """A memory that keeps all that it gets."""

    def initial_state(self, batch_size, device=None):
        return Written(torch.zeros(batch_size, 0))

    def write(self, state, new, lengths, reset=None, report=None):
        pads = torch.arange(new.shape[1]) >= lengths[:, None]
        return Written(torch.cat([state.numbers, new[:, :, 0].masked_fill(pads, -1)], dim=1))


def vectors(memory, row):
    """The vectors of a row, which a ``ShortTermMemory`` has at the right end."""
    return memory.hidden[row, memory.hidden.shape[1] - int(memory.lengths[row]) :, 0].tolist()


@pytest.mark.parametrize(("sinks", "window"), [(0, 0), (0, 4), (1, 3), (6, 2), (2, 6)])
@pytest.mark.parametrize(
    ("calls", "again"),
    [([[23], [14]], 0), ([[4] * 5, [4, 0, 4, 4, 0]], 1), ([[1] * 23, [1] * 14 + [0] * 9], 5), ([[5, 18], [9, 5]], 1)],
)
def test_every_token_is_in_one_place_in_its_order(sinks, window, calls, again):
    """Two rows that are read in calls of different lengths; segments that were read in parts are read again."""
    memory, reads = Recorder(), []
    state = StreamState.empty(2, sinks, window, torch.zeros(1), memory)
    read = torch.zeros(2, dtype=torch.int64)
    for lengths in zip(*calls):
        for piece in pieces(torch.tensor(lengths), state.segment.lengths, SEGMENT):
            if piece.full.any():
                state = state.commit(piece.full, memory, lambda state: reads.append(state))
            tokens = read[:, None] + torch.arange(int(piece.lengths.max()))
            state = state.extend(tokens[:, :, None].float(), piece.lengths, Reported(piece.lengths))
            read = read + piece.lengths
            for row, count in enumerate(read.tolist()):
                written = [number for number in state.long_term.numbers[row].tolist() if number >= 0]
                first, recent, segment = (vectors(part, row) for part in (state.sinks, state.window, state.segment))
                assert first + written + recent + segment == list(range(count))
                assert len(first) == sinks or not written
                assert len(segment) == ((count - 1) % SEGMENT + 1 if count else 0)
                assert len(recent) == min(window, count - len(segment))
    assert len(reads) == again
