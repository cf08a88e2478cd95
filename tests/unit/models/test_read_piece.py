"""A text read in pieces, or token by token, gives the logits of its segments; rows may be at different tokens."""

import numpy as np
import pytest
import torch
from small_model import TYPES, VARIANTS, build, build_memformer, run, same_text
from torch import Tensor

from fairseq_infformer.models.streaming_decoder import StreamingDecoder
from fairseq_infformer.modules.streams import pieces

SEGMENT = 5


def text(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(4, TYPES, size=(rows, length)))


class Reader:
    """Reads texts in calls of any lengths, and keeps the streams and the logits of every token."""

    def __init__(self, decoder: StreamingDecoder, rows: int) -> None:
        self.decoder, self.streams = decoder, decoder.empty_streams(rows)
        self.start, self.logits = torch.zeros(rows, dtype=torch.int64), [[] for _ in range(rows)]

    def read(self, tokens: Tensor, lengths: list[int] | None = None) -> None:
        lengths = torch.tensor(lengths or [tokens.shape[1]] * len(tokens))
        for piece in pieces(lengths, self.start, SEGMENT):
            columns = piece.first[:, None] + torch.arange(int(piece.lengths.max()))
            part = tokens.gather(1, columns.clamp(max=tokens.shape[1] - 1))
            features, self.streams = self.decoder.read_piece(piece, part, self.streams)
            for row, logits in enumerate(self.decoder.output_layer(features)):
                self.logits[row].append(logits[: piece.lengths[row]])
            self.start = piece.start + piece.lengths

    def of(self, row: int) -> Tensor:
        return torch.cat(self.logits[row])


def models():
    yield from (pytest.param(build, settings, id=str(settings) or "{}") for settings in VARIANTS)
    yield pytest.param(build_memformer, {}, id="memformer")
    yield pytest.param(build_memformer, {"long_term_memory": "none"}, id="memformer without memory")


@torch.no_grad()
@pytest.mark.parametrize(("make", "settings"), models())
def test_read_piece_equals_whole_segments_for_rows_at_different_tokens(make, settings):
    """Row 0 token by token, row 1 in parts, of which some end segments, row 2 comes later and is shorter."""
    model, tokens = make(**settings), text(rows=3, length=23)
    calls = [(1, 3, 0), (1, 2, 0), (1, 6, 4), *[(1, 1, 1)] * 11, (9, 1, 0)]
    lengths = torch.tensor(calls)
    reader, read = Reader(model.decoder, rows=3), torch.zeros(3, dtype=torch.int64)
    for call in lengths:
        columns = (read[:, None] + torch.arange(int(call.max()))).clamp(max=22)
        reader.read(tokens.gather(1, columns), call.tolist())
        read = read + call
    assert read.tolist() == [23, 23, 15]
    for row in range(3):
        same_text(reader.of(row), run(model, tokens[row : row + 1, : read[row]], SEGMENT)[0])


@torch.no_grad()
@pytest.mark.parametrize(("make", "settings"), models())
def test_read_piece_continues_other_rows_after_a_reorder(make, settings):
    """In the middle of segments of different lengths, as in a beam search."""
    model, tokens, order = make(**settings), text(rows=3, length=22), torch.tensor([2, 0, 0, 1])
    reader = Reader(model.decoder, rows=3)
    reader.read(tokens, [13, 22, 17])
    later = Reader(model.decoder, rows=4)
    later.streams = tuple(stream.reorder(order) for stream in reader.streams)
    later.start = reader.start[order]
    more = text(rows=4, length=7, seed=1)
    for token in more.split(1, dim=1):
        later.read(token)
    for row, (source, length) in enumerate(zip(order.tolist(), [17, 13, 13, 22])):
        whole = torch.cat([tokens[source, :length], more[row]])[None]
        same_text(later.of(row), run(model, whole, SEGMENT)[0, length:])


@torch.no_grad()
@pytest.mark.parametrize(("make", "settings"), models())
def test_continue_from_scores_what_follows_full_segments(make, settings):
    """Full segments that are still open are committed with the next one, as they would be."""
    model, tokens = make(**settings), text(rows=2, length=4 * SEGMENT)
    reader = Reader(model.decoder, rows=2)
    reader.read(tokens[:, : 2 * SEGMENT + 1])
    reader.read(tokens[:, 2 * SEGMENT + 1 : 3 * SEGMENT])
    model.decoder.continue_from(reader.streams)
    logits, _ = model(tokens[:, 3 * SEGMENT :], segment=0, reset=np.zeros(2, dtype=bool))
    same_text(logits, run(model, tokens, SEGMENT)[:, 3 * SEGMENT :])
