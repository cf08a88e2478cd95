"""Repairs of fairseq."""

import numpy as np
import pytest
from fairseq.data import data_utils

import fairseq_infformer.plugin  # noqa: F401  (patches fairseq)


@pytest.mark.parametrize("count", [3, 10, 16, 43])
def test_batches_have_every_sentence_once(count):
    sizes = np.full(count, 5)
    batches = data_utils.batch_by_size(
        np.arange(count), sizes.__getitem__, sizes, max_tokens=80, required_batch_size_multiple=8
    )
    assert np.array_equal(np.concatenate(batches), np.arange(count))
    assert max(map(len, batches)) <= 16
