"""The compressive memory against the reference, window by window and row by row."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import COMPRESSIONS, CompressiveMemory, CompressiveState
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.attention.naive import short_attention
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.memories import Read
from fairseq_infformer.modules.memories.compressive import naive
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

DIM = 6


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(function: str = "conv", length: int = 5, rate: int = 3) -> CompressiveMemory:
    memory = CompressiveMemory(DIM, length, rate, function).double()
    if memory.conv is not None:
        torch.nn.init.normal_(memory.conv.weight, std=0.5, generator=torch.Generator().manual_seed(7))
    return memory


def held(memory: ShortTermMemory, row: int) -> Tensor:
    """The vectors that a row holds."""
    return memory.hidden[row, memory.hidden.shape[1] - int(memory.lengths[row]) :]


def same(actual: Tensor, expected: Tensor) -> None:
    """In float64, sums of up to 18 products of numbers of about 1."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", COMPRESSIONS)
def test_write_compresses_each_window_of_a_row(function):
    """Rows of different odd lengths, with windows of 3 across writes; the third row begins anew once."""
    memory = build(function)
    lengths = torch.tensor([[7, 0, 7], [8, 1, 0], [1, 1, 5], [2, 9, 1], [0, 6, 1], [4, 1, 9]])
    state, texts = memory.initial_state(3), [torch.zeros(0, DIM, dtype=torch.float64)] * 3
    for step, counts in enumerate(lengths):
        new, reset = vectors(3, 9, seed=step), torch.tensor([False, False, step == 2])
        state = memory.write(state, new, counts, reset)
        for row, count in enumerate(counts.tolist()):
            texts[row] = torch.cat([texts[row][: 0 if reset[row] else None], new[row, :count]])
            slots, waiting = naive.compress(texts[row], memory)
            same(held(state.slots, row), slots[-5:])
            assert torch.equal(held(state.waiting, row), waiting)
        assert state.slots.hidden.shape == (3, 5, DIM) and state.waiting.hidden.shape == (3, 2, DIM)


@pytest.mark.parametrize("function", COMPRESSIONS)
@pytest.mark.parametrize("parts", [[1] * 14, [2, 12], [4, 0, 5, 1, 4], [13, 1]])
def test_write_in_parts_equals_one_write(parts, function):
    memory, x = build(function), vectors(2, 14)
    whole = memory.write(memory.initial_state(2), x, torch.tensor([14, 14]))
    state = memory.initial_state(2)
    for part in x.split(parts, dim=1):
        state = memory.write(state, part)
    assert state.slots.lengths.tolist() == [4, 4] and state.waiting.lengths.tolist() == [2, 2]
    for row in range(2):
        same(held(state.slots, row), held(whole.slots, row))
        assert torch.equal(held(state.waiting, row), held(whole.waiting, row))


@pytest.mark.parametrize("function", COMPRESSIONS)
def test_write_ignores_pads_and_other_rows(function):
    memory, x, lengths = build(function), vectors(2, 8), torch.tensor([4, 8])
    state = memory.write(memory.initial_state(2), x, lengths)
    other = x.clone()
    other[0, 4:] = torch.nan
    assert all(
        map(torch.equal, seen(memory, state), seen(memory, memory.write(memory.initial_state(2), other, lengths)))
    )
    alone = memory.write(memory.initial_state(1), x[1:], lengths[1:])
    same(held(seen(memory, alone), 0), held(seen(memory, state), 1))
    emptied = memory.write(state, x, torch.tensor([0, 3]), torch.tensor([True, False]))
    assert emptied.slots.lengths.tolist() == [0, 3] and emptied.waiting.lengths.tolist() == [0, 2]


def test_state_reorders_resets_and_detaches():
    memory = build()
    state = memory.write(memory.initial_state(3), vectors(3, 8), torch.tensor([8, 4, 2]))
    turned = state.reorder(torch.tensor([2, 0, 0]))
    for row, before in enumerate([2, 0, 0]):
        assert torch.equal(held(turned.slots, row), held(state.slots, before))
        assert torch.equal(held(turned.waiting, row), held(state.waiting, before))
    assert turned.evicted_lengths.tolist() == [0, 6, 6]
    emptied = state.reset(torch.tensor([True, False, False]))
    assert [emptied.slots.lengths[0], emptied.waiting.lengths[0], emptied.evicted_lengths[0]] == [0, 0, 0]
    assert [emptied.slots.lengths[1], emptied.waiting.lengths[1], emptied.evicted_lengths[1]] == [1, 1, 3]
    carrying = memory.write(state, vectors(3, 3).requires_grad_())
    assert carrying.slots.hidden.requires_grad and carrying.waiting.hidden.requires_grad
    detached = carrying.detach()
    tensors = detached.slots.hidden, detached.waiting.hidden, detached.evicted
    assert not any(tensor.requires_grad for tensor in tensors)


def test_conv_starts_as_the_mean():
    memory, mean = CompressiveMemory(DIM, 5, 3, "conv").double(), build("mean")
    found, expected = memory.compress(vectors(1, 6)), mean.compress(vectors(1, 6))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)  # its thirds were float32's


def read(memory: CompressiveMemory, query: Tensor, state: CompressiveState, layer: InfiniteFormerLayer) -> Read:
    lengths = torch.full((len(query),), query.shape[1])
    return memory.read(query, query, lengths, state, layer.attention)


def seen(memory: CompressiveMemory, state: CompressiveState) -> ShortTermMemory:
    """What ordinary attention sees of a memory."""
    rows = len(state.evicted)
    return read(memory, vectors(rows, 1), state, layer_with(memory)).extra


def layer_with(memory: CompressiveMemory, stm_length: int = 4, encoding: str = "xl") -> InfiniteFormerLayer:
    torch.manual_seed(0)
    return InfiniteFormerLayer(DIM, 3, 8, stm_length, memory, position_encoding=encoding).double()


def test_reconstruction_error_matches_reference_and_trains_only_the_compression():
    memory = build()
    layer, query = layer_with(memory), vectors(2, 4, seed=3).requires_grad_()
    first, second = vectors(2, 4, seed=4).requires_grad_(), vectors(2, 7, seed=5).requires_grad_()
    state = memory.write(memory.initial_state(2), first, torch.tensor([4, 2]))
    state = memory.write(state, second, torch.tensor([7, 5]))
    context, _, look = read(memory, query, state, layer)
    assert context is None
    # The first row's fourth vector had waited, and its last two wait now; of the second row the first two and the last.
    evicted = torch.cat([first[0, 3:], second[0, :5]]), torch.cat([first[1, :2], second[1, :4]])
    pairs = zip(query, evicted)
    slow = torch.stack([naive.reconstruction_error(q, x, memory, layer.attention) for q, x in pairs])
    torch.testing.assert_close(look.error, slow, rtol=1e-10, atol=1e-10)
    parameters = [query, first, second, *layer.parameters()]
    fast = torch.autograd.grad(look.error.sum(), parameters, allow_unused=True, materialize_grads=False)
    for parameter, gradient in zip(parameters, fast):
        assert (gradient is not None) == (parameter is memory.conv.weight)
    (expected,) = torch.autograd.grad(slow.sum(), memory.conv.weight)
    (found,) = torch.autograd.grad(read(memory, query, state, layer).report.error.sum(), memory.conv.weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_reconstruction_error_is_zero_for_a_row_without_compressed_vectors():
    memory = build()
    layer, query = layer_with(memory), vectors(2, 4)
    for lengths, length in (([0, 3], 5), ([2, 3], 5), ([0, 0], 0)):
        state = memory.write(memory.initial_state(2), vectors(2, length), torch.tensor(lengths))
        _, _, look = read(memory, query, state, layer)
        assert look.error[0].abs().max() == 0
        (gradient,) = torch.autograd.grad(look.error[0].sum(), memory.conv.weight)
        assert gradient.abs().max() == 0


def test_reconstruction_is_skipped_where_nothing_learns_from_it():
    for memory in (build("mean"), build("conv").eval()):
        layer = layer_with(memory)
        state = memory.write(memory.initial_state(2), vectors(2, 5), torch.tensor([5, 5]))
        context, _, report = read(memory, vectors(2, 4), state, layer)
        assert context is None and report is None
        assert state.evicted.shape[1] == 0


@pytest.mark.parametrize("encoding", sorted(POSITION_ENCODINGS))
def test_layer_attends_to_slots_waiting_vectors_short_term_memory_and_segment(encoding):
    memory = build("mean")
    layer = layer_with(memory, encoding=encoding)
    slots = ShortTermMemory(vectors(2, 5, seed=1), torch.tensor([2, 0]))
    waiting = ShortTermMemory(vectors(2, 2, seed=4), torch.tensor([1, 0]))
    recent = ShortTermMemory(vectors(2, 4, seed=2), torch.tensor([4, 3]))
    state = memory.initial_state(2)._replace(slots=slots, waiting=waiting)
    x = vectors(2, 3, seed=3)
    found, _ = layer(x, torch.tensor([3, 3]), LayerState(recent, state, None))
    hidden = torch.nn.functional.layer_norm(x, (DIM,), layer.attention_norm.weight, layer.attention_norm.bias)
    query = hidden @ layer.q_proj.weight.T
    short = []
    for row in range(2):
        seen = torch.cat([held(part, row) for part in (slots, waiting, recent)])
        everything = torch.cat([seen, hidden[row]])[None]
        short.append(short_attention(query[row : row + 1], everything, [len(seen)], layer.attention))
    after = x + torch.cat(short)
    inner = torch.relu(layer.fc1(layer.ffn_norm(after)))
    torch.testing.assert_close(found, after + layer.fc2(inner), rtol=1e-10, atol=1e-10)


def test_layer_with_rate_one_equals_a_longer_short_term_memory():
    """With rate 1 nothing is lost: a compressive memory is a longer short-term memory."""
    x = vectors(2, 18)
    outputs = []
    for stm_length, memory in ((3, build("mean", length=15, rate=1)), (18, None)):
        layer = layer_with(memory, stm_length)
        state, parts = layer.initial_state(x), []
        for segment in x.split([3, 4, 5, 6], dim=1):
            state = layer.advance(state, torch.tensor([False, False]))
            part, state = layer(segment, torch.tensor([segment.shape[1]] * 2), state)
            parts.append(part)
        outputs.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


def test_layer_keeps_every_token_exactly_once():
    memory = build("mean", length=20)
    layer, x = layer_with(memory), vectors(2, 30)
    hidden, state, read = layer.attention_norm(x), layer.initial_state(x), 0
    for segment in x.split([1, 5, 2, 7, 1, 1, 4, 9], dim=1):
        state = layer.advance(state, torch.tensor([False, False]))
        for row in range(2):
            slots, rest = naive.compress(hidden[row, : max(0, read - 4)], memory)
            parts = torch.cat([slots, rest, hidden[row, max(0, read - 4) : read]])
            memory_of_row = seen(layer.long_term_memory, state.long_term).followed_by(state.recent)
            same(held(memory_of_row, row), parts)
        _, state = layer(segment, torch.tensor([segment.shape[1]] * 2), state)
        read += segment.shape[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "length must be positive, got 0"),
        ((5, 0), "rate must be positive, got 0"),
        ((5, 3, "min"), "function must be one of conv, mean, max, got 'min'"),
    ],
)
def test_compressive_memory_refuses_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressiveMemory(DIM, *arguments)
