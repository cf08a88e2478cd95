"""What the decoders have in common: the memory of their streams from one segment to the next."""

import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqDecoder
from torch import Tensor

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.memories import Figure, LongTermMemory, SettingError
from fairseq_infformer.modules.replay import replay, summed, unroll
from fairseq_infformer.modules.state import named_tensors
from fairseq_infformer.modules.streams import Piece

from . import memory_format
from .stream_memory import StreamMemory, next_memory

logger = logging.getLogger(__name__)


class StreamingDecoder(FairseqDecoder, ABC):
    """Reads streams segment by segment, and keeps what its layers remember for the next one.

    The memory of training and that of evaluation are separate. Each is committed once per segment: if a segment is
    passed again, or the first segment of the update, the forward pass starts from the memory before it.

    A subclass has the layers. Their states are a NamedTuple per layer, whose tensors have the rows as first axis.
    """

    sinks = 0  # how many of the first tokens of a text never reach the long-term memories

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__(dictionary)
        self.streams: dict[bool, StreamMemory] = {}  # by self.training
        self.num_updates: Optional[int] = None
        # Without it, a checkpoint would be scored with another dictionary of the same size, and nobody would notice.
        self.register_buffer("dictionary_checksum", torch.tensor(dictionary_checksum(dictionary), dtype=torch.int64))

    @abstractmethod
    def initial_state(self, batch_size: int) -> tuple[NamedTuple, ...]:
        """The states of the layers before any text."""

    @abstractmethod
    def read_segment(
        self, before: tuple[NamedTuple, ...], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[NamedTuple, ...], tuple[Any, list[dict[str, Figure]]]]:
        """A step of ``modules.replay``: it changes nothing but what it returns.

        Args:
            before: the states. segment: tokens (B, T); how many of them are text (B,), from the left; and the rows
                (B,) bool that start empty. The last two are on the CPU.

        Returns:
            the states after the segment; what ``features`` makes hidden states of; and the figures of the read of each
            long-term memory.
        """

    @abstractmethod
    def empty_streams(self, batch_size: int) -> tuple[NamedTuple, ...]:
        """Streams that stop anywhere in a segment, see ``modules.streams``, before any text; one value per layer."""

    @abstractmethod
    def read_piece(
        self, piece: Piece, tokens: Tensor, streams: tuple[NamedTuple, ...]
    ) -> tuple[Tensor, tuple[NamedTuple, ...]]:
        """Hidden states (B, T, C) of a piece with these tokens (B, T), which ``output_layer`` takes, and the streams
        after it. The hidden states of the pieces of a segment are those of the segment as a whole."""

    @abstractmethod
    def between_segments(self, streams: tuple[NamedTuple, ...]) -> tuple[NamedTuple, ...]:
        """The states from which ``read_segment`` continues, if the open segments of streams end with what they have."""

    def kept(self, streams: tuple[NamedTuple, ...]) -> tuple[NamedTuple, ...]:
        """The part of streams from which the rest follows, for a file: by default all."""
        return streams

    def continued(self, kept: tuple[NamedTuple, ...]) -> tuple[NamedTuple, ...]:
        """The streams whose ``kept`` this is."""
        return kept

    def features(self, output: Any) -> Tensor:
        """Hidden states (B, T, C) of a segment, which ``output_layer`` takes, by what no later segment needs.

        Args:
            output: of ``read_segment``, by default these hidden states.
        """
        return output

    @abstractmethod
    def output_layer(self, features: Tensor) -> Tensor:
        """Logits (..., V) for features (..., C), which an adaptive softmax takes as they are."""

    def long_term_memories(self) -> dict[int, LongTermMemory]:
        """The memories of layers, by their numbers. By default none."""
        return {}

    def ends_of_texts(self) -> list[int]:
        """The tokens that end a text. By default none: ``</s>`` ends a line, and the text continues."""
        return []

    def with_end(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (B, V) as fairseq's generators take them: of the words of the dictionary, where ``</s>``
        ends what is generated, a line or, where there are ``ends_of_texts``, a text."""
        return log_probs

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        segment: Optional[int] = None,
        lengths: Optional[np.ndarray] = None,
        reset: Optional[np.ndarray] = None,
        scored: Optional[Tensor] = None,
        replayed: bool = False,
        objective: Optional[Callable[[Tensor, int], Tensor]] = None,
        **unused: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Score one segment of each stream, or K consecutive ones, through which gradients go.

        Args:
            src_tokens: (B, T), or (B, K · T), segment after segment. src_lengths: not used.
            segment: the number in its stream of the segment, or of the K together; the memory continues from the ones
                before.
            lengths: (B,) or (B, K) int, on the host: how many of the T tokens of each row are text, from the left;
                None: all of one segment.
            reset: (B,) or (B, K) bool, on the host: the rows that start with an empty memory; None: all of segment 0.
            scored: (B, K · T) bool: the n positions whose next words are wanted, None: all. An output layer costs as
                much as several others, and if only answers are scored, most of that would be wasted.
            replayed: keep the activations of one segment at a time, see ``modules.replay``.
            objective: gives a scalar for what the output layer gives of a segment, (B, T, V) or (B, T, C), and the
                segment's number in the sample. The model then returns their sum instead, and computes its gradients
                segment by segment, see ``modules.replay.summed``.

        Returns:
            logits (B, K · T, V), or features (B, K · T, C) under the adaptive softmax; with ``scored`` (n, V) or
            (n, C), in the order of the rows. And a dict: ``attn`` (None) and ``figures``, those of each layer's read,
            see ``LongTermMemory.figures``.

        Raises:
            InputError: if there is no ``segment``, or a row cannot continue or read another's memory.
        """
        if segment is None:
            raise InputError(
                "the batch does not say which segment of its streams it is, so its memory would be wrong; give "
                "--task streaming_language_modeling"
            )
        rows, width = src_tokens.shape
        lengths = np.full(rows, width) if lengths is None else lengths
        reset = np.full(rows, segment == 0) if reset is None else reset
        try:
            outputs, figures = self.read_segments(src_tokens, segment, lengths, reset, replayed)
        except SettingError as error:  # of an ablation
            raise InputError(f"{error.problem}; give --batch-size 2 or more") from error
        extra = {"attn": None, "figures": figures}
        if objective is not None:

            def by_segment(numbered: tuple[int, Any]) -> Tensor:
                number, output = numbered
                features = self.features(output)
                if scored is not None:
                    width = features.shape[1]
                    features = features[scored[:, number * width : (number + 1) * width]]
                return objective(self.output_layer(features), number)

            return summed(by_segment, enumerate(outputs), self.parameters()), extra
        features = torch.cat([self.features(output) for output in outputs], dim=1)
        return self.output_layer(features if scored is None else features[scored]), extra

    def read_segments(
        self, src_tokens: Tensor, segment: int, lengths: np.ndarray, reset: np.ndarray, replayed: bool = False
    ) -> tuple[list[Any], list[dict[str, Figure]]]:
        """What ``features`` takes of each segment, and the figures of the long-term memories' reads of all."""
        rows = len(src_tokens)
        in_row, empty = (torch.from_numpy(each).view(rows, -1) for each in (lengths, reset))
        before = self._memory_before(segment, empty[:, 0])
        tokens = src_tokens.unflatten(1, (in_row.shape[1], -1))
        inputs = zip(tokens.unbind(1), in_row.unbind(1), empty.unbind(1))
        after, outputs = (replay if replayed else unroll)(self.read_segment, before, inputs)
        update = self.num_updates if self.training else None
        after = tuple(state.detach() for state in after)
        self.streams[self.training] = next_memory(self.streams.get(self.training), segment, before, after, update)
        outputs, figures = zip(*outputs)
        return list(outputs), [joined(layer) for layer in zip(*figures)]

    def set_num_updates(self, num_updates: int) -> None:
        """Note which update the next segments belong to; fairseq calls this before every forward pass of training."""
        self.num_updates = num_updates

    def _memory_before(self, segment: int, reset: Tensor) -> tuple[NamedTuple, ...]:
        rows, memory = len(reset), self.streams.get(self.training)
        if memory is None or bool(reset.all()):
            if not bool(reset.all()):
                logger.warning(f"there is no memory of the text before segment {segment}: the memory starts empty")
            return self.initial_state(rows)
        states = memory.start_of(segment)
        if states is None:
            logger.warning(
                f"the memory ends with segment {memory.segment}, but the batch is segment {segment}: the memory starts "
                "empty, because the segments in between were not read"
            )
            return self.initial_state(rows)
        known = len(next(iter(named_tensors(states[0]).values())))
        if known != rows:
            raise InputError(
                f"the memory has {known} rows, but the batch has {rows}; streams can continue only with the batch size "
                "they started with"
            )
        return states

    def continue_from(self, streams: tuple[NamedTuple, ...]) -> None:
        """Let evaluation continue from streams, with the next segment that does not reset its rows."""
        self.streams[False] = StreamMemory(None, self.between_segments(streams))

    def state_bytes(self) -> int:
        """How many bytes evaluation keeps of one stream between two segments; 0 before it has read any."""
        memory = self.streams.get(False)
        tensors = [] if memory is None else list(memory_format.tensors_of(memory.after).values())
        return sum(tensor.nbytes // len(tensor) for tensor in tensors)

    def memory_state(self) -> dict[str, Tensor]:
        """The memory of training after its last segment, see ``memory_format``."""
        memory = self.streams.get(True)
        return {} if memory is None else memory_format.tensors_of(memory.after)

    @torch.no_grad()
    def load_memory_state(self, memory: dict[str, Tensor], number: int = memory_format.MEMORY_FORMAT) -> None:
        """Let training continue from what ``memory_state`` returned, in the format of this number.

        Raises:
            InputError: if a different model, or a later version, wrote it.
        """
        rows = next(iter(memory.values())).shape[0]
        empty = self.initial_state(rows)
        # A segment of one token gives states like those to load, whatever memory the layers have.
        token = torch.full((rows, 1), self.dictionary.eos(), device=self.dictionary_checksum.device)
        one, new = torch.ones(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
        like, _ = self.read_segment(empty, (token, one, new))
        self.streams[True] = StreamMemory(None, memory_format.states_from(memory, number, like, empty))


def joined(segments: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    """The figures of one layer's reads, segment after segment, as those of one read."""
    return {
        name: figure._replace(value=torch.cat([figures[name].value for figures in segments], dim=-1))
        for name, figure in segments[0].items()
    }


def dictionary_checksum(dictionary: Dictionary) -> int:
    """A number that differs between dictionaries with different words, or with the same words in another order."""
    return zlib.crc32("\n".join(dictionary.symbols).encode())
