"""Sequences to sort: 20 symbols whose frequencies drift, then the symbols in decreasing order of their counts.

Of a sequence of n symbols, number j is drawn from (1 - r) p₀ + r p₁ with r = j / n; p₀ and p₁ are 20 integers drawn
from 1 … 9 for the sequence and normalised (Martins et al. 2022, section 4.1). <answer>, the 20 symbols in decreasing
order of their count (the lower number first where counts are equal) and </answer> follow. To put them in order, what stood
at the start of the sequence counts as much as what was read last. The result is binarised, one document a sequence.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from tqdm import tqdm

from fairseq_infformer.cli.stages import Workplace
from fairseq_infformer.errors import InputError, print_in_one_line
from fairseq_infformer.tasks.streaming_language_modeling import ANSWER, END_OF_ANSWER

SYMBOLS = 20
SPLITS = {"train": 1.0, "valid": 0.1, "test": 0.1}


def sequences(rng: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Symbols (count, length) in 0 … 19, uint16."""
    found = np.empty((count, length), dtype=np.uint16)
    second = np.arange(length) / length  # how likely p₁ is at each place
    for row in found:
        weights = rng.integers(1, 10, size=(2, SYMBOLS))
        edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[:, :-1]
        chosen = rng.random(length, dtype=np.float32) < second
        drawn = rng.random(length, dtype=np.float32)
        row[:] = np.where(chosen, *(edge.searchsorted(drawn, side="right") for edge in edges[::-1]))
    return found


def answers(symbols: np.ndarray) -> np.ndarray:
    """The symbols (count, 20) in decreasing order of their counts in ``symbols`` (count, length)."""
    count = len(symbols)
    places = symbols + np.arange(count, dtype=np.int64)[:, None] * SYMBOLS
    counts = np.bincount(places.ravel(), minlength=count * SYMBOLS).reshape(count, SYMBOLS)
    return np.argsort(-counts, axis=1, kind="stable")
