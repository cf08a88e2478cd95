"""Frames of speech to fewer states, by convolutions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .padding import zero_pads

KERNEL = 5
STRIDE = 4  # frames per state, of both convolutions


class Subsampling(nn.Module):
    """Two gated convolutions of stride 2: a state per 4 frames, and positions.

    Args:
        features: width of a frame. embed_dim: C, a multiple of 2.
    """

    def __init__(self, features: int, embed_dim: int) -> None:
        super().__init__()
        if embed_dim % 2:
            raise ValueError(f"embed_dim must be even, got {embed_dim}")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, 2 * embed_dim, KERNEL, stride=2, padding=KERNEL // 2) for width in (features, embed_dim)
        )

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, ⌈L / 4⌉, C) of ``frames`` (B, L, features), and how many are speech.

        Args:
            lengths: (B,), on the CPU: how many of the L of each row are speech, from the left.
        """
        x = frames
        for convolution in self.convolutions:
            x = F.glu(convolution(zero_pads(x, lengths).mT).mT, dim=-1)
            lengths = (lengths + 1) // 2
        return x, lengths


def positions(first: int, count: int, like: Tensor) -> Tensor:
    """Sinusoidal encoding (count, C) of the positions first … first + count - 1, for states ``like`` (…, C)."""
    half = like.shape[-1] // 2
    exact = torch.promote_types(like.dtype, torch.float32)
    frequency = 10000 ** (-torch.arange(half, device=like.device, dtype=exact) / half)
    angle = torch.arange(first, first + count, device=like.device, dtype=exact)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)
