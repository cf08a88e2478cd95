"""Audio files as samples."""

import wave
from pathlib import Path

import torch
from torch import Tensor

from fairseq_infformer.errors import InputError, one_line

BYTES = 2  # per sample


def read_wav(file: Path, rate: int) -> Tensor:
    """The samples (S,) of a wav file, in [-1, 1), float32.

    Raises:
        InputError: if it is not a file of one channel of 16-bit samples, ``rate`` per second, with at least one.
    """
    try:
        with wave.open(str(file)) as audio:
            found = audio.getframerate(), audio.getnchannels(), audio.getsampwidth()
            data = audio.readframes(audio.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise InputError(f"{file} cannot be read as wav ({one_line(error)}); give 16-bit PCM") from error
    if found[0] != rate:
        raise InputError(f"{file} has {found[0]} samples per second, not {rate}; convert it")
    if found[1] != 1:
        raise InputError(f"{file} has {found[1]} channels; mix them into one")
    if found[2] != BYTES:
        raise InputError(f"{file} has samples of {8 * found[2]} bits; convert it to 16")
    if len(data) < BYTES:
        raise InputError(f"{file} is empty; remove it, or record it again")
    return torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 32768
