"""Simultaneous translation: the words of the model under its policy, and when they are written."""

import pytest
import torch
from small_translation import FEATURES, STRIDE, R, build, speech
from torch import Tensor

from fairseq_infformer.models.simultaneous import Clock, Translator
from fairseq_infformer.models.streaming_translation import StreamingTranslation
from fairseq_infformer.modules.speech_stream import SegmentStream, WholeStream

FRAME_MS = 10


def translate(model: StreamingTranslation, k, frames: Tensor, ends: list[int], part: int = 4) -> Translator:
    """A stream of one row that comes in parts."""
    translator = Translator(model, k, ends, frame_ms=FRAME_MS, step=16, clock=Clock())
    parts = frames[0].split(part)
    for number, frames in enumerate(parts):
        translator.hear(frames, last=number == len(parts) - 1)
    return translator


@torch.no_grad()
def never_ending(model: StreamingTranslation) -> StreamingTranslation:
    """The model without the end of sentence, so that its words go on to the last one that may be written."""
    model.decoder.embed_tokens.weight[model.decoder.dictionary.eos()] = 0
    model.decoder.norm.bias[:] = model.decoder.embed_tokens.weight[5] * 5
    return model


@pytest.mark.parametrize("settings", [{}, {"encoder_input": "past"}, {"encoder_input": "all"}])
@pytest.mark.parametrize("part", [4, 30])
def test_translator_writes_the_words_of_the_model_under_its_policy(settings, part):
    """Greedy words of the model at once, each from what it had read; a full-attention encoder at its last state."""
    model, x = never_ending(build(**settings)), speech(1, 64)
    translator = translate(model, None if "all" in settings.values() else 2, x, [64], part)
    tokens = [word.token for word in translator.translations[0]]
    assert len(tokens) == 64 // STRIDE
    before = torch.tensor([[model.decoder.dictionary.eos(), *tokens[:-1]]])
    with torch.no_grad():
        encoded = model.encoder(x, torch.tensor([64]))
        visible = model.decoder.policy(encoded, before, None if "all" in settings.values() else 2)
        logits = model.decoder(before, encoded, visible)[0][0]
    logits[:, [model.decoder.dictionary.pad(), model.decoder.dictionary.bos()]] = -torch.inf
    assert tokens == logits.argmax(-1).tolist()


def test_translator_counts_the_audio_that_each_word_waited_for():
    """k = 2 and r = 2: word i needs 4 + 2 i states of 40 ms; segments of 160 ms are known 80 ms after their end."""
    model = never_ending(build())
    words = translate(model, 2, speech(1, 64), [64]).translations[0]
    known = [max(1, -(-min(4 + 2 * i, 16) // 4)) * 160 + 80 for i in range(len(words))]
    assert [word.delay for word in words] == [min(delay, 640) for delay in known]
    assert all(word.elapsed > word.delay for word in words)


def test_translator_begins_anew_with_each_utterance_while_the_memory_stays():
    model, x = never_ending(build(left_context=0, right_context=0)), speech(1, 128)
    together = translate(model, 1, x, [64, 128])
    alone = translate(model, 1, x[:, :64], [64])
    assert [word.token for word in together.translations[0]] == [word.token for word in alone.translations[0]]
    assert together.translations[1][0].delay == R * STRIDE * FRAME_MS * 2
    stream = SegmentStream(model.encoder.speech)
    fresh = SegmentStream(model.encoder.speech)
    stream.push(x[0, :64])
    assert not torch.allclose(stream.push(x[0, 64:])[1], fresh.push(x[0, 64:])[1], atol=1e-3)
    assert len(together.states) == 0


def test_translator_waits_for_speech_where_a_sentence_would_end_too_early():
    """A model that ends every sentence at once says nothing, and not before it has heard all."""
    model = build()
    with torch.no_grad():
        model.decoder.norm.bias[:] = 50 * model.decoder.embed_tokens.weight[model.decoder.dictionary.eos()]
    translator = Translator(model, 1, [64], frame_ms=FRAME_MS, step=16, clock=Clock())
    translator.hear(speech(1, 64)[0, :60])
    assert translator.utterance == 0
    translator.hear(speech(1, 64)[0, 60:], last=True)
    assert translator.utterance == 1 and translator.translations == [[]]


def test_whole_stream_encodes_all_again():
    model, x = build(encoder_input="all"), torch.randn(40, FEATURES)
    stream = WholeStream(model.encoder.speech, step=16)
    sizes = [len(stream.push(part, last=number == 3)[1]) for number, part in enumerate(x.split([10, 10, 10, 10]))]
    assert sizes == [0, 5, 0, 10]
