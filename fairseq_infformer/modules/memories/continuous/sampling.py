"""Where an update samples the old signal: evenly, or where the last segment's attention was (sticky memories).

Sticky positions are the inverse of the cumulative distribution of a histogram of the attention: at even probabilities
without randomness, at random ones for independent draws, whose bin is multinomial and whose position in it is uniform.
"""

from typing import Optional

import torch
from torch import Tensor

from fairseq_infformer.modules.padding import padding_mask

from .density import Density

SAMPLINGS = ("uniform", "sticky", "sticky-quantile")

NUM_BINS = 128
# Values of the cumulative distribution held at once; 4 bytes each.
CHUNK_ELEMENTS = 1 << 22


def midpoints(count: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    """Positions of ``count`` vectors on [start, stop]: the midpoints of equal parts, in float64."""
    return start + (stop - start) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def attention_histogram(density: Density, queries: Optional[Tensor] = None, num_bins: int = NUM_BINS) -> Tensor:
    """How much of the attention of all heads and queries falls into each of D equal bins of [0, 1].

    It is p(bin) of the paper's sticky memories, exact: a difference of the density's cumulative distribution.

    Args:
        density: of a read; its parameters are (B, H, T).
        queries: (B,), how many of the T queries of each row count, from the left; absent: all.

    Returns:
        (B, D) float64, each row summing to 1. A row whose attention misses [0, 1], or that has no query, is even.
    """
    rows, heads, length = density.mean.shape
    edges = torch.linspace(0, 1, num_bins + 1, device=density.mean.device, dtype=density.mean.dtype)
    counts = torch.zeros(rows, num_bins, device=edges.device, dtype=torch.float64)
    chunk = max(1, CHUNK_ELEMENTS // (rows * heads * len(edges)))
    for start in range(0, length, chunk):
        part = slice(start, start + chunk)
        mass = density._make(parameter[:, :, part] for parameter in density)
        mass = mass.cdf(edges).diff(dim=-1).sum(1)  # (B, chunk, D)
        if queries is not None:
            mass = mass.masked_fill(padding_mask(queries - start, mass.shape[1], edges.device)[:, :, None], 0)
        counts += mass.sum(1, dtype=torch.float64)
    total = counts.sum(1, keepdim=True)
    # Less than a billionth of one query: what rounding leaves of attention that is all outside.
    return torch.where(total > 1e-9, counts / total.clamp_min(1e-9), 1 / num_bins)


def inverse_cdf(histogram: Tensor, probabilities: Tensor) -> Tensor:
    """Positions left of which the histogram has these probabilities; it is even inside a bin.

    Args:
        histogram: (B, D), rows that sum to 1. probabilities: (B, M) or (1, M), in (0, 1).

    Returns:
        (B, M) in [0, 1], in the order of the probabilities.
    """
    num_bins = histogram.shape[1]
    above = histogram.cumsum(1)
    above = above / above[:, -1:]
    probabilities = probabilities.to(histogram).expand(len(histogram), -1).contiguous()
    number = torch.searchsorted(above, probabilities, right=True).clamp_max(num_bins - 1)
    # Never an empty bin: its cumulative probability is not above that of the bin before it.
    mass = histogram.gather(1, number)
    inside = 1 - (above.gather(1, number) - probabilities) / mass.clamp_min(torch.finfo(mass.dtype).tiny)
    return (number + inside.clamp(0, 1)) / num_bins


def hashed_uniform(keys: Tensor, count: int, seed: int = 0) -> Tensor:
    """``count`` numbers in (0, 1) for each key, as good as random, and the same at every call.

    Used instead of a random generator: what a row draws depends on its key alone, not on the rows beside it, on earlier
    draws or on the device. So a run repeats, a forward pass may run twice, and a resumed run continues exactly.

    Args:
        keys: (B,) int64. seed: gives other numbers for the same keys.

    Returns:
        (B, count) float64: the numbers of SplitMix64 (Steele, Lea and Flood 2014), started at a hash of the key.
    """
    golden = -0x61C8864680B583EB  # 2⁶⁴/φ as a signed number; products wrap, as they should

    def mix(z: Tensor) -> Tensor:
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
            z = (z ^ (z >> shift & (1 << 64 - shift) - 1)) * factor
        return z ^ (z >> 31 & (1 << 33) - 1)

    start = mix((keys + 1) * golden + seed)
    numbers = mix(start[:, None] + torch.arange(1, count + 1, device=keys.device) * golden)
    return ((numbers >> 11 & (1 << 53) - 1).double() + 0.5) / (1 << 53)


def sample_positions(histogram: Tensor, num_samples: int, sampling: str, num_tokens: Tensor, seed: int = 0) -> Tensor:
    """Where sticky sampling evaluates the old signal, sorted.

    Args:
        histogram: (B, D), from ``attention_histogram``. num_samples: M.
        sampling: ``sticky``: independent draws; ``sticky-quantile``: the quantiles at M even probabilities.
        num_tokens: (B,) tokens in memory, the keys of the rows' draws.

    Returns:
        (B, M) float64, in [0, 1].
    """
    if sampling == "sticky-quantile":
        probabilities = midpoints(num_samples)[None]
    else:
        probabilities = hashed_uniform(num_tokens, num_samples, seed).sort(dim=1).values
    return inverse_cdf(histogram, probabilities)
