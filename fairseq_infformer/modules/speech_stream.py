"""Speech that comes in parts, and its states as early as they can be known."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .streaming_encoder import StreamingEncoder
from .whole_encoder import WholeEncoder


class SpeechStream(ABC):
    """One stream of frames."""

    @abstractmethod
    def push(self, frames: Tensor, last: bool = False) -> tuple[int, Tensor]:
        """The states after more frames.

        Args:
            frames: (L, features). last: whether the stream ends with them.

        Returns:
            the number n of a state, from 0, and the states (S, C) from n on: those that are new, or have changed.
        """


class SegmentStream(SpeechStream):
    """Encodes each segment once, as soon as its right context is there; what it keeps does not grow."""

    def __init__(self, encoder: StreamingEncoder) -> None:
        like = encoder.norm.weight
        self.encoder, self.state = encoder, encoder.initial_state(1, like)
        self.waiting, self.count = like.new_zeros(0, encoder.features), 0

    @torch.no_grad()
    def push(self, frames: Tensor, last: bool = False) -> tuple[int, Tensor]:
        self.waiting = torch.cat([self.waiting, frames])
        first, size = self.count, self.encoder.segment_size
        need, parts = size + self.encoder.right_context, [_none(self.encoder)]
        while len(self.waiting) >= need or (last and len(self.waiting)):
            window = self.waiting[None, :need]
            encoded, self.state = self.encoder.encode_segment(window, torch.tensor([window.shape[1]]), self.state)
            parts.append(encoded.states[0])
            self.waiting = self.waiting[size:]
        states = torch.cat(parts)
        self.count += len(states)
        return first, states


class WholeStream(SpeechStream):
    """Encodes all speech again whenever a number of frames has come, so that its work grows."""

    def __init__(self, encoder: WholeEncoder, step: int) -> None:
        self.encoder, self.step = encoder, step
        self.frames, self.encoded = torch.zeros(0), 0

    @torch.no_grad()
    def push(self, frames: Tensor, last: bool = False) -> tuple[int, Tensor]:
        self.frames = torch.cat([self.frames, frames]) if len(self.frames) else frames
        new = len(self.frames) - self.encoded
        if not new or (new < self.step and not last):
            return 0, _none(self.encoder)
        self.encoded = len(self.frames)
        return 0, self.encoder(self.frames[None], torch.tensor([self.encoded])).states[0]


def _none(encoder: StreamingEncoder | WholeEncoder) -> Tensor:
    """No states: (0, C)."""
    return encoder.norm.weight.new_zeros(0, len(encoder.norm.weight))
