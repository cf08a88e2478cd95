"""The pointer gives what its plain twin gives, row by row, and keeps what it says."""

import pytest
import torch
from torch import Tensor, nn

from fairseq_infformer.modules.pointer import Pointer, naive
from fairseq_infformer.modules.settings import SettingError

WIDTH, WORDS, LENGTH = 8, 11, 6


@pytest.fixture
def output() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, WORDS, bias=False).double()


@pytest.fixture
def pointer() -> Pointer:
    torch.manual_seed(1)
    pointer = Pointer(WIDTH, LENGTH, half_life=5).double()
    nn.init.normal_(pointer.query.weight)
    return pointer


def segments(rows: int, lengths: list[list[int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Hidden states (B, T, C), words (B, T) and lengths (B,) of segments."""
    torch.manual_seed(2)
    widest = [max(each) for each in lengths]
    return [
        (torch.randn(rows, width, WIDTH).double(), torch.randint(WORDS, (rows, width)), torch.tensor(each))
        for width, each in zip(widest, lengths)
    ]


def read(pointer: Pointer, output: nn.Linear, text: list, reset: dict[int, list[bool]]) -> tuple[list[Tensor], list]:
    state, logits, states = pointer.initial_state(text[0][0]), [], []
    for number, (hidden, words, lengths) in enumerate(text):
        state = state.reset(torch.tensor(reset.get(number, [False] * len(words))))
        given, state = pointer(hidden, words, lengths, state, output)
        state = pointer.between_segments(state)
        logits.append(given)
        states.append(state)
    return logits, states


LENGTHS = [[4, 1, 4], [3, 4, 0], [4, 4, 2], [1, 4, 4], [4, 3, 4]]
RESET = {3: [False, True, False]}


def test_pointer_equals_its_plain_twin_in_values_and_gradients(pointer, output):
    text = segments(3, LENGTHS)
    logits, states = read(pointer, output, text, RESET)
    parameters = [*pointer.parameters(), *output.parameters()]
    total = torch.zeros(())
    expected_total = torch.zeros(())
    for row in range(3):
        last, pairs = None, []
        for number, (hidden, words, lengths) in enumerate(text):
            if RESET.get(number, [False] * 3)[row]:
                last, pairs = None, []
            count = int(lengths[row])
            known = words[row, :count].tolist()
            given, last, pairs = naive.read(hidden[row, :count], known, last, pairs, pointer, output)
            for actual, expected in zip(logits[number][row], given):
                torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
                total = total + actual.log_softmax(0)[3]
                expected_total = expected_total + expected.log_softmax(0)[3]
            kept = states[number].pairs
            assert int(kept.keys.lengths[row]) == len(pairs)
            assert kept.tokens[row, kept.tokens.shape[1] - len(pairs) :].tolist() == [word for _, word, _, _ in pairs]
    assert max(state.pairs.tokens.shape[1] for state in states) == LENGTH
    gradients = (torch.autograd.grad(each, parameters) for each in (total, expected_total))
    for actual, expected in zip(*gradients):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_write_keeps_the_last_and_the_most_surprising(pointer, output):
    (first, second), words = torch.eye(WIDTH)[:2].double(), torch.zeros(1, 40, dtype=torch.int64)
    words[0, 2] = 7  # a rare one; the others are alike
    hidden = torch.stack([first, first, *[second] * 38])[None]
    with torch.no_grad():
        output.weight.zero_()
        output.weight[0] = 5.0
    state = pointer.initial_state(hidden)
    pointer.half_life = 1000
    for part, known in zip(hidden.split(4, 1), words.split(4, 1)):
        _, state = pointer(part, known, torch.tensor([4]), state, output)
        state = pointer.between_segments(state)
    assert state.pairs.tokens.tolist() == [[7, 0, 0, 0, 0, 0]]


def test_ablations_take_away_or_swap_what_was_read_before(pointer, output):
    text = segments(3, [[4, 4, 4], [4, 4, 4]])
    own, _ = read(pointer, output, text, {})
    pointer.ablation = "zero"
    zeroed, _ = read(pointer, output, text, {})
    pointer.ablation = "swap"
    swapped, _ = read(pointer, output, text, {})
    assert own[0].equal(zeroed[0]) and own[0].equal(swapped[0])
    assert not own[1].isclose(zeroed[1]).all() and not own[1].isclose(swapped[1]).all()
    with pytest.raises(SettingError, match="another row"):
        read(pointer, output, segments(1, [[4], [4]]), {})


def test_pointing_far_outweighs_every_logit_and_stays_finite(pointer, output):
    with torch.no_grad():
        pointer.bias.fill_(200.0)
    text = segments(2, [[4, 4]])
    logits, _ = read(pointer, output, text, {})
    total = logits[0].log_softmax(-1).sum()
    total.backward()
    assert total.isfinite() and all(each.grad.isfinite().all() for each in pointer.parameters())


@pytest.mark.parametrize(("settings", "message"), [({"length": 1}, "2 or more"), ({"half_life": 0}, "positive")])
def test_pointer_refuses_wrong_sizes(settings, message):
    with pytest.raises(SettingError, match=message):
        Pointer(**({"embed_dim": WIDTH, "length": 4, "half_life": 4} | settings))
