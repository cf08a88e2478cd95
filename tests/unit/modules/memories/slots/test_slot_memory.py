"""The slots against the reference, slot by slot, and what Memformer's writer promises of them."""

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules.attention import PlainAttention
from fairseq_infformer.modules.memories.slots import SlotMemory, SlotState, naive
from fairseq_infformer.modules.settings import SettingError

DIM, HEADS, COUNT = 12, 3, 4


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def build(temperature: float = 0.5, **settings) -> SlotMemory:
    """With weights at random, so that every part matters."""
    torch.manual_seed(0)
    memory = SlotMemory(DIM, HEADS, COUNT, temperature, **settings).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.normal_(std=0.4)
    return memory


def read(memory: SlotMemory, query: Tensor, state: SlotState) -> Tensor:
    lengths = torch.full((len(query),), query.shape[1])
    return memory.read(query, query, lengths, state, PlainAttention(DIM, HEADS)).context


def same(actual: Tensor, expected: Tensor) -> None:
    """In float64, sums of some ten products of numbers of about 1."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head_dim", [None, 6])
def test_write_and_read_match_the_reference_in_values_and_gradients(head_dim):
    """Three writes of rows of other lengths, one of which begins anew, then a read."""
    memory = build(head_dim=head_dim)
    texts = [vectors(2, 5, seed=number).requires_grad_() for number in range(3)]
    query = torch.cat([vectors(2, 3, seed=9)] * (1 if head_dim is None else 2), dim=-1)[..., : HEADS * (head_dim or 4)]
    lengths, reset = [[5, 2], [3, 0], [1, 4]], torch.tensor([False, True])
    state, rows = memory.initial_state(2), [naive.initial_slots(memory.writer)] * 2
    for number, (new, counts) in enumerate(zip(texts, lengths)):
        state = memory.write(state, new, torch.tensor(counts), reset if number == 2 else None)
        for row, count in enumerate(counts):
            before = naive.initial_slots(memory.writer) if number == 2 and reset[row] else rows[row]
            rows[row] = naive.write(before, new[row, :count], memory.writer) if count else before
        same(state.slots, torch.stack([torch.stack(row) for row in rows]))
    fast = read(memory, query, state)
    slow = torch.stack([naive.read(query[row], rows[row], memory.reader) for row in range(2)])
    same(fast, slow)
    weights, inputs = vectors(2, 3, seed=4), [*texts, *memory.parameters()]
    for found, expected in zip(*(torch.autograd.grad((x * weights).sum(), inputs) for x in (fast, slow))):
        same(found, expected)
    assert not texts[0].grad


def test_write_gradients_equal_differences():
    memory, query = build(), vectors(1, 2, seed=9)

    def chained(first: Tensor, second: Tensor) -> Tensor:
        return read(memory, query, memory.write(memory.write(memory.initial_state(1), first), second))

    texts = [vectors(1, 3, seed=number).requires_grad_() for number in range(2)]
    assert torch.autograd.gradcheck(chained, texts)


def test_slots_are_as_long_as_normalised_hidden_states():
    memory = build()
    state = memory.write(memory.initial_state(2), 100 * vectors(2, 5))
    same(state.slots.norm(dim=-1), torch.full((2, COUNT), DIM**0.5, dtype=torch.float64))


def test_slot_turns_to_its_bias_where_it_only_keeps_itself():
    """What a slot holds is forgotten, the sooner the longer its bias is."""
    angles = []
    for size in (0.01, 0.1):
        memory = build()
        with torch.no_grad():
            memory.writer.bias.copy_(size * torch.nn.functional.normalize(vectors(COUNT), dim=-1))
            memory.writer.k_proj.weight.zero_()
            memory.writer.v_proj.weight.zero_()
        held = memory.writer.normalised(vectors(1, COUNT, seed=5))
        state, nothing = SlotState(held, torch.tensor([1])), vectors(1, 1, seed=6)
        cosines = []
        for _ in range(4):
            state = memory.write(state, nothing)
            cosines.append(torch.cosine_similarity(state.slots[0], memory.writer.bias, dim=-1))
        assert bool((torch.stack(cosines).diff(dim=0) > 0).all())
        angles.append(float(cosines[-1].mean()))
    assert angles[0] < angles[1]


def test_low_temperature_keeps_a_slot_or_takes_one_vector():
    memory, held, new = build(temperature=1e-3), vectors(1, COUNT, seed=5), vectors(1, 4)
    weights = []
    for size in (1.0, 1e3):
        memory.writer.temperature = 1e-3 * size
        slots = memory.writer.attend(held, new, torch.tensor([4]))[0].unflatten(-1, (HEADS, -1))
        choices = torch.cat([held[0, :, None], (new @ memory.writer.v_proj.weight.T)[0].expand(COUNT, -1, -1)], dim=1)
        distance = (choices.unflatten(-1, (HEADS, -1)) - slots[:, None]).norm(dim=-1).amin(1)  # (k, H)
        weights.append(float(distance.mean()))
    assert weights[0] < 1e-2 < 0.1 < weights[1]


def test_memory_starts_with_slots_that_differ_keep_themselves_and_take_what_is_like_them():
    torch.manual_seed(0)
    memory = SlotMemory(64, 4, count=8)
    start = torch.stack(naive.initial_slots(memory.writer)).detach()
    similar = torch.nn.functional.normalize(start, dim=-1) @ torch.nn.functional.normalize(start, dim=-1).T
    assert float((similar - torch.eye(8)).abs().max()) < 1e-5
    state = SlotState(start[None], torch.tensor([1]))
    after = memory.write(state, torch.nn.functional.layer_norm(torch.randn(1, 16, 64), (64,))).slots[0]
    kept = torch.cosine_similarity(start, after, dim=-1)
    assert float(kept.mean()) > 0.7
    after = memory.write(state, torch.cat([torch.randn(1, 3, 64), 1.5 * start[None, 2:3]], dim=1)).slots[0]
    assert float(torch.cosine_similarity(after[2], start[2], dim=0)) > 0.99


def test_start_alike_lets_a_query_read_the_slot_that_is_like_it():
    memory = SlotMemory(64, 4, count=8)
    weight = torch.nn.init.xavier_uniform_(torch.empty(64, 64))
    memory.start_alike(weight)
    torch.nn.init.eye_(memory.reader.v_proj.weight), torch.nn.init.eye_(memory.reader.out_proj.weight)
    state = SlotState(memory.writer.normalised(torch.randn(1, 8, 64)), torch.tensor([1]))
    found = memory.read(state.slots @ weight.T, state.slots, torch.tensor([8]), state, PlainAttention(64, 4)).context
    similar = torch.cosine_similarity(found[0, :, None], state.slots[0, None], dim=-1)
    assert similar.argmax(-1).tolist() == list(range(8))


def test_state_follows_the_precision_of_the_model():
    """Public code called ``memory.to()`` and dropped what it returned."""
    memory = build()
    assert memory.write(memory.initial_state(1), vectors(1, 3)).slots.dtype == torch.float64
    memory = memory.to(torch.bfloat16)
    state = memory.write(memory.initial_state(1), vectors(1, 3).bfloat16())
    assert state.slots.dtype == torch.float32
    assert read(memory, vectors(1, 2).bfloat16(), state).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be 1 or more, got 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
    ],
)
def test_slot_memory_refuses_wrong_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        SlotMemory(DIM, HEADS, **settings)
