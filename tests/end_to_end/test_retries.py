"""Segments that fairseq runs twice, or not at all: simulated faults in its own trainer.

The weights stay as they are (``--lr 0``), so the memory after every update must be that of a run without the fault, to
the bit.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import count, islice
from typing import Any, Optional

import pytest
import torch
from in_process import memory_of, start, training_configuration
from torch.utils._pytree import tree_leaves

SETTINGS = ["--tokens-per-sample", 6, "--batch-size", 3, "--document-boundaries", "reset", "--ltm-sampling", "sticky"]
UPDATES = 6


def groups_of(batches: Any, update_freq: int) -> list[list[dict]]:
    return [list(islice(batches, update_freq)) for _ in range(UPDATES)]


@pytest.fixture(scope="module")
def trained_with(documents, tmp_path_factory) -> Iterator[Callable[..., list[Any]]]:
    """Trains for ``UPDATES`` groups of segments; the memory after each of them. Equal runs are one run."""

    @cache
    def faultless(*flags: object, **settings: float) -> list[Any]:
        return run_with({}, *flags, **settings)

    def run(faults: dict[int, Any], *flags: object, **settings: float) -> list[Any]:
        return run_with(faults, *flags, **settings) if faults else faultless(*flags, **settings)

    def run_with(faults: dict[int, Any], *flags: object, update_freq: int = 1, learning_rate: float = 0) -> list[Any]:
        """``faults``: what clipping the gradients raises, or the norm that it returns, by the number of the call."""
        save = tmp_path_factory.mktemp("save")
        trainer, batches = start(training_configuration(documents, save, *SETTINGS, "--lr", learning_rate, *flags))
        clip, calls, memories = trainer.clip_grad_norm, count(), []

        def clip_or_fail(*arguments: Any) -> torch.Tensor:
            fault = faults.get(next(calls))
            if isinstance(fault, Exception):
                raise fault
            return clip(*arguments) if fault is None else torch.tensor(fault)

        trainer.clip_grad_norm = clip_or_fail
        for group in groups_of(batches, update_freq):
            with suppress(FloatingPointError):  # it is raised again after the run that looks for its cause
                trainer.train_step(group)
            memories.append(memory_of(trainer))
        assert not faults or next(calls) > max(faults)
        return memories

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "cuda", lambda self: self)  # fairseq, once gradients have overflowed
        yield run


def equal(first: Any, second: Any) -> bool:
    """Whether two memories are the same to the bit; both must hold something."""
    pairs = list(zip(tree_leaves(first), tree_leaves(second), strict=True))
    return len(pairs) > 4 and all(a is b is None or torch.equal(a, b) for a, b in pairs)


INFINITE = float("inf")
SAME_UPDATE_TWICE = [
    pytest.param({2: OverflowError("loss scale")}, [], id="the update is skipped"),
    pytest.param({2: FloatingPointError("NaN")}, [], id="run again to find a NaN"),
    pytest.param({2: INFINITE}, ["--amp"], id="amp: run again"),
    pytest.param({2: INFINITE}, ["--amp", "--bptt-segments", 2], id="amp: run again, two segments per sample"),
    pytest.param({2: INFINITE, 3: INFINITE}, ["--amp"], id="amp: run again twice"),
    pytest.param(dict.fromkeys((2, 3, 4), INFINITE), ["--amp"], id="amp: run again twice, then skipped"),
    pytest.param(dict.fromkeys(range(2, 9), INFINITE), ["--amp"], id="amp: two updates skipped and one run again"),
]


@pytest.mark.parametrize("update_freq", [1, 3])
@pytest.mark.parametrize(("faults", "flags"), SAME_UPDATE_TWICE)
def test_failed_update_writes_each_segment_once(faults, flags, update_freq, trained_with):
    expected = trained_with({}, *flags, update_freq=update_freq)
    found = trained_with(faults, *flags, update_freq=update_freq)
    assert [equal(a, b) for a, b in zip(found, expected)] == [True] * UPDATES
    assert not equal(expected[1], expected[2])


def test_repeated_update_repeats_its_dropout(trained_with):
    flags = ["--amp", "--dropout", 0.3]
    expected, found = (trained_with(faults, *flags, update_freq=2) for faults in ({}, {2: INFINITE}))
    assert [equal(a, b) for a, b in zip(found, expected)] == [True] * UPDATES


def test_checkpoint_activations_writes_each_segment_once(trained_with):
    flags = ["--dropout", 0.1, "--attention-dropout", 0.1]
    expected = trained_with({}, *flags, learning_rate=1e-2)
    found = trained_with({}, *flags, "--checkpoint-activations", learning_rate=1e-2)
    assert [equal(a, b) for a, b in zip(found, expected)] == [True] * UPDATES


# ---- Out of memory


class OutOfMemoryOnce:
    """Wraps a function: its call of this number fails, before or after its work."""

    def __init__(self, function: Callable, call: int, afterwards: bool = False) -> None:
        self.function, self.call, self.afterwards, self.calls = function, call, afterwards, count()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        fails = next(self.calls) == self.call
        result: Optional[Any] = None if fails and not self.afterwards else self.function(*arguments, **named)
        if fails:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return result


def fail(trainer: Any, where: str, call: int) -> None:
    """Make the second layer, or the criterion once the model has run, run out of memory at its call of this number."""
    criterion, layer = trainer.get_criterion(), trainer.get_model().decoder.layers[1]
    if where == "layer":
        layer.forward = OutOfMemoryOnce(layer.forward, call)
    else:
        criterion.forward = OutOfMemoryOnce(criterion.forward, call, afterwards=True)


@pytest.mark.parametrize("where", ["layer", "criterion"])
def test_out_of_memory_in_validation_writes_the_segment_once(where, documents, tmp_path):
    runs = []
    for call in (None, 2):
        trainer, _ = start(training_configuration(documents, tmp_path, *SETTINGS))
        if call is not None:
            fail(trainer, where, call)
        batches = trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False)
        runs.append(
            [(trainer.valid_step(batch)["nll_loss"], memory_of(trainer, False)) for batch in islice(batches, 6)]
        )
    for (loss, memory), (expected_loss, expected_memory) in zip(*runs):
        assert loss == expected_loss
        assert equal(memory, expected_memory)


def test_out_of_memory_after_the_forward_pass_keeps_the_segment(documents, tmp_path):
    runs = []
    for call in (None, 2):
        trainer, batches = start(training_configuration(documents, tmp_path, *SETTINGS, "--lr", 0))
        if call is not None:
            fail(trainer, "criterion", call)
        runs.append([(trainer.train_step([batch]), memory_of(trainer))[1] for batch in islice(batches, 6)])
    assert all(equal(a, b) for a, b in zip(*runs))


def test_out_of_memory_before_the_read_empties_the_memory_with_a_warning(documents, tmp_path, caplog):
    """fairseq skips it; a document that began in it would continue with the memory of the one before."""
    trainer, batches = start(training_configuration(documents, tmp_path, *SETTINGS, "--lr", 0))
    fail(trainer, "layer", 2)
    with caplog.at_level(logging.WARNING):
        for batch in islice(batches, 4):
            trainer.train_step([batch])
    assert "the memory ends with segment 1, but the batch is segment 3" in caplog.text
    for state in memory_of(trainer):
        assert (state.recent.lengths + state.long_term.num_tokens).tolist() == [6, 6, 6]
