"""A corpus of speech translation small enough to prepare in a moment."""

import wave
from pathlib import Path

import torch

from fairseq_infformer.speech.corpus import write_table

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
