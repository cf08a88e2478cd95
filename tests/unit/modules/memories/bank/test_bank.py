"""The bank of summaries against the reference, segment by segment, and what the memory promises."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.attention import suppressed_weights
from fairseq_infformer.modules.attention.naive import suppress
from fairseq_infformer.modules.memories.bank import BankMemory, naive
from fairseq_infformer.modules.settings import SettingError

DIM, HEADS, LENGTH = 12, 3, 3


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def memory() -> BankMemory:
    torch.manual_seed(0)
    memory = BankMemory(DIM, HEADS, LENGTH).double()
    for parameter in memory.parameters():
        torch.nn.init.xavier_uniform_(parameter, gain=2)  # so that attention is far from uniform
    return memory


def test_write_matches_the_reference_in_values_and_gradients(memory):
    """Five writes of rows of other lengths, some of none, one of which begins anew."""
    texts = [vectors(2, 6, seed=number).requires_grad_() for number in range(5)]
    lengths = [[6, 2], [3, 0], [1, 4], [5, 6], [4, 3]]
    state, rows = memory.initial_state(2), [[], []]
    for number, (new, counts) in enumerate(zip(texts, lengths)):
        reset = torch.tensor([False, number == 2])
        state = memory.write(state, new, torch.tensor(counts), reset)
        for row, count in enumerate(counts):
            rows[row] = naive.write([] if reset[row] else rows[row], new[row, :count], memory)
            held = state.summaries.hidden[row, LENGTH - int(state.summaries.lengths[row]) :]
            torch.testing.assert_close(held, torch.stack(rows[row]), rtol=1e-10, atol=1e-10)
    assert [len(row) for row in rows] == [LENGTH, LENGTH]
    weights, inputs = vectors(2, LENGTH, seed=9), [*texts, *memory.parameters()]
    fast = (state.summaries.hidden * weights).sum()
    slow = sum((torch.stack(row) * weight).sum() for row, weight in zip(rows, weights))
    found, expected = (torch.autograd.grad(x, inputs, allow_unused=True) for x in (fast, slow))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-10, atol=1e-10)


def test_write_keeps_no_more_than_the_last_summaries(memory):
    state = memory.initial_state(1)
    for number in range(100):
        state = memory.write(state, vectors(1, 4, seed=number))
    last = [naive.summarise(vectors(4, seed=number), memory) for number in (97, 98, 99)]
    assert state.summaries.hidden.untyped_storage().nbytes() <= (LENGTH + 1) * DIM * 8
    torch.testing.assert_close(state.summaries.hidden[0], torch.stack(last), rtol=1e-10, atol=1e-10)


def test_write_summarises_a_segment_whatever_the_bank_holds(memory):
    """Memories do not feed on memories."""
    new = vectors(1, 4, seed=5)
    first = memory.write(memory.initial_state(1), new).summaries.hidden[:, -1]
    later = memory.write(memory.write(memory.initial_state(1), vectors(1, 6)), new).summaries.hidden[:, -1]
    assert torch.equal(first, later)


def test_suppressed_weights_match_the_reference_and_leave_out_weak_ones():
    scores = 2 * torch.randn(2, 3, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) >= torch.tensor([9, 6, 2, 1])[:, None]
    weights = suppressed_weights(scores, mask)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)):
        seen = ~mask[index[2]]
        row, expected = weights[tuple(index)], suppress(scores[tuple(index)][seen])
        torch.testing.assert_close(row[seen], expected, rtol=1e-12, atol=1e-12)
        assert not row[~seen].any()
    ordinary = scores.masked_fill(mask, -torch.inf).softmax(-1)
    dropped = (weights == 0) & ~mask
    assert dropped.any() and float(ordinary[dropped].max()) < 1 / 2 and not dropped[..., 3, :].any()


@pytest.mark.parametrize("length", [0, -1])
def test_memory_refuses_an_empty_bank(length):
    with pytest.raises(SettingError, match=f"length must be positive, got {length}; for no memory choose none"):
        BankMemory(DIM, HEADS, length)
