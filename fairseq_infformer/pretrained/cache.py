"""The streams of a batch between two calls, as the cache that ``transformers`` passes on."""

from typing import Optional

import torch
from torch import Tensor
from transformers import Cache

from fairseq_infformer.errors import InputError
from fairseq_infformer.modules.state import reordered

from .attention import LayerStream


class StreamCache(Cache):
    """Window, open segment and memory of every layer. Its size does not grow with what was read.

    Unlike other caches it cannot be cropped: what a memory has taken in, it cannot give back.
    """

    is_compileable, is_croppable, is_initialized = False, False, True
    is_linear, is_sliding, is_dummy = [False], [False], [False]  # of the one layer that ``generate`` asks about

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.streams: Optional[tuple[LayerStream, ...]] = None  # by layer; None before any text
        self.columns = 0  # of the input, pads included, that were read

    def advance(self, streams: tuple[LayerStream, ...], columns: int) -> None:
        """Keep the streams after a call that read this many columns of its input."""
        self.streams, self.columns = streams, self.columns + columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the input that were read, from which ``generate`` knows the new ones."""
        return self.columns

    def get_max_length(self, layer_idx: Optional[int] = None) -> int:
        """-1: there is none."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i continue from what was row ``beam_idx[i]``; there may be more rows or fewer."""
        if self.streams is not None:
            self.streams = reordered(self.streams, beam_idx)

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Let as many rows continue from each row."""
        if self.streams is not None:
            rows = len(self.streams[0].state.window.lengths)
            self.reorder_cache(torch.arange(rows).repeat_interleave(repeats))

    def reset(self, rows: Optional[Tensor] = None) -> None:
        """Forget all, or the rows of the mask ``rows`` (B,), which then start a new text."""
        if rows is None:
            self.streams, self.columns = None, 0
        elif self.streams is not None:
            self.streams = tuple(stream.reset(rows.cpu()) for stream in self.streams)

    def crop(self, tokens_to_remove: int) -> None:
        """InputError, unless there is nothing to do."""
        if tokens_to_remove:
            raise InputError("a memory cannot give back what it has read: decode without an assistant")

    def __len__(self) -> int:
        return 0 if self.streams is None else len(self.streams)
