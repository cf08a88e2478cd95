"""The encoder's layer against the reference, query by query, and with any memory in the bank's place."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.layers import AugmentedMemoryLayer
from fairseq_infformer.modules.layers.naive import augmented_memory_layer
from fairseq_infformer.modules.memories import MEMORIES
from fairseq_infformer.modules.memories.bank import BankMemory

DIM, HEADS, LEFT, SEGMENT, RIGHT = 8, 2, 2, 4, 3


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def windows(x: Tensor):
    """Each segment of ``x`` (B, T, C) with its context, which of the window is the segment, and how much is before."""
    for start in range(0, x.shape[1], SEGMENT):
        left = min(LEFT, start)
        yield x[:, start - left : start + SEGMENT + RIGHT], slice(left, left + SEGMENT), start - left


@pytest.fixture
def layer() -> AugmentedMemoryLayer:
    torch.manual_seed(0)
    layer = AugmentedMemoryLayer(DIM, HEADS, 16, BankMemory(DIM, HEADS, length=2)).double()
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm.weight" in name else 0.0, std=0.3)
        else:
            torch.nn.init.xavier_uniform_(parameter, gain=2)
    return layer


def test_layer_matches_the_reference_in_values_and_gradients(layer):
    """Rows of 17 and 6 vectors: five segments, of which the second row has one and a half."""
    x, lengths = vectors(2, 17).requires_grad_(), torch.tensor([17, 6])
    state, found = layer.initial_state(2), []
    for window, segment, before in windows(x):
        held = (lengths - before).clamp(0, window.shape[1])
        out, state, _ = layer(window, held, segment, state)
        found.append(out[:, segment])
    expected = []
    for row, length in enumerate(lengths.tolist()):
        bank, outputs = [], []
        for window, segment, _ in windows(x[row : row + 1, :length]):
            out, bank = augmented_memory_layer(window[0], segment, bank, layer)
            outputs.append(out[segment])
        expected.append(torch.cat(outputs))
    fast = [torch.cat(found, dim=1)[row, :length] for row, length in enumerate(lengths.tolist())]
    inputs = [x, *layer.parameters()]
    for a, b in zip(fast, expected):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    gradients = (torch.autograd.grad(sum(a.square().sum() for a in rows), inputs) for rows in (fast, expected))
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MEMORIES)
def test_layer_reads_earlier_segments_through_any_memory(name):
    """The third segment depends on the first, which its left context does not reach, if there is a memory."""
    torch.manual_seed(0)
    registered = MEMORIES[name]
    memory = registered.memory.build(registered.settings(), DIM, HEADS, layer=0)
    for parameter in memory.parameters():
        if parameter.dim() == 2 and not parameter.any():
            torch.nn.init.xavier_uniform_(parameter)

    def last(x: Tensor, layer: AugmentedMemoryLayer) -> Tensor:
        state = layer.initial_state(len(x))
        for window, segment, _ in windows(x):
            out, state, _ = layer(window, torch.tensor([window.shape[1]]), segment, state)
        return out[:, segment]

    for own, reaches in ((memory, True), (None, False)):
        layer = AugmentedMemoryLayer(DIM, HEADS, 16, own).eval()
        x = vectors(1, 12).float()
        changed = x.clone()
        changed[:, :2] += vectors(1, 2, seed=1).float()
        with torch.no_grad():
            assert torch.allclose(last(x, layer), last(changed, layer), rtol=0, atol=1e-6) is not reaches
