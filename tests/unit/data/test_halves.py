"""Batches of a search: in turn from two halves, of which no pair is in both."""

from itertools import chain

import numpy as np
import pytest

from fairseq_infformer.data.halves import TurnAbout, half_of


def batch(pairs: np.ndarray) -> list[np.ndarray]:
    """Batches of two."""
    return np.split(pairs, range(2, len(pairs), 2))


@pytest.mark.parametrize(("update_freq", "processes", "row"), [([1], 1, 1), ([2], 1, 2), ([1, 3], 2, 6)])
def test_batches_of_an_update_come_from_one_half_and_those_of_the_next_from_the_other(update_freq, processes, row):
    batches = list(TurnAbout(batch, np.arange(100), update_freq, processes, seed=1)(None, epoch=2))
    halves = [{half_of(pair) for each in batches[start : start + row] for pair in each} for start in range(0, 50, row)]
    halves = halves[: len(batches) // row]
    assert halves == [{number % 2} for number in range(len(halves))]
    assert len(batches) % (2 * row) == 0 and 50 - len(batches) < 2 * row


def test_every_pair_of_a_full_epoch_comes_once_in_another_order_in_each():
    sampler = TurnAbout(batch, np.arange(24), [1], 1, seed=1)
    first, again, second = ([list(each) for each in sampler(None, epoch)] for epoch in (1, 1, 2))
    assert first == again != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(24))
    assert first != [list(each) for each in TurnAbout(batch, np.arange(24), [1], 1, seed=2)(None, 1)]
