"""The ∞-former's decoder: layers over a segment, and their memory from one segment to the next."""

import logging
import zlib
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqDecoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.memories import Figure, SettingError
from fairseq_infformer.modules.replay import replay, unroll

from . import memory_format
from .configuration import InfiniteFormerConfig
from .stream_memory import StreamMemory, next_memory
from .vocabulary_layers import adaptive_softmax, output_projection, position_embedding

logger = logging.getLogger(__name__)


class InfiniteFormerDecoder(FairseqDecoder):
    """Embeds a segment, passes it through the layers, and keeps their memory for the next one.

    The memory of training and that of evaluation are separate. Each is committed once per segment: if a segment is
    passed again, or the first segment of the update, the forward pass starts from the memory before it.
    """

    def __init__(
        self,
        cfg: InfiniteFormerConfig,
        dictionary: Dictionary,
        embed_tokens: nn.Module,
        layers: list[InfiniteFormerLayer],
    ) -> None:
        super().__init__(dictionary)
        self.cfg = cfg
        self.embed_tokens = embed_tokens
        self.embed_scale = 1.0 if cfg.adaptive_input or cfg.no_scale_embedding else cfg.decoder_embed_dim**0.5
        self.embed_positions = position_embedding(cfg)
        self.layers = nn.ModuleList(layers)
        self.final_norm = nn.LayerNorm(cfg.decoder_embed_dim)
        self.adaptive_softmax = adaptive_softmax(cfg, dictionary, embed_tokens)
        self.output_projection: Optional[nn.Linear] = None
        if self.adaptive_softmax is None:
            self.output_projection = output_projection(cfg, dictionary, embed_tokens)
        self.streams: dict[bool, StreamMemory] = {}  # by self.training
        self.num_updates: Optional[int] = None
        # Without it, a checkpoint would be scored with another dictionary of the same size, and nobody would notice.
        self.register_buffer("dictionary_checksum", torch.tensor(dictionary_checksum(dictionary), dtype=torch.int64))

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Optional[Tensor] = None,
        segment: Optional[int] = None,
        lengths: Optional[np.ndarray] = None,
        reset: Optional[np.ndarray] = None,
        scored: Optional[Tensor] = None,
        replayed: bool = False,
        features_only: bool = False,
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
            features_only: leave out the output layer.

        Returns:
            logits (B, K · T, V), or features (B, K · T, C) under the adaptive softmax or with ``features_only``; with
            ``scored`` (n, V) or (n, C), in the order of the rows. And a dict: ``attn`` (None) and ``figures``, those of
            each layer's read, see ``LongTermMemory.figures``.

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
            features, figures = self.extract_features(src_tokens, segment, lengths, reset, replayed)
        except SettingError as error:  # of an ablation
            raise InputError(f"{error.problem}; give --batch-size 2 or more") from error
        if scored is not None:
            features = features[scored]
        if not features_only:
            features = self.output_layer(features)
        return features, {"attn": None, "figures": figures}

    def output_layer(self, features: Tensor) -> Tensor:
        """Logits (..., V) for features (..., C), which the adaptive softmax takes as they are."""
        return features if self.output_projection is None else self.output_projection(features)

    def extract_features(
        self, src_tokens: Tensor, segment: int, lengths: np.ndarray, reset: np.ndarray, replayed: bool = False
    ) -> tuple[Tensor, list[dict[str, Figure]]]:
        """Hidden states (B, K · T, C) after the last layer, and the figures of the long-term memories' reads."""
        rows = len(src_tokens)
        in_row, empty = (torch.from_numpy(each).view(rows, -1) for each in (lengths, reset))
        before = self._memory_before(segment, empty[:, 0])
        tokens = src_tokens.unflatten(1, (in_row.shape[1], -1))
        inputs = zip(tokens.unbind(1), in_row.unbind(1), empty.unbind(1))
        after, outputs = (replay if replayed else unroll)(self._segment, before, inputs)
        update = self.num_updates if self.training else None
        after = tuple(state.detach() for state in after)
        self.streams[self.training] = next_memory(self.streams.get(self.training), segment, before, after, update)
        features, figures = zip(*outputs)
        return torch.cat(features, dim=1), [joined(layer) for layer in zip(*figures)]

    def _segment(
        self, before: tuple[LayerState, ...], segment: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[tuple[LayerState, ...], tuple[Tensor, list[dict[str, Figure]]]]:
        """The states after a segment, and what ``extract_features`` returns for it."""
        tokens, in_row, empty = segment
        x = F.dropout(self._embed(tokens), self.cfg.dropout, self.training)
        x, figures, after = self._through_layers(x, in_row, empty, before)
        return after, (self.final_norm(x), figures)

    def _through_layers(
        self, x: Tensor, in_row: Tensor, empty: Tensor, before: tuple[LayerState, ...]
    ) -> tuple[Tensor, list[dict[str, Figure]], tuple[LayerState, ...]]:
        after = []
        for layer, state in zip(self.layers, before):
            state = layer.advance(state, empty)
            if self.cfg.checkpoint_activations and torch.is_grad_enabled():
                x, then = checkpoint(layer, x, in_row, state, use_reentrant=False)
            else:
                x, then = layer(x, in_row, state)
            after.append(then)
        figures = [
            layer.long_term_memory.figures(state.report)
            for layer, state in zip(self.layers, after)
            if state.report is not None
        ]
        return x, figures, tuple(after)

    def _embed(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens) * self.embed_scale
        if self.cfg.adaptive_input:  # DDP waits for the gradients of every band, with words or without
            x = x + sum(band(tokens[:0]).sum() for band in self.embed_tokens.embeddings)
        if self.embed_positions is not None:
            self.check_length(tokens.shape[1])
            x = x + self.embed_positions.weight[: tokens.shape[1]]
        return x

    def set_num_updates(self, num_updates: int) -> None:
        """Note which update the next segments belong to; fairseq calls this before every forward pass of training."""
        self.num_updates = num_updates

    def _memory_before(self, segment: int, reset: Tensor) -> tuple[LayerState, ...]:
        x = self.final_norm.weight.new_zeros(len(reset), 1, self.cfg.decoder_embed_dim)
        memory = self.streams.get(self.training)
        if memory is None or bool(reset.all()):
            if not bool(reset.all()):
                logger.warning(f"there is no memory of the text before segment {segment}: the memory starts empty")
            return tuple(layer.initial_state(x) for layer in self.layers)
        states = memory.start_of(segment)
        if states is None:
            logger.warning(
                f"the memory ends with segment {memory.segment}, but the batch is segment {segment}: the memory starts "
                "empty, because the segments in between were not read"
            )
            return tuple(layer.initial_state(x) for layer in self.layers)
        rows = states[0].recent.hidden.shape[0]
        if rows != x.shape[0]:
            raise InputError(
                f"the memory has {rows} rows, but the batch has {x.shape[0]}; streams can continue only with the batch "
                "size they started with"
            )
        return states

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
        x = self.final_norm.weight.new_zeros(rows, 1, self.cfg.decoder_embed_dim)
        one, new = torch.ones(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool)
        empty = tuple(layer.initial_state(x) for layer in self.layers)
        # A segment of one token gives states like those to load, whatever memory the layers have.
        *_, like = self._through_layers(x, one, new, empty)
        self.streams[True] = StreamMemory(None, memory_format.states_from(memory, number, like, empty))

    def max_positions(self) -> int:
        """The longest possible segment: of any length, unless positions are learned."""
        return 2**31 - 1 if self.embed_positions is None else self.embed_positions.num_embeddings

    def check_length(self, tokens: int) -> None:
        """InputError if segments of this many tokens are longer than the model has positions for."""
        if tokens > self.max_positions():
            raise InputError(
                f"the model has {self.max_positions()} learned positions, too few for segments of {tokens} tokens; "
                f"give --tokens-per-sample {self.max_positions()} or less"
            )


def joined(segments: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    """The figures of one layer's reads, segment after segment, as those of one read."""
    return {
        name: figure._replace(value=torch.cat([figures[name].value for figures in segments], dim=-1))
        for name, figure in segments[0].items()
    }


def dictionary_checksum(dictionary: Dictionary) -> int:
    """A number that differs between dictionaries with different words, or with the same words in another order."""
    return zlib.crc32("\n".join(dictionary.symbols).encode())
