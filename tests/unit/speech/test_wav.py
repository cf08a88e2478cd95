"""Audio files, right and wrong."""

import wave

import pytest
import torch

from fairseq_infformer.errors import InputError
from fairseq_infformer.speech.wav import read_wav


def write(file, samples, rate=8000, channels=1, width=2):
    with wave.open(str(file), "wb") as audio:
        audio.setnchannels(channels)
        audio.setsampwidth(width)
        audio.setframerate(rate)
        audio.writeframes(samples)
    return file


def test_read_wav_gives_the_samples(tmp_path):
    values = torch.tensor([0, 1, -1, 32767, -32768], dtype=torch.int16)
    samples = read_wav(write(tmp_path / "a.wav", values.numpy().tobytes()), 8000)
    assert torch.equal(samples, values.float() / 32768)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ({"rate": 16000}, "a.wav has 16000 samples per second, not 8000; convert it"),
        ({"channels": 2}, "a.wav has 2 channels; mix them into one"),
        ({"width": 1}, "a.wav has samples of 8 bits; convert it to 16"),
        ({"samples": b""}, "a.wav is empty; remove it, or record it again"),
    ],
)
def test_read_wav_refuses_other_audio_in_one_line(tmp_path, audio, message):
    file = write(tmp_path / "a.wav", audio.pop("samples", bytes(8)), **audio)
    with pytest.raises(InputError, match=message) as error:
        read_wav(file, 8000)
    assert "\n" not in str(error.value)


def test_read_wav_refuses_what_is_no_wav(tmp_path):
    (tmp_path / "a.wav").write_text("speech")
    for name in ("a.wav", "b.wav"):
        with pytest.raises(InputError, match=f"{name} cannot be read as wav .*; give 16-bit PCM"):
            read_wav(tmp_path / name, 8000)
