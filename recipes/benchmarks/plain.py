"""The ∞-former's memory as its paper writes it down, in plain eager PyTorch: what ``memory.py`` measures against.

Nothing is folded, cached, blocked or fused: keys and T×N scores are formed, every update evaluates the basis at the M
samples and the L new positions and solves its ridge regression. Nothing is done to slow it down either.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainMemory(nn.Module):
    """Write and read with Gaussians at evenly spaced centres, each with every width (paper, sections 3.1 and 3.2).

    Its parameters have the names and shapes of ``ContinuousAttention``'s in the paper's form.
    """

    def __init__(
        self, dim: int, heads: int, num_basis: int, widths: tuple[float, ...], samples: int, ridge: float, tau: float
    ) -> None:
        super().__init__()
        self.heads, self.samples, self.ridge, self.tau = heads, samples, ridge, tau
        self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.mean_proj, self.variance_proj = (nn.Linear(num_basis, 1, bias=False) for _ in range(2))
        count = num_basis // len(widths)
        self.register_buffer("centers", torch.linspace(0, 1, count).repeat(len(widths)))
        self.register_buffer("scales", torch.tensor(widths).repeat_interleave(count))

    def basis(self, t: Tensor) -> Tensor:
        """ψ(t) at K points, (K, N)."""
        return gaussian(t[:, None], self.centers, self.scales**2)

    def write(self, coefficients: Tensor, x: Tensor) -> Tensor:
        """B' (b, N, C) from B (b, N, C) and L new vectors (b, L, C)."""
        old_t, new_t = midpoints(self.samples, self.centers), midpoints(x.shape[1], self.centers)
        old = self.basis(old_t) @ coefficients
        design = self.basis(torch.cat([self.tau * old_t, self.tau + (1 - self.tau) * new_t]))
        gram = design.T @ design + self.ridge * torch.eye(design.shape[1], device=x.device)
        return torch.linalg.solve(gram, design.T @ torch.cat([old, x], dim=1))

    def read(self, query: Tensor, coefficients: Tensor) -> Tensor:
        """Context (b, T, C) for projected queries (b, T, C)."""
        keys, values = self.split(self.k_proj(coefficients)), self.split(self.v_proj(coefficients))
        queries = self.split(query)
        scores = queries @ keys.transpose(2, 3) / math.sqrt(queries.shape[-1])  # (b, H, T, N)
        mean, variance = torch.sigmoid(self.mean_proj(scores)), F.softplus(self.variance_proj(scores))
        weights = gaussian(mean, self.centers, variance + self.scales**2)  # (b, H, T, N)
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SoftmaxRead(nn.Module):
    """Softmax attention over N slots, with key and value projections of its own and no output projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = (nn.Linear(dim, dim, bias=False) for _ in range(2))

    def forward(self, query: Tensor, slots: Tensor) -> Tensor:
        """Context (b, T, C) for projected queries (b, T, C) and slots (b, N, C)."""
        split = [
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, self.k_proj(slots), self.v_proj(slots))
        ]
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def gaussian(t: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return torch.exp(-((t - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def midpoints(count: int, like: Tensor) -> Tensor:
    return (torch.arange(count, device=like.device) + 0.5) / count
