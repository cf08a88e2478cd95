"""The short-term memory against lists: one per row, newest last."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.short_term_memory import ShortTermMemory

DIM = 3


def contents(memory: ShortTermMemory) -> list[list[list[float]]]:
    """The vectors that each row holds."""
    width = memory.hidden.shape[1]
    return [row[width - length :].tolist() for row, length in zip(memory.hidden, memory.lengths.tolist())]


def first(x: Tensor, lengths: list[int]) -> list[list[list[float]]]:
    """The first ``lengths`` vectors of each row of ``x``."""
    return [row[:length].tolist() for row, length in zip(x, lengths)]


def empty(batch: int, width: int) -> ShortTermMemory:
    return ShortTermMemory.empty(batch, width, DIM, torch.zeros(1))


def test_empty_has_the_width_and_dtype_of_its_model():
    memory = ShortTermMemory.empty(2, 4, DIM, torch.zeros(1, dtype=torch.bfloat16))
    assert memory.hidden.dtype == torch.bfloat16
    assert memory.hidden.shape == (2, 4, DIM)
    assert contents(memory) == [[], []]


@pytest.mark.parametrize("width", [0, 1, 4, 7, 30])
def test_append_and_split_keep_every_vector_once_in_order(width):
    """Segments of changing and ragged lengths; whatever a row has seen is kept or has left, in order, once."""
    torch.manual_seed(0)
    memory = empty(3, width)
    kept, left, seen = [[], [], []], [[], [], []], [[], [], []]
    for lengths in ([5, 5, 5], [5, 0, 2], [0, 0, 0], [1, 4, 3], [6, 6, 6], [1, 1, 1], [0, 3, 0]):
        x = torch.randn(3, max(lengths), DIM)
        memory = memory.append(x, torch.tensor(lengths))
        new = first(x, lengths)
        assert contents(memory) == [old + row for old, row in zip(kept, new)]
        assert memory.hidden.shape == (3, width + max(lengths), DIM)
        memory, gone, leaving = memory.split(width)
        kept = contents(memory)
        left = [old + row for old, row in zip(left, first(gone, leaving.tolist()))]
        seen = [old + row for old, row in zip(seen, new)]
        assert [old + row for old, row in zip(left, kept)] == seen
        assert all(len(row) == min(width, len(all_of_it)) for row, all_of_it in zip(kept, seen))
    assert memory.hidden.shape == (3, width, DIM)


def test_append_and_split_leave_their_arguments_unchanged():
    memory, x = empty(2, 2), torch.randn(2, 3, DIM)
    longer = memory.append(x, torch.tensor([3, 1]))
    before = contents(longer)
    longer.split(2)
    assert contents(memory) == [[], []]
    assert contents(longer) == before == first(x, [3, 1])


def test_reset_empties_only_its_rows():
    x = torch.randn(2, 3, DIM)
    memory = empty(2, 0).append(x, torch.tensor([3, 2]))
    assert contents(memory.reset(torch.tensor([True, False]))) == [[], first(x, [3, 2])[1]]


def test_reorder_moves_vectors_and_lengths():
    x = torch.randn(3, 4, DIM)
    memory = empty(3, 0).append(x, torch.tensor([1, 4, 2]))
    expected = first(x, [1, 4, 2])
    assert contents(memory.reorder(torch.tensor([2, 0, 0]))) == [expected[2], expected[0], expected[0]]


def test_split_keeps_lengths_on_the_cpu_as_integers():
    memory, _, leaving = empty(2, 1).append(torch.randn(2, 3, DIM), torch.tensor([3, 1])).split(1)
    assert memory.lengths.dtype == leaving.dtype == torch.int64
    assert memory.lengths.device.type == leaving.device.type == "cpu"
