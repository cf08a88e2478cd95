"""What must be true of any long-term memory: a test class asks for one method, ``make``."""

from abc import ABC, abstractmethod
from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.attention import RelativeAttention
from fairseq_infformer.modules.layers import InfiniteFormerLayer, LayerState
from fairseq_infformer.modules.memories import LongTermMemory, Read, ablate
from fairseq_infformer.modules.short_term_memory import ShortTermMemory
from fairseq_infformer.modules.state import named_tensors, with_tensors

DIM, HEADS, ROWS = 8, 2, 4


def vectors(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, length, DIM, generator=torch.Generator().manual_seed(seed))


def same(a: Any, b: Any) -> None:
    """Two states, or what two reads gave, but for rounding: float32 sums of some ten terms, of other shapes."""
    torch.testing.assert_close(named_tensors(a), named_tensors(b), rtol=1e-4, atol=1e-5)


class MemoryContract(ABC):
    """Inherit it and say how to make the memory, of width DIM and HEADS heads."""

    @abstractmethod
    def make(self) -> LongTermMemory:
        """A memory whose weights make every part matter."""

    @pytest.fixture
    def memory(self) -> LongTermMemory:
        torch.manual_seed(0)
        return self.make().train()

    @pytest.fixture
    def attention(self) -> RelativeAttention:
        torch.manual_seed(1)
        return RelativeAttention(DIM, HEADS)

    def written(self, memory: LongTermMemory, attention: RelativeAttention, rows: Tensor | None = None) -> Any:
        """After three writes, each read once, of rows with texts of other lengths."""
        rows = torch.arange(ROWS) if rows is None else rows
        state, report = memory.initial_state(len(rows)), None
        for number, lengths in enumerate(([6, 4, 0, 1], [3, 6, 2, 6], [6, 6, 6, 5])):
            new = vectors(ROWS, 6, seed=number)[rows]
            state = memory.write(state, new, torch.tensor(lengths)[rows], report=report)
            report = self.read(memory, state, attention, rows).report
        return state

    def read(self, memory: LongTermMemory, state: Any, attention: RelativeAttention, rows: Tensor) -> Read:
        query = vectors(ROWS, 5, seed=9)[rows]
        return memory.read(query, query, torch.tensor([5, 3, 4, 1])[rows], state, attention)

    @torch.no_grad()
    def output(self, memory: LongTermMemory, state: Any) -> Tensor:
        """What a layer makes of a memory: its empty places may hold anything."""
        torch.manual_seed(2)
        layer, x = InfiniteFormerLayer(DIM, HEADS, 16, 0, memory), vectors(ROWS, 5, seed=9)
        recent = ShortTermMemory.empty(ROWS, 0, DIM, x)
        return layer(x, torch.full((ROWS,), 5), LayerState(recent, state, None))[0]

    def test_initial_state_is_empty(self, memory):
        state = memory.initial_state(ROWS)
        assert state.is_empty().tolist() == [True] * ROWS
        state = memory.write(state, vectors(ROWS, 6), torch.tensor([6, 0, 1, 0]))
        assert state.is_empty().tolist() == [False, True, False, True]

    def test_rows_match_each_row_alone(self, memory, attention):
        together = self.written(memory, attention)
        for row in range(ROWS):
            rows = torch.tensor([row])
            alone = self.written(memory, attention, rows)
            same(alone, together.reorder(rows))
            same(self.read(memory, alone, attention, rows), self.read(memory, together.reorder(rows), attention, rows))

    def test_write_keeps_rows_independent_to_the_bit(self, memory, attention):
        state, new = self.written(memory, attention), vectors(ROWS, 6, seed=5)
        other = new.clone()
        other[1] = other[1].flip(0) + 1
        a, b = (named_tensors(memory.write(state, x)) for x in (new, other))
        for name in a:
            for row in (0, 2, 3):
                assert torch.equal(a[name][row], b[name][row]), name

    def test_write_ignores_pads(self, memory, attention):
        state, lengths = self.written(memory, attention), torch.tensor([6, 3, 0, 1])
        new = vectors(ROWS, 6, seed=5)
        padded = new.masked_fill((torch.arange(6) >= lengths[:, None])[:, :, None], 1e3)
        same(memory.write(state, padded, lengths), memory.write(state, new, lengths))

    def test_write_empties_reset_rows(self, memory, attention):
        state = self.written(memory, attention)
        reset = torch.tensor([True, False, True, False])
        assert state.reset(reset).is_empty().tolist() == reset.tolist()
        new = vectors(ROWS, 6, seed=5)
        after = memory.write(state, new, reset=reset)
        fresh = memory.write(memory.initial_state(ROWS), new)
        kept = memory.write(state, new)
        found, never_read, read_on = (self.output(memory, each) for each in (after, fresh, kept))
        torch.testing.assert_close(found, torch.where(reset[:, None, None], never_read, read_on), rtol=1e-4, atol=1e-5)

    def test_write_leaves_its_arguments_unchanged_and_repeats_to_the_bit(self, memory, attention):
        state, new = self.written(memory, attention), vectors(ROWS, 6, seed=5)
        before = {name: tensor.clone() for name, tensor in named_tensors(state).items()}
        first, second = (named_tensors(memory.write(state, new)) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(torch.equal(before[name], tensor) for name, tensor in named_tensors(state).items())

    def test_named_tensors_restore_a_state_and_keep_their_shapes(self, memory, attention):
        state = self.written(memory, attention)
        saved = named_tensors(state)
        assert saved and all(tensor.shape[0] == ROWS for tensor in saved.values())
        later = memory.write(state, vectors(ROWS, 6, seed=5))
        assert {name: tensor.shape for name, tensor in named_tensors(later).items()} == {
            name: tensor.shape for name, tensor in saved.items()
        }
        same(with_tensors(later, saved), state)

    def test_state_reorders_and_detaches(self, memory, attention):
        order = torch.tensor([2, 0, 0, 3])
        state = self.written(memory, attention)
        new = vectors(ROWS, 6, seed=5)
        same(memory.write(state, new).reorder(order), memory.write(state.reorder(order), new[order]))
        carrying = memory.write(state, new.clone().requires_grad_())
        floats = [tensor for tensor in named_tensors(carrying.detach()).values() if tensor.is_floating_point()]
        assert not any(tensor.requires_grad for tensor in floats)

    def test_write_passes_gradients_through_a_chain_of_writes(self, memory, attention):
        texts = [vectors(ROWS, 6, seed=number).requires_grad_() for number in range(3)]
        state = memory.initial_state(ROWS)
        for new in texts:
            state = memory.write(state, new)
        read = self.read(memory.eval(), state, attention, torch.arange(ROWS))
        found = [x for x in (read.context, read.extra and read.extra.hidden) if x is not None]
        for gradient in torch.autograd.grad(sum(x.square().sum() for x in found), texts):
            assert bool(gradient.isfinite().all()) and bool(gradient.any())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_layer_in_half_precision_is_close_to_float32(self, memory, attention, dtype):
        layer = InfiniteFormerLayer(DIM, HEADS, 16, 4, memory).eval()
        outputs = []
        for precision in (torch.float32, dtype):
            layer.to(precision)
            state = layer.initial_state(vectors(ROWS, 6).to(precision))
            for number in range(4):
                state = layer.advance(state, torch.full((ROWS,), number == 0))
                with torch.no_grad():
                    x, state = layer(vectors(ROWS, 6, seed=number).to(precision), torch.full((ROWS,), 6), state)
            assert x.dtype == precision
            outputs.append(x.float())
        # Some ten roundings, each of half an epsilon of the largest value.
        torch.testing.assert_close(*outputs, rtol=0, atol=20 * torch.finfo(dtype).eps * float(outputs[0].abs().max()))

    def test_layer_gives_every_parameter_of_the_memory_a_gradient(self, memory):
        layer = InfiniteFormerLayer(DIM, HEADS, 16, 4, memory)
        state, loss = layer.initial_state(vectors(ROWS, 6)), torch.zeros(())
        for number in range(3):
            state = layer.advance(state, torch.full((ROWS,), number == 0))
            x, state = layer(vectors(ROWS, 6, seed=number), torch.full((ROWS,), 6), state)
            loss = loss + x.square().sum()
            if state.report is not None:
                loss = loss + sum(figure.value.sum() for figure in memory.figures(state.report).values())
        loss.backward()
        assert not [name for name, parameter in memory.named_parameters() if parameter.grad is None]

    def test_ablate_changes_what_is_read(self, memory, attention):
        layer = InfiniteFormerLayer(DIM, HEADS, 16, 0, memory).eval()
        texts = [vectors(ROWS, 6, seed=number) for number in range(2)]

        @torch.no_grad()
        def last() -> Tensor:
            state = layer.initial_state(texts[0])
            for number, x in enumerate(texts):
                state = layer.advance(state, torch.full((ROWS,), number == 0))
                x, state = layer(x, torch.full((ROWS,), 6), state)
            return x

        own, read = last(), memory.read
        for ablation in ("zero", "swap"):
            ablate(memory, ablation)
            assert not torch.allclose(last(), own, atol=1e-4)
            memory.read = read
