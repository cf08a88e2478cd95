"""Log-mel features of speech as Kaldi computes them, of whole recordings and while they come, in torch alone."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

FRAME_MS, SHIFT_MS = 25, 10
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
SMALLEST = torch.finfo(torch.float32).eps  # of an energy, before its logarithm
FULL_SCALE = 32768.0  # Kaldi's samples are 16-bit integers


class LogMel(NamedTuple):
    """What features there are: ``bins`` per frame of 25 ms, one frame per 10 ms.

    Frames have their mean removed, pre-emphasis and Povey's window; energies are of the power spectrum, in triangles
    that are even on the mel scale from 20 Hz to half the rate.
    """

    rate: int  # samples per second
    bins: int

    @property
    def frame(self) -> int:
        """Samples of a frame."""
        return self.rate * FRAME_MS // 1000

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return self.rate * SHIFT_MS // 1000

    def frames(self, samples: int) -> int:
        """How many whole frames so many samples have."""
        return max(0, 1 + (samples - self.frame) // self.shift)

    def __call__(self, samples: Tensor) -> Tensor:
        """Features (L, bins) of ``samples`` (S,) in [-1, 1], float32; L is ``frames(S)``."""
        if not self.frames(len(samples)):
            return samples.new_zeros(0, self.bins)
        frames = samples.unfold(0, self.frame, self.shift) * FULL_SCALE
        frames = frames - frames.mean(1, keepdim=True)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        size = 1 << (self.frame - 1).bit_length()
        spectrum = torch.fft.rfft((frames - PREEMPHASIS * before) * povey_window(self.frame), n=size)
        energies = spectrum.abs().square() @ mel_triangles(self.rate, size, self.bins)
        return energies.clamp_min(SMALLEST).log()

    def push(self, waiting: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """The features of a recording that comes in parts.

        Args:
            waiting: (W,), what the call before returned; none at first. samples: (S,), those that came since.

        Returns:
            the features (L, bins) of the frames that are whole now, and the samples that later ones need.
        """
        waiting = torch.cat([waiting, samples])
        return self(waiting), waiting[self.frames(len(waiting)) * self.shift :]


@lru_cache
def povey_window(length: int) -> Tensor:
    """(length,): Hann's window to the power of 0.85."""
    angle = 2 * math.pi / (length - 1) * torch.arange(length, dtype=torch.float64)
    return (0.5 - 0.5 * angle.cos()).pow(0.85).float()


@lru_cache
def mel_triangles(rate: int, size: int, bins: int) -> Tensor:
    """(size / 2 + 1, bins): the weight of each frequency of a spectrum of ``size`` samples in each bin."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * (1 + hertz / 700).log()

    edges = mel(torch.tensor([LOWEST_HZ, rate / 2], dtype=torch.float64))
    corner = torch.linspace(0, 1, bins + 2, dtype=torch.float64) * (edges[1] - edges[0]) + edges[0]
    frequency = mel(torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size)[:, None]
    left, centre, right = corner[:-2], corner[1:-1], corner[2:]
    rising, falling = (frequency - left) / (centre - left), (right - frequency) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0).float()
