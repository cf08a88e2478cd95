"""Writes kaldi.npz beside this file: a signal, and its features by kaldi-native-fbank 1.23.

Needs numpy and that package: ``pip install numpy kaldi-native-fbank==1.23``.
"""

from pathlib import Path

import kaldi_native_fbank as kaldi
import numpy as np

RATES = {8000: 40, 16000: 80}  # and bins


def signal(rate: int) -> np.ndarray:
    """An eighth of a second of rising tones and noise, in 16 bits."""
    time = np.arange(rate // 8 + 37) / rate
    tones = [(0.3, 200), (0.2, 433), (0.1, 1234), (0.05, 3010)]
    x = sum(volume * np.sin(2 * np.pi * hertz * time * (1 + 0.2 * time)) for volume, hertz in tones)
    noise = 0.01 * np.random.default_rng(1).standard_normal(len(time))
    return np.round((x + noise) * 32767).astype(np.int16)


def features(samples: np.ndarray, rate: int, bins: int) -> np.ndarray:
    options = kaldi.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither, options.mel_opts.num_bins = rate, 0, bins
    extractor = kaldi.OnlineFbank(options)
    extractor.accept_waveform(rate, samples.astype(np.float32).tolist())
    extractor.input_finished()
    return np.stack([extractor.get_frame(number) for number in range(extractor.num_frames_ready)])


if __name__ == "__main__":
    arrays = {}
    for rate, bins in RATES.items():
        arrays[f"signal{rate}"] = samples = signal(rate)
        arrays[f"features{rate}"] = features(samples, rate, bins)
    np.savez_compressed(Path(__file__).parent / "kaldi.npz", **arrays)
