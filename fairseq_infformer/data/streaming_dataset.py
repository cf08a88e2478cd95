"""A corpus as parallel streams of consecutive segments."""

from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import ConcatDataset, FairseqDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from torch import Tensor


class TokenStream:
    """The tokens of lines of text, end to end.

    Args:
        lines: sequence of 1-d tensors of tokens, such as an indexed dataset.
        sizes: the number of tokens of each line.
    """

    def __init__(self, lines: Any, sizes: np.ndarray) -> None:
        self.lines = lines
        self.ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> Tensor:
        """Tokens start … stop - 1, (stop - start,) int64."""
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        parts = []
        for line in range(first, last + 1):
            begin = int(self.ends[line - 1]) if line else 0
            parts.append(self._part(line, max(0, start - begin), min(stop, int(self.ends[line])) - begin))
        return torch.cat(parts)

    def _part(self, line: int, start: int, stop: int) -> Tensor:
        lines = self.lines
        if isinstance(lines, ConcatDataset):
            number, line = lines._get_dataset_and_sample_index(line)
            lines = lines.datasets[number]
        if not isinstance(lines, MMapIndexedDataset):
            return lines[line][start:stop].long()
        # Indexing it copies the whole line, and a corpus may be a single line.
        offset, dtype = int(lines._index._pointers[line]), np.dtype(lines._index.dtype)
        tokens = np.frombuffer(lines._bin_buffer, dtype, stop - start, offset + start * dtype.itemsize)
        return torch.from_numpy(tokens.astype(np.int64))

    def find(self, token: int, block: int = 1 << 20) -> np.ndarray:
        """Offsets of ``token``, in order; the search reads ``block`` tokens at a time."""
        offsets = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(self), block):
            offsets.append(start + np.flatnonzero(self.read(start, min(start + block, len(self))).numpy() == token))
        return np.concatenate(offsets)


class Streams(FairseqDataset):
    """Consecutive samples of S streams: item ``k * S + s`` is sample k of stream s."""

    num_streams: int  # S
    tokens_per_sample: int  # T, of one segment
    segments_per_sample = 1

    def batches(self, num_shards: int) -> list[range]:
        """The batches of all ranks, in the order fairseq assigns them: batch ``k * num_shards + r`` is rank r's k-th.

        Every rank has the same number of batches and always the same rows.
        """
        rows = self.num_streams // num_shards
        return [range(first, first + rows) for first in range(0, len(self), rows)]

    def num_tokens(self, index: int) -> int:
        return self.segments_per_sample * self.tokens_per_sample

    size = num_tokens

    def ordered_indices(self) -> np.ndarray:
        return np.arange(len(self))


class StreamingDataset(Streams):
    """Every token of a corpus as a target exactly once, in S streams of segments of up to T tokens.

    The corpus is cut into documents, the documents into segments of T targets (the last one of a document may be
    shorter), and the row of segments into S consecutive streams of equal size up to one segment. Row s of batch k is
    segment k of stream s. A target is predicted from the tokens before it; the input of the first target of a
    document is ``eos``, so N + 1 tokens are read for N targets and no token of another document is seen.

    If ``answers`` are given, only their tokens are targets: all others are read too, but their targets are ``pad``.

    The dataset holds no state: item ``k * S + s`` is always the same segment.

    Args:
        tokens: the corpus.
        documents: offsets (D,) of the tokens that start a document, the first of them 0.
        tokens_per_sample: T.
        eos, pad: indices of the dictionary.
        num_streams: S, at most the number of segments.
        answers: offsets (A, 2) at which answers start and stop, in order; absent: every token is a target.
    """

    def __init__(
        self,
        tokens: TokenStream,
        documents: np.ndarray,
        tokens_per_sample: int,
        eos: int,
        pad: int,
        *,
        num_streams: int = 1,
        answers: Optional[np.ndarray] = None,
    ) -> None:
        super().__init__()
        self.tokens, self.documents, self.tokens_per_sample = tokens, documents, tokens_per_sample
        self.eos, self.pad, self.num_streams = eos, pad, num_streams
        self.answers = answers
        ends = np.append(documents[1:], len(tokens))
        counts = -(-(ends - documents) // tokens_per_sample)
        self.num_segments = int(counts.sum())
        within = np.arange(self.num_segments) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts = np.repeat(documents, counts) + tokens_per_sample * within
        self.lengths = np.minimum(np.repeat(ends, counts) - self.starts, tokens_per_sample)
        self.opens_document = within == 0
        if not 1 <= num_streams <= self.num_segments:
            raise ValueError(
                f"{num_streams} streams (batch size × ranks) are more than the {self.num_segments} segments of "
                f"{tokens_per_sample} tokens in the data; give a smaller --batch-size (--batch-size-valid for "
                "validation data) or --tokens-per-sample"
            )
        size, longer = divmod(self.num_segments, num_streams)
        self.stream_sizes = size + (np.arange(num_streams) < longer)
        self.stream_starts = np.cumsum(self.stream_sizes) - self.stream_sizes
        self.is_scored = self._count_answered() > 0

    def _count_answered(self) -> np.ndarray:
        """How many answers reach into each segment."""
        if self.answers is None:
            return np.ones(self.num_segments, dtype=np.int64)
        begun = np.searchsorted(self.answers[:, 0], self.starts + self.lengths, side="left")
        return begun - np.searchsorted(self.answers[:, 1], self.starts, side="right")

    def in_streams(self, num_streams: int) -> "StreamingDataset":
        """The same corpus in another number of streams."""
        return StreamingDataset(
            self.tokens,
            self.documents,
            self.tokens_per_sample,
            self.eos,
            self.pad,
            num_streams=num_streams,
            answers=self.answers,
        )

    def __len__(self) -> int:
        return int(self.stream_sizes.max()) * self.num_streams

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, stream = divmod(index, self.num_streams)
        if number >= self.stream_sizes[stream]:  # this stream is one segment shorter than the longest
            nothing = torch.empty(0, dtype=torch.int64)
            return {"id": index, "segment": number, "start": 0, "source": nothing, "target": nothing, "reset": False}
        segment = self.stream_starts[stream] + number
        start, length = int(self.starts[segment]), int(self.lengths[segment])
        if self.opens_document[segment]:
            target = self.tokens.read(start, start + length)
            source = torch.cat([target.new_tensor([self.eos]), target[:-1]])
        else:
            both = self.tokens.read(start - 1, start + length)
            source, target = both[:-1], both[1:]
        if self.answers is not None:
            offset = np.arange(start, start + length)
            answer = np.searchsorted(self.answers[:, 0], offset, side="right") - 1
            inside = (answer >= 0) & (offset < self.answers[answer, 1])
            target = target.masked_fill(torch.from_numpy(~inside), self.pad)
        reset = number == 0 or bool(self.opens_document[segment])
        return {"id": index, "segment": number, "start": start, "source": source, "target": target, "reset": reset}

    def collater(self, samples: list[dict[str, Any]]) -> Optional[dict[str, Any]]:
        """One segment of each row, padded on the right to T, with the offset (B,) in the corpus of its first token.

        ``lengths`` and ``reset`` are numpy arrays, which fairseq leaves on the host when it moves the batch to a
        device, so that decisions based on them never wait for the device.
        """
        if not samples:
            return None
        lengths = np.array([len(sample["target"]) for sample in samples])
        target = self._stack([sample["target"] for sample in samples])
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "start": np.array([sample["start"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(target.ne(self.pad).sum()),
            "scored": self._any_scored(samples[0]["segment"]),
            "net_input": {
                "src_tokens": self._stack([sample["source"] for sample in samples]),
                "src_lengths": torch.from_numpy(lengths),
                "segment": samples[0]["segment"],
                "lengths": lengths,
                "reset": np.array([sample["reset"] for sample in samples]),
            },
            "target": target,
        }

    def _any_scored(self, number: int) -> bool:
        """Whether any stream of any rank has a target in its segment of this number."""
        segments = self.stream_starts[number < self.stream_sizes] + number
        return bool(self.is_scored[segments].any())

    def _stack(self, rows: list[Tensor]) -> Tensor:
        batch = torch.full((len(rows), self.tokens_per_sample), self.pad)
        for padded, row in zip(batch, rows):
            padded[: len(row)] = row
        return batch
