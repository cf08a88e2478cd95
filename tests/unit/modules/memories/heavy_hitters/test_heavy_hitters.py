"""Heavy hitters against the reference, vector by vector, and what the memory promises."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.attention import PlainAttention
from fairseq_infformer.modules.memories.heavy_hitters import HeavyHitterMemory, HeavyHitterState, naive
from fairseq_infformer.modules.settings import SettingError

DIM, HEADS, LENGTH = 12, 3, 7


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def attention() -> PlainAttention:
    torch.manual_seed(0)
    return PlainAttention(DIM, HEADS).double()


def empty(memory: HeavyHitterMemory, rows: int) -> HeavyHitterState:
    state = memory.initial_state(rows)
    return state._replace(slots=state.slots._replace(hidden=state.slots.hidden.double()), scores=state.scores.double())


def test_write_and_read_match_the_reference_in_values_and_gradients(attention):
    """Six writes and reads of rows of other lengths, one of which begins anew."""
    memory = HeavyHitterMemory(DIM, LENGTH, half_life=10)
    texts = [vectors(2, 5, seed=number).requires_grad_() for number in range(6)]
    lengths = [[5, 2], [3, 0], [5, 4], [1, 5], [4, 4], [5, 3]]
    state, report, rows = empty(memory, 2), None, [[], []]
    for number, (new, counts) in enumerate(zip(texts, lengths)):
        reset = torch.tensor([False, number == 3])
        state = memory.write(state, new, torch.tensor(counts), reset, report)
        queries = torch.tensor([3, 1 + number % 2])
        query = vectors(2, 3, seed=10 + number)
        read = memory.read(query, query, queries, state, attention)
        report = read.report
        for row, count in enumerate(counts):
            before = [] if reset[row] else rows[row]
            rows[row] = naive.write(before, new[row, :count], memory)
            assert int(read.extra.lengths[row]) == len(rows[row])
            kept = torch.stack([vector for vector, _ in rows[row]])
            torch.testing.assert_close(read.extra.hidden[row, -len(kept) :], kept, rtol=0, atol=0)
            rows[row] = naive.read(rows[row], query[row, : queries[row]], memory, attention)
    assert {len(row) for row in rows} == {LENGTH}
    fast = (read.extra.hidden * vectors(2, LENGTH, seed=20)).sum()
    slow = sum((torch.stack([v for v, _ in row]) * vectors(2, LENGTH, seed=20)[n]).sum() for n, row in enumerate(rows))
    found, expected = (torch.autograd.grad(x, texts, allow_unused=True) for x in (fast, slow))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=0, atol=0)


def test_write_keeps_what_attention_looks_at_whatever_follows(attention):
    """One vector that every query asks for, then a hundred times as many others as there are slots."""
    memory, sought = HeavyHitterMemory(DIM, LENGTH), 3 * vectors(1, 1)
    with torch.no_grad():
        attention.kv_proj.weight[:DIM] = torch.eye(DIM)
    state, report = memory.write(empty(memory, 1), sought), None
    for number in range(100 * LENGTH // 3):
        report = memory.read(sought, sought, torch.tensor([1]), state, attention).report
        state = memory.write(state, vectors(1, 3, seed=number), report=report)
    assert torch.equal(state.slots.hidden[:, 0], sought[:, 0])
    unread = empty(memory, 1)
    for new in (sought, *vectors(10, 3).split(1)):
        unread = memory.write(unread, new)
    assert not (unread.slots.hidden == sought).all(-1).any()


def test_write_lets_what_was_looked_at_long_ago_give_way(attention):
    """A vector that was sought once, and then one that is sought now, with room for one of them."""
    memory = HeavyHitterMemory(DIM, 2, half_life=4)
    state = memory.write(empty(memory, 1), vectors(1, 2))
    old = state._replace(scores=torch.tensor([[0.9, 0.0]], dtype=torch.float64))
    for queries, kept in ((1, True), (100, False)):
        read = memory.read(vectors(1, queries), vectors(1, queries), torch.tensor([queries]), old, attention)
        received = read.report._replace(attention=torch.tensor([[0.0, 0.5]], dtype=torch.float64))
        after = memory.write(old, vectors(1, 1, seed=1), report=received)
        assert torch.equal(after.slots.hidden[:, 0], old.slots.hidden[:, 0 if kept else 1])


def test_read_reports_neither_pads_nor_empty_slots(attention):
    memory = HeavyHitterMemory(DIM, LENGTH)
    state = memory.write(empty(memory, 3), vectors(3, 4), torch.tensor([4, 2, 0]))
    query = vectors(3, 5)
    received = memory.read(query, query, torch.tensor([5, 3, 5]), state, attention).report.attention
    assert (received > 0).sum(1).tolist() == [4, 2, 0]
    assert not received[0, :3].any() and not received[1, :5].any()
    query = query.clone()
    query[1, 3:] = vectors(2, seed=5) * 9
    again = memory.read(query, query, torch.tensor([5, 3, 5]), state, attention).report.attention
    assert torch.equal(again, received)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"length": 1}, "must be 2 or more, got 1"), ({"half_life": 0}, "must be positive, got 0")],
)
def test_memory_refuses_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        HeavyHitterMemory(DIM, **settings)
