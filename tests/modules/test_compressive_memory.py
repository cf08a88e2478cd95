"""The compressive memory against the reference, window by window and row by row."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import COMPRESSIONS, CompressiveMemory, reference
from fairseq_infformer.modules.decoder_layer import POSITION_ENCODINGS, InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

DIM = 6


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(compression: str = "conv", num_slots: int = 5, rate: int = 3) -> CompressiveMemory:
    memory = CompressiveMemory(DIM, num_slots, rate, compression).double()
    if memory.conv is not None:
        torch.nn.init.normal_(memory.conv.weight, std=0.5, generator=torch.Generator().manual_seed(7))
    return memory


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_slots_are_the_last_of_the_compressed_windows(compression):
    memory = build(compression)
    lengths = torch.tensor([[7, 0, 6], [8, 1, 0], [3, 9, 2]])
    state, kept = memory.initial_state(3), [torch.zeros(0, DIM, dtype=torch.float64)] * 3
    for step, counts in enumerate(lengths):
        new = vectors(3, 9, seed=step)
        state = memory.write(state, new, counts)
        for row, count in enumerate(counts.tolist()):
            if count:
                kept[row] = torch.cat([kept[row], reference.compress(new[row, :count], memory)])[-5:]
    for row, expected in enumerate(kept):
        assert state.slots.lengths[row] == len(expected)
        torch.testing.assert_close(state.slots.hidden[row, 5 - len(expected) :], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_pads_and_other_rows_are_not_seen(compression):
    memory, x, lengths = build(compression), vectors(2, 8), torch.tensor([4, 8])
    state = memory.write(memory.initial_state(2), x, lengths)
    other = x.clone()
    other[0, 4:] = torch.nan
    torch.testing.assert_close(memory.write(memory.initial_state(2), other, lengths).slots, state.slots)
    alone = memory.write(memory.initial_state(1), x[1:], lengths[1:])
    torch.testing.assert_close(alone.slots.hidden[0], state.slots.hidden[1])
    emptied = memory.write(state, x, torch.tensor([0, 3]), torch.tensor([True, False]))
    assert emptied.slots.lengths.tolist() == [0, 4]


def test_the_convolution_starts_as_the_mean():
    memory, mean = CompressiveMemory(DIM, 5, 3, "conv").double(), build("mean")
    x, lengths = vectors(1, 6), torch.tensor([6])
    torch.testing.assert_close(memory.compress(x, lengths), mean.compress(x, lengths))


def layer_with(memory: CompressiveMemory, stm_length: int = 4, encoding: str = "xl") -> InfiniteFormerLayer:
    torch.manual_seed(0)
    return InfiniteFormerLayer(DIM, 3, 8, stm_length, memory, position_encoding=encoding).double()


def test_the_error_of_reconstruction_is_that_of_the_reference_and_trains_the_compression_alone():
    memory = build()
    layer, query = layer_with(memory), vectors(2, 4, seed=3).requires_grad_()
    evicted, lengths = vectors(2, 7, seed=4).requires_grad_(), torch.tensor([7, 5])
    state = memory.write(memory.initial_state(2), evicted, lengths)
    context, look = memory.read(query, state, layer.attention)
    assert context is None
    pairs = zip(query, evicted, lengths)
    slow = torch.stack([reference.reconstruction_error(q, x[:n], memory, layer.attention) for q, x, n in pairs])
    torch.testing.assert_close(look.error, slow, rtol=1e-10, atol=1e-10)
    parameters = [query, evicted, *layer.parameters()]
    fast = torch.autograd.grad(look.error.sum(), parameters, allow_unused=True, materialize_grads=False)
    for parameter, gradient in zip(parameters, fast):
        assert (gradient is not None) == (parameter is memory.conv.weight)
    (expected,) = torch.autograd.grad(slow.sum(), memory.conv.weight)
    (found,) = torch.autograd.grad(memory.read(query, state, layer.attention)[1].error.sum(), memory.conv.weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_row_without_anything_compressed_has_no_error_and_a_gradient_of_zero():
    memory = build()
    layer, query = layer_with(memory), vectors(2, 4)
    for lengths, length in (([0, 3], 5), ([0, 0], 0)):
        state = memory.write(memory.initial_state(2), vectors(2, length), torch.tensor(lengths))
        _, look = memory.read(query, state, layer.attention)
        assert look.error[0].abs().max() == 0
        (gradient,) = torch.autograd.grad(look.error[0].sum(), memory.conv.weight)
        assert gradient.abs().max() == 0


def test_nothing_is_reconstructed_where_nothing_learns_from_it():
    for memory in (build("mean"), build("conv").eval()):
        layer = layer_with(memory)
        state = memory.write(memory.initial_state(2), vectors(2, 5), torch.tensor([5, 5]))
        assert memory.read(vectors(2, 4), state, layer.attention) == (None, None)
        assert state.evicted.shape[1] == 0


@pytest.mark.parametrize("encoding", sorted(POSITION_ENCODINGS))
def test_a_layer_attends_to_slots_short_term_memory_and_segment_at_once(encoding):
    memory = build("mean")
    layer = layer_with(memory, encoding=encoding)
    slots = ShortTermMemory(vectors(2, 5, seed=1), torch.tensor([2, 0]))
    recent = ShortTermMemory(vectors(2, 4, seed=2), torch.tensor([4, 3]))
    state = memory.initial_state(2)._replace(slots=slots)
    x = vectors(2, 3, seed=3)
    empty = torch.zeros(2, dtype=torch.int64)
    found, _ = layer(x, torch.tensor([3, 3]), LayerState(recent, state, None, empty))
    hidden = torch.nn.functional.layer_norm(x, (DIM,), layer.attention_norm.weight, layer.attention_norm.bias)
    everything = torch.cat([slots.hidden, recent.hidden, hidden], dim=1)
    short = reference.short_attention(hidden @ layer.q_proj.weight.T, everything, [6, 3], layer.attention)
    after = x + short
    inner = torch.relu(layer.fc1(layer.ffn_norm(after)))
    torch.testing.assert_close(found, after + layer.fc2(inner), rtol=1e-10, atol=1e-10)


def test_a_stream_remembers_every_token_while_slots_last():
    """With rate 1 nothing is lost: a compressive memory is a longer short-term memory."""
    x = vectors(2, 18)
    outputs = []
    for stm_length, memory in ((3, build("mean", num_slots=15, rate=1)), (18, None)):
        layer = layer_with(memory, stm_length)
        state, parts = layer.initial_state(x), []
        for segment in x.split([3, 4, 5, 6], dim=1):
            state = layer.advance(state, torch.tensor([False, False]))
            part, state = layer(segment, torch.tensor([segment.shape[1]] * 2), state)
            parts.append(part)
        outputs.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_slots must be positive, got 0"),
        ((5, 0), "the compression rate must be positive, got 0"),
        ((5, 3, "min"), "unknown compression 'min'; choose one of conv, mean, max"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressiveMemory(DIM, *arguments)
