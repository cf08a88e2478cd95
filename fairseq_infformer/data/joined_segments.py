"""Several consecutive segments of each stream as one sample, so that gradients reach from the last to the first."""

from typing import Any, Optional

import numpy as np
import torch

from fairseq_infformer.data.streaming_dataset import StreamingDataset, Streams


class JoinedSegments(Streams):
    """The streams of a corpus, K segments at a time. Row s of batch k is segments k·K to k·K + K − 1 of stream s.

    Batches are those of ``StreamingDataset`` with the segments of a row side by side: tokens (B, K·T), and ``lengths``,
    ``reset`` and ``start`` (B, K). Where a stream has no segment left, its length is 0.

    Args:
        streams: the corpus in S streams.
        segments_per_sample: K, at most the number of segments of the longest stream.
        replayed: let the model keep the activations of one segment at a time, see ``modules.replay``.
    """

    def __init__(self, streams: StreamingDataset, segments_per_sample: int, replayed: bool = False) -> None:
        super().__init__()
        longest = int(streams.stream_sizes.max())
        if segments_per_sample > longest:
            raise ValueError(
                f"--bptt-segments {segments_per_sample} is more than the {longest} segments that each of the "
                f"{streams.num_streams} streams has; give a smaller one, a smaller --batch-size or a smaller "
                "--tokens-per-sample"
            )
        self.streams, self.segments_per_sample, self.replayed = streams, segments_per_sample, replayed
        self.num_streams, self.tokens_per_sample = streams.num_streams, streams.tokens_per_sample
        self.tokens, self.documents = streams.tokens, streams.documents

    def __len__(self) -> int:
        longest = int(self.streams.stream_sizes.max())
        return -(-longest // self.segments_per_sample) * self.num_streams

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        number, stream = divmod(index, self.num_streams)
        first = number * self.segments_per_sample
        return [self.streams[(first + k) * self.num_streams + stream] for k in range(self.segments_per_sample)]

    def collater(self, samples: list[list[dict[str, Any]]]) -> Optional[dict[str, Any]]:
        """K segments of each row as one sample, the number of which stands where that of a segment stood."""
        if not samples:
            return None
        segments = [self.streams.collater(list(rows)) for rows in zip(*samples)]
        inputs = [segment["net_input"] for segment in segments]
        return {
            "id": segments[0]["id"],
            "start": np.stack([segment["start"] for segment in segments], axis=1),
            "nsentences": len(samples),
            "ntokens": sum(segment["ntokens"] for segment in segments),
            "scored": any(segment["scored"] for segment in segments),
            "net_input": {
                "src_tokens": torch.cat([each["src_tokens"] for each in inputs], dim=1),
                "src_lengths": torch.stack([each["src_lengths"] for each in inputs], dim=1),
                "segment": inputs[0]["segment"] // self.segments_per_sample,
                "lengths": np.stack([each["lengths"] for each in inputs], axis=1),
                "reset": np.stack([each["reset"] for each in inputs], axis=1),
                "replayed": self.replayed,
            },
            "target": torch.cat([segment["target"] for segment in segments], dim=1),
        }
