"""A corpus of speech translation small enough to prepare in a moment."""

import wave
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from fairseq_infformer.models.streaming_translation import StreamingTranslationConfig
from fairseq_infformer.speech.corpus import write_table
from fairseq_infformer.tasks.streaming_speech_translation import StreamingSpeechTranslationTask

RATE, BINS = 8000, 12
TEXTS = {"train": ["eins zwei", "drei", "zwei eins drei"], "valid": ["eins", "zwei"], "test": ["drei eins"]}


def write_wav(file: Path, milliseconds: int, seed: int, rate: int = RATE, channels: int = 1) -> None:
    """Write noise."""
    samples = torch.randn(milliseconds * rate // 1000, generator=torch.Generator().manual_seed(seed)) * 1000
    with wave.open(str(file), "wb") as audio:
        audio.setparams((channels, 2, rate, 0, "NONE", None))
        audio.writeframes(samples.short().numpy().tobytes())


def write_corpus(raw: Path) -> Path:
    """Write the tables and wav files of TEXTS, a third of a second per word."""
    raw.mkdir()
    for split, texts in TEXTS.items():
        rows = []
        for number, text in enumerate(texts):
            write_wav(raw / f"{split}{number}.wav", 330 * len(text.split()), seed=len(rows))
            rows.append(
                {"id": f"{split}-{number}", "audio": f"{split}{number}.wav", "tgt_text": text, "src_text": "one"}
            )
        write_table(raw / f"{split}.tsv", rows)
    return raw


def write_digits(folder: Path, speakers: Sequence[str]) -> Path:
    """Write each speaker's recordings: tones of 50 ms, as loud as the digit, as high as the speaker's number."""
    folder.mkdir()
    for number, speaker in enumerate(speakers):
        for digit in range(10):
            with wave.open(str(folder / f"{digit}_{speaker}_0.wav"), "wb") as audio:
                audio.setparams((1, 2, 8000, 0, "NONE", None))
                tone = 100 * (digit + 1) * torch.sin(torch.arange(400) * (number + 1) / 10)
                audio.writeframes(tone.short().numpy().tobytes())
    return folder


def task(data: Path, **settings: object) -> StreamingSpeechTranslationTask:
    """The task of a data folder."""
    known = {"config_yaml": "config.yaml", "seed": 1, "train_subset": "train", "load_pretrained_encoder_from": None}
    limits = {"max_source_positions": 9000, "max_target_positions": 9000}
    return StreamingSpeechTranslationTask.setup_task(Namespace(**(known | limits | {"data": str(data)} | settings)))


def config(**settings: object) -> Any:
    """A small model."""
    small = {
        "decoder_embed_dim": 16,
        "decoder_ffn_embed_dim": 16,
        "decoder_attention_heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "segment_size": 16,
        "left_context": 8,
        "right_context": 8,
        "pre_decision": 4,
    }
    return OmegaConf.structured(StreamingTranslationConfig(_name="streaming_translation", **(small | settings)))
