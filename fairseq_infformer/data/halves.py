"""The training pairs of a search in two halves, and batches that come from each in turn."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
from fairseq.data import data_utils

WEIGHTS, ARCHITECTURE = 0, 1  # what trains on the pairs of even and of odd number

Batch = Sequence[int]


def half_of(pair: int) -> int:
    """The half to which the pair of this number belongs, whatever the seed."""
    return pair % 2


class TurnAbout:
    """The batches of an epoch, in turn from each half: a batch sampler for fairseq's iterators.

    Every update takes as many batches in a row, ``update_freq`` for each process, of one half. Each half is shuffled in
    every epoch. What is left of one when the other ends waits for another epoch.

    Args:
        batch: makes batches of the pairs of a half.
        pairs: of both halves, in the order in which batches are made of them.
        update_freq: batches of an update for each process, by epoch; the last number holds for all later ones.
        processes: their number.
        seed: of the shuffling.
    """

    def __init__(
        self,
        batch: Callable[[np.ndarray], Sequence[Batch]],
        pairs: np.ndarray,
        update_freq: Sequence[int],
        processes: int,
        seed: int,
    ) -> None:
        self.halves = [list(batch(pairs[half_of(pairs) == half])) for half in (WEIGHTS, ARCHITECTURE)]
        self.update_freq, self.processes, self.seed = update_freq, processes, seed

    def __call__(self, dataset: object, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, for all processes."""
        size = self.per_update(epoch)
        turns = []
        for half, batches in enumerate(self.halves):
            with data_utils.numpy_seed(self.seed, epoch, half):
                order = np.random.permutation(len(batches))
            shuffled = [batches[number] for number in order]
            turns.append([shuffled[start : start + size] for start in range(0, len(shuffled) - size + 1, size)])
        return chain.from_iterable(chain.from_iterable(zip(*turns)))

    def per_update(self, epoch: int) -> int:
        """How many batches the update of all processes takes."""
        return self.processes * self.update_freq[min(epoch, len(self.update_freq)) - 1]
