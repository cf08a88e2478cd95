"""An observation in as many numbers as a figure shows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .observation import LineObserver

COLUMNS = 160  # of a picture at most
PARTS = 24  # of a line at most


class Looks(NamedTuple):
    """Where each head looked, for S times."""

    start: Tensor  # (S,): how many tokens were read before
    share: Tensor  # (S, H, D), see ``observation.Look``: the mean of consecutive segments
    words: Tensor  # (S, H, 3): of the middle one of these segments


def perplexities(losses: Tensor, parts: int = PARTS) -> tuple[list[float], list[float]]:
    """The middles of consecutive parts of equal size of a text with these losses (n,), and their perplexities."""
    chunks = losses.double().tensor_split(min(parts, len(losses)))
    ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0).tolist()
    middles = [end - len(chunk) / 2 for end, chunk in zip(ends, chunks)]
    return middles, [math.exp(min(float(chunk.mean()), 700)) for chunk in chunks]


def looks_over_time(observer: LineObserver, columns: int = COLUMNS) -> Looks:
    """Where the heads of a layer looked, at so many times at most."""
    groups = torch.arange(len(observer.looks)).tensor_split(min(columns, len(observer.looks)))
    return Looks(
        torch.tensor([observer.looks[group[0]].start for group in groups]),
        torch.stack([torch.stack([observer.looks[number].share for number in group]).mean(0) for group in groups]),
        torch.stack([observer.looks[group[len(group) // 2]].words for group in groups]),
    )


def rebuilt_by_age(observer: LineObserver, first: int, parts: int = PARTS) -> tuple[list[float], list[float]]:
    """R² of the vectors that were written, in parts of equal size, and the mean ages of the parts in tokens.

    R² is the share of the variance about the mean of all of them that is rebuilt from the memory: 1 if all is, 0 if
    the mean would serve as well, and less if the mean would serve better.

    Args:
        first: how many tokens of the text come before the first that was written.
    """
    errors, variances = observer.rebuilt().double(), observer.variances().double()
    ages = (observer.tokens - first - torch.arange(len(errors))).double()
    count = min(parts, len(errors))
    split = [each.tensor_split(count) for each in (ages, errors, variances)]
    rows = [(float(age.mean()), 1 - float(error.sum() / variance.sum())) for age, error, variance in zip(*split)]
    return [age for age, _ in rows][::-1], [value for _, value in rows][::-1]


def by_columns(weights: Tensor, columns: int = COLUMNS) -> Tensor:
    """Weights (K, n) of n words, summed over parts of equal size: (K, at most ``columns``)."""
    return torch.stack([part.sum(-1) for part in weights.tensor_split(min(columns, weights.shape[1]), dim=-1)], dim=-1)
