"""Translating a stream of speech while it comes, with wait-k, and a clock that says when each word was written."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_infformer.modules.speech_stream import SegmentStream, SpeechStream, WholeStream
from fairseq_infformer.modules.streaming_encoder import Encoded, StreamingEncoder
from fairseq_infformer.modules.subsampling import STRIDE

from .streaming_translation import StreamingTranslation


class Clock:
    """Milliseconds since the first sample: audio takes its time, and computation too.

    Args:
        real: wait until audio would have come; otherwise this time is counted, not spent.
    """

    def __init__(self, real: bool = False) -> None:
        self.real, self.now = real, 0.0

    def wait_for(self, milliseconds: float) -> None:
        """Let the time come at which audio of this length has been heard."""
        if self.real and milliseconds > self.now:
            time.sleep((milliseconds - self.now) / 1000)
        self.now = max(self.now, milliseconds)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time that a computation takes."""
        start = time.perf_counter()
        yield
        self.now += 1000 * (time.perf_counter() - start)


class Word(NamedTuple):
    """A token of a translation, and when it was written, in milliseconds after its utterance began."""

    token: int
    delay: float  # of audio that had been read
    elapsed: float  # with the time that computation took


class Translator:
    """Translates the utterances of one stream, each anew by wait-k, while the encoder's memory stays.

    Args:
        model: in evaluation mode. wait_k: k; None waits for the end of each utterance.
        ends: of each utterance, in frames from the start of the stream. frame_ms: from one frame to the next.
        step: for an encoder of whole utterances: frames after which all is encoded again.
        written: called with the number of the utterance and the token of each word, as it is written.
    """

    def __init__(
        self,
        model: StreamingTranslation,
        wait_k: Optional[int],
        ends: list[int],
        *,
        frame_ms: float,
        step: int,
        clock: Clock,
        written: Callable[[int, int], None] = lambda utterance, token: None,
    ) -> None:
        self.model, self.wait_k, self.clock, self.frame_ms, self.written = model, wait_k, clock, frame_ms, written
        encoder = model.encoder.speech
        self.stream: SpeechStream
        self.stream = SegmentStream(encoder) if isinstance(encoder, StreamingEncoder) else WholeStream(encoder, step)
        self.ends = [-(-end // STRIDE) for end in ends]  # in states
        self.states = torch.zeros(0)
        self.first = 0  # the number of the first state that is kept
        self.heard = 0  # frames
        self.translations: list[list[Word]] = [[] for _ in ends]
        self.encoder_times: list[float] = []  # milliseconds per call that gave states
        self.utterance = 0  # the one that is translated
        self.visible: list[int] = []  # how many of its states each word could see
        self.ignored = 0  # ends of sentence that came before the end of speech

    def hear(self, frames: Tensor, last: bool = False) -> None:
        """Read more frames (L, features), and write the words that can be written."""
        self.heard += len(frames)
        self.clock.wait_for(self.heard * self.frame_ms)
        before = self.clock.now
        with self.clock.working():
            number, states = self.stream.push(frames, last)
        if len(states):
            self.encoder_times.append(self.clock.now - before)
            kept, new = self.states[: max(0, number - self.first)], states[max(0, self.first - number) :]
            self.states = torch.cat([kept, new]) if len(kept) else new
        while self.utterance < len(self.ends) and self._write(last):
            pass

    def _write(self, last: bool) -> bool:
        """Write a word, or end the utterance, if the policy lets it."""
        start = self.ends[self.utterance - 1] if self.utterance else 0
        known, whole = self.first + len(self.states), self.ends[self.utterance] - start
        complete = last or known >= self.ends[self.utterance]
        available = min(known - start, whole)
        words, decoder = self.translations[self.utterance], self.model.decoder
        reads = None if self.wait_k is None else self.wait_k + len(words) + self.ignored
        need = whole if reads is None else min(reads * decoder.pre_decision, whole)
        if available < need and not complete:
            return False
        end = decoder.dictionary.eos()
        token = end
        if available > 0 and len(words) < whole:  # no more words than states
            token = self._next(words, start - self.first, min(need, available))
        if token == end and not complete:
            self.ignored += 1
            return True
        if token == end:
            self.states, self.first = self.states[start + whole - self.first :], max(start + whole, self.first)
            self.utterance, self.visible, self.ignored = self.utterance + 1, [], 0
            return True
        self.visible.append(min(need, available))
        began = start * STRIDE * self.frame_ms
        length = whole * STRIDE * self.frame_ms
        heard = length if complete else min(self.heard * self.frame_ms - began, length)
        words.append(Word(token, heard, self.clock.now - began))
        self.written(self.utterance, token)
        return True

    @torch.no_grad()
    def _next(self, words: list[Word], start: int, visible: int) -> int:
        """The most probable next token, from this many of the utterance's states."""
        decoder = self.model.decoder
        with self.clock.working():
            prefix = torch.tensor([[decoder.dictionary.eos(), *(word.token for word in words)]])
            states = self.states[start : start + max([*self.visible, visible])]
            seen = torch.tensor([[*self.visible, visible]])
            encoded = Encoded(states[None], torch.tensor([len(states)]))
            logits = decoder(prefix.to(states.device), encoded, visible=seen)[0][0, -1]
            logits[[decoder.dictionary.pad(), decoder.dictionary.bos()]] = -torch.inf
            return int(logits.argmax())
