"""One layer against the reference, and what holds when it reads a stream segment by segment."""

from typing import Optional

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import (
    DENSITIES,
    ContinuousAttention,
    ContinuousLongTermMemory,
    ContinuousMemory,
    ContinuousState,
    GaussianBasis,
)
from fairseq_infformer.modules.attention import POSITION_ENCODINGS
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState, attention_mask
from fairseq_infformer.modules.layers.naive import decoder_layer
from fairseq_infformer.modules.memories.continuous import CONTRACTIONS, naive
from fairseq_infformer.modules.short_term_memory import ShortTermMemory

DIM = 6


def build(stm_length: int = 3, density: Optional[str] = "gaussian", contraction: str = "fixed") -> InfiniteFormerLayer:
    """In float64, with weights that make every part matter; without a density, without long-term memory."""
    torch.manual_seed(0)
    long_term_memory = None
    if density is not None:
        basis = GaussianBasis(12, (0.05, 0.2))
        attention = ContinuousAttention(DIM, 2, basis, density)
        long_term_memory = ContinuousLongTermMemory(ContinuousMemory(basis, 10, contraction=contraction), attention)
    layer = InfiniteFormerLayer(DIM, 2, 8, stm_length, long_term_memory).double()
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 1 and "offset" not in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=0.3)
    if long_term_memory is not None:  # it starts at zero: nothing of the memory would show
        torch.nn.init.xavier_uniform_(long_term_memory.attention.out_proj.weight)
    return layer


def text(batch: int = 2, length: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, DIM, dtype=torch.float64, generator=generator)


def start(layer: InfiniteFormerLayer, x: Tensor) -> LayerState:
    """The initial state, with the long-term memory in float64 for exact comparisons."""
    state = layer.initial_state(x)
    if layer.long_term_memory is None:
        return state
    exact = layer.long_term_memory.memory.initial_state(x.shape[0], DIM, dtype=torch.float64)
    return state._replace(long_term=exact)


def step(
    layer: InfiniteFormerLayer,
    x: Tensor,
    state: LayerState,
    lengths: Optional[list[int]] = None,
    reset: Optional[list[bool]] = None,
) -> tuple[Tensor, LayerState]:
    """One segment, as the decoder runs it."""
    batch, length = x.shape[:2]
    state = layer.advance(state, torch.tensor(reset or [False] * batch))
    return layer(x, torch.tensor(lengths or [length] * batch), state)


def stream(layer: InfiniteFormerLayer, x: Tensor, sizes: list[int]) -> tuple[Tensor, LayerState]:
    """All of ``x`` in segments of the given sizes: the outputs side by side and the last state."""
    state, outputs = start(layer, x), []
    for segment in x.split(sizes, dim=1):
        output, state = step(layer, segment, state)
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


# ---- Against the reference


@pytest.mark.parametrize("density", sorted(DENSITIES))
@pytest.mark.parametrize("held", [[3, 3], [0, 2]])
def test_layer_matches_reference_in_values_and_gradients(density, held):
    layer, x = build(density=density), text(length=4).requires_grad_()
    recent, coefficients = text(length=3) - 0.5, text(length=12) / 2
    coefficients.requires_grad_()
    long_term = ContinuousState(coefficients, torch.tensor([9, 9]), torch.ones(2))
    state = LayerState(ShortTermMemory(recent, torch.tensor(held)), long_term, None)
    fast, _ = layer(x, torch.tensor([4, 4]), state)
    slow = decoder_layer(x, recent, held, coefficients, layer, density)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    parameters = [x, coefficients, *layer.parameters()]
    weights = torch.randn_like(fast)
    gradients = [torch.autograd.grad((y * weights).sum(), parameters) for y in (fast, slow)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("encoding", sorted(POSITION_ENCODINGS))
def test_layer_matches_reference_with_every_position_encoding(encoding):
    layer, x, coefficients = build(), text(length=4), text(length=12) / 2
    layer.attention = POSITION_ENCODINGS[encoding](DIM, 3).double()
    state = LayerState(
        ShortTermMemory(text(length=3) - 0.5, torch.tensor([1, 3])),
        ContinuousState(coefficients, torch.tensor([9, 9]), torch.ones(2)),
        None,
    )
    fast, _ = layer(x, torch.tensor([4, 4]), state)
    slow = decoder_layer(x, state.recent.hidden, [1, 3], coefficients, layer, "gaussian")
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("contraction", sorted(CONTRACTIONS))
def test_layer_matches_reference_over_a_stream_of_segments(contraction):
    """Short-term memory of 3, segments of 4: what leaves goes to the long-term memory, whole and in order."""
    layer, x = build(stm_length=3, contraction=contraction), text(batch=1, length=16)
    fast, _ = stream(layer, x, [4, 4, 4, 4])
    hidden = torch.nn.functional.layer_norm(x, (DIM,), layer.attention_norm.weight, layer.attention_norm.bias)
    memory, coefficients, written = (
        layer.long_term_memory.memory,
        torch.zeros(12, DIM, dtype=torch.float64),
        0,
    )
    for begin in range(0, 16, 4):
        leaving = hidden[0, written : max(0, begin - 3)]
        coefficients = naive.write(coefficients, written, leaving, len(leaving), memory)
        written += len(leaving)
        recent = hidden[:, written:begin]
        segment = x[:, begin : begin + 4]
        slow = decoder_layer(segment, recent, [recent.shape[1]], coefficients[None], layer, "gaussian")
        torch.testing.assert_close(fast[:, begin : begin + 4], slow, rtol=1e-10, atol=1e-10)


# ---- A stream


@pytest.mark.parametrize("sizes", [[12], [6, 6], [5, 1, 4, 2], [1] * 12])
@pytest.mark.parametrize("density", [None, "gaussian"])
def test_layer_does_not_depend_on_segment_sizes_while_the_short_term_memory_holds_all(sizes, density):
    layer, x = build(stm_length=12, density=density), text()
    whole, _ = stream(layer, x, [12])
    chunks, _ = stream(layer, x, sizes)
    torch.testing.assert_close(chunks, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stm_length", [0, 3, 12])
@pytest.mark.parametrize("place", [0, 4, 11])
def test_layer_is_causal(stm_length, place):
    layer, x = build(stm_length), text()
    changed = x.clone()
    changed[:, place] += 1
    before, after = (stream(layer, y, [4, 4, 4])[0] for y in (x, changed))
    assert torch.equal(after[:, :place], before[:, :place])
    assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize("stm_length", [0, 3])
def test_layer_remembers_what_left_the_short_term_memory(stm_length):
    for density, remembers in (("gaussian", True), (None, False)):
        layer, x = build(stm_length, density), text()
        changed = x.clone()
        changed[:, 0] += 1
        before, after = (stream(layer, y, [4, 4, 4])[0] for y in (x, changed))
        assert torch.equal(after[:, 8:], before[:, 8:]) is not remembers


@pytest.mark.parametrize("stm_length", [0, 2, 5, 40])
def test_advance_keeps_every_token_exactly_once(stm_length):
    layer, x = build(stm_length), text(batch=3)
    state, seen = start(layer, x), torch.zeros(3, dtype=torch.int64)
    for lengths, reset in (
        ([4, 4, 4], None),
        ([4, 0, 2], None),
        ([1, 3, 4], [False, True, False]),
        ([4, 4, 4], None),
        ([2, 0, 1], [True, False, True]),
    ):
        advanced = layer.advance(state, torch.tensor(reset or [False] * 3))
        seen = seen.masked_fill(torch.tensor(reset or [False] * 3), 0)
        assert torch.equal(advanced.recent.lengths + advanced.long_term.num_tokens, seen)
        assert torch.equal(advanced.recent.lengths, seen.clamp_max(stm_length))
        _, state = step(layer, x[:, :4], state, lengths, reset)
        seen = seen + torch.tensor(lengths)


def test_layer_ignores_pads():
    """A row whose segments end early reads on as a row that never had the pads."""
    layer, x = build(), text(batch=2)
    state = start(layer, x)
    padded = torch.cat([x[:, :3], torch.full_like(x[:, :2], 50.0), x[:, 3:5], x[:, 5:8]], dim=1)
    _, state = step(layer, padded[:, :5], state, [3, 3])
    first, state = step(layer, padded[:, 5:7], state)
    second, _ = step(layer, padded[:, 7:], state)
    plain, _ = stream(layer, x[:, :8], [3, 2, 3])
    torch.testing.assert_close(torch.cat([first, second], dim=1), plain[:, 3:], rtol=1e-10, atol=1e-10)


def test_layer_keeps_rows_independent():
    layer, x = build(), text()
    changed = x.clone()
    changed[1] *= -1e4
    before, after = (stream(layer, y, [4, 4, 4])[0] for y in (x, changed))
    assert torch.equal(after[0], before[0])


def test_layer_matches_each_row_alone_for_rows_of_different_pasts():
    """Ragged segments and a reset, against each row alone."""
    layer, x = build(), text(batch=3)
    plan = [([4, 2, 4], None), ([3, 4, 1], [False, False, True]), ([4, 4, 4], None)]
    state, alone = start(layer, x), [start(layer, x[:1]) for _ in range(3)]
    for number, (lengths, reset) in enumerate(plan):
        segment = x[:, 4 * number : 4 * number + 4]
        together, state = step(layer, segment, state, lengths, reset)
        for row, length in enumerate(lengths):
            if reset and reset[row]:
                alone[row] = start(layer, x[:1])
            output, alone[row] = step(layer, segment[row : row + 1, :length], alone[row])
            torch.testing.assert_close(together[row, :length], output[0], rtol=1e-10, atol=1e-10)


def test_reorder_permutes_rows():
    layer, x = build(), text(batch=3)
    order = torch.tensor([2, 0, 0])
    _, state = step(layer, x[:, :4], start(layer, x), [4, 2, 3])
    _, state = step(layer, x[:, 4:8], state, [4, 4, 1])
    expected, _ = step(layer, x[:, 8:], state)
    turned, _ = step(layer, x[order][:, 8:], state.reorder(order))
    torch.testing.assert_close(turned, expected[order], rtol=1e-10, atol=1e-10)
    assert torch.equal(state.reorder(order).report.density.mean, state.report.density.mean[order])


def test_layer_passes_gradients_to_the_previous_segment_unless_its_state_is_detached():
    layer, x = build(), text(length=12)
    first, second = x[:, :8].requires_grad_(), x[:, 8:].clone().requires_grad_()
    _, state = step(layer, first, start(layer, x))
    for before, reached in ((state, True), (state.detach(), False)):
        output, _ = step(layer, second, before)
        gradient, own = torch.autograd.grad(output.sum(), (first, second), allow_unused=True, retain_graph=True)
        assert (gradient is not None and bool(gradient.any())) == reached
        assert bool(own.any())


def test_layer_gives_every_weight_a_gradient_once_a_memory_is_written():
    layer, x = build(), text()
    output, state = stream(layer, x, [8, 4])
    (output.square().sum() + state.report.density.variance.sum()).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_in_half_precision_keeps_the_long_term_memory_in_float32(dtype):
    layer, x = build().to(dtype), text().to(dtype)
    state = layer.initial_state(x)
    for segment in x.split(4, dim=1):
        output, state = step(layer, segment, state)
    assert output.dtype == state.recent.hidden.dtype == dtype
    assert state.long_term.coefficients.dtype == state.report.density.variance.dtype == torch.float32
    exact, _ = stream(build(), text(), [4, 4, 4])
    error = (output.double() - exact[:, 8:]).abs().max() / exact.abs().max()
    assert float(error) < 20 * torch.finfo(dtype).eps


def test_attention_mask_hides_the_future_and_empty_slots():
    recent = ShortTermMemory(torch.zeros(2, 3, DIM), torch.tensor([3, 1]))
    mask = attention_mask(recent, 2).expand(2, 1, 2, 5)[:, 0].int().tolist()
    assert mask[0] == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert mask[1] == [[1, 1, 0, 0, 1], [1, 1, 0, 0, 0]]


def test_layer_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="stm_length must be 0 or more, got -1"):
        InfiniteFormerLayer(DIM, 2, 8, stm_length=-1)
    with pytest.raises(ValueError, match="multiple of num_heads, got 6 and 4"):
        InfiniteFormerLayer(DIM, 4, 8, stm_length=0)
    with pytest.raises(ValueError, match="tanh"):
        InfiniteFormerLayer(DIM, 2, 8, stm_length=0, activation="tanh")
    with pytest.raises(ValueError, match="unknown position encoding 'sinus'; choose one of xl, rope, alibi"):
        InfiniteFormerLayer(DIM, 2, 8, stm_length=0, position_encoding="sinus")
