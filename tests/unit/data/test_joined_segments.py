"""Samples of several consecutive segments hold what those segments hold."""

import numpy as np
import pytest
import torch

from fairseq_infformer.data.joined_segments import JoinedSegments
from fairseq_infformer.data.streaming_dataset import StreamingDataset, Streams, TokenStream

EOS, PAD = 2, 1


def streams(num_streams: int = 3, length: int = 4) -> StreamingDataset:
    tokens = torch.arange(10, 113)
    lines = TokenStream([tokens], np.array([len(tokens)]))
    return StreamingDataset(lines, np.array([0, 1, 40, 41, 60]), length, EOS, PAD, num_streams=num_streams)


def batches(data: Streams) -> list[dict]:
    return [data.collater([data[i] for i in batch]) for batch in data.batches(1)]


@pytest.mark.parametrize("segments", [1, 2, 4, 9, 10])
def test_joined_segments_are_those_of_the_streams_side_by_side(segments):
    alone, joined = batches(streams()), batches(JoinedSegments(streams(), segments))
    assert len(joined) == -(-len(alone) // segments)
    for name in ("src_tokens", "target"):
        parts = [torch.cat([b["target"] if name == "target" else b["net_input"][name] for b in joined], dim=1)]
        parts.append(torch.cat([b["target"] if name == "target" else b["net_input"][name] for b in alone], dim=1))
        width = parts[1].shape[1]
        assert parts[0][:, :width].equal(parts[1])
        assert (parts[0][:, width:] == PAD).all()
    for name in ("lengths", "reset"):
        together = np.concatenate([b["net_input"][name] for b in joined], axis=1)
        one_by_one = np.stack([b["net_input"][name] for b in alone], axis=1)
        assert (together[:, : len(alone)] == one_by_one).all()
        assert not together[:, len(alone) :].any()
    assert [b["net_input"]["segment"] for b in joined] == list(range(len(joined)))
    assert sum(b["ntokens"] for b in joined) == 103


def test_joined_segments_are_at_most_those_of_a_stream():
    with pytest.raises(ValueError, match="--bptt-segments 11 is more than the 10 segments that each of the 3 streams"):
        JoinedSegments(streams(), 11)
