"""A pointer word by word: what tests compare the fast code with."""

import math
from collections.abc import Callable
from typing import Optional

import torch
from torch import Tensor

from .pointer import RECENT, Pointer

# A hidden state (C,), the word that followed it, and how surprising that was in nats, with the words read since.
Pair = tuple[Tensor, int, float, int]


def logits(hidden: Tensor, pairs: list[Pair], pointer: Pointer, output: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits (V,) of the word after a hidden state (C,) that sees these pairs."""
    total = output(hidden).exp()
    root = math.sqrt(len(hidden))
    for key, word, _, _ in pairs:
        weight = (pointer.query.weight @ hidden) @ key / root + pointer.bias * root
        total = total + torch.nn.functional.one_hot(torch.tensor(word), len(total)) * weight.exp()
    return total.log()


def read(
    hidden: Tensor,
    words: list[int],
    last: Optional[Tensor],
    pairs: list[Pair],
    pointer: Pointer,
    output: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], Tensor, list[Pair]]:
    """One row's logits after each of a segment's words, with hidden states (T, C); its last hidden state; its pairs.

    Args:
        last: the hidden state of the word before; None at the start of a text. pairs: oldest first.
    """
    given = []
    for state, word in zip(hidden, words):
        if last is not None:
            surprise = -float(output(last).log_softmax(0)[word])
            pairs = [*pairs, (last, word, surprise, 0)]
        given.append(logits(state, pairs, pointer, output))
        last = state
    pairs = [(key, word, surprise, age + len(words)) for key, word, surprise, age in pairs]
    while len(pairs) > pointer.length:
        droppable = len(pairs) - int(RECENT * pointer.length)
        worth = [math.log2(surprise) - age / pointer.half_life for _, _, surprise, age in pairs[:droppable]]
        weakest = min(range(droppable), key=worth.__getitem__)
        pairs = pairs[:weakest] + pairs[weakest + 1 :]
    return given, last, pairs
