"""The memory that a training left is compared with one that its final weights write, on the text that follows."""

import re

import pytest
from command_line import run_forked, train


def staleness(documents, save, *training: object, check: bool = True) -> str:
    """What the script says of the last checkpoint of a training."""
    settings = ["--tokens-per-sample", 16, "--document-boundaries", "reset", "--batch-size", 24]
    train(documents, save, *settings, "--no-epoch-checkpoints", "--disable-validation", *training)
    command = ["recipes.benchmarks.staleness", documents, "--segments", 5]
    return run_forked(*command, "--path", save / "checkpoint_last.pt", check=check).stdout


def perplexities(printed: str) -> list[float]:
    """With the memory of training, with one of the final weights, with none."""
    return [float(value) for value in re.findall(r"^ *([\d.]+)  ", printed, re.MULTILINE)]


@pytest.mark.slow
def test_staleness_is_zero_unless_the_weights_have_moved(documents, tmp_path):
    still = perplexities(staleness(documents, tmp_path / "still", "--lr", 0.0, "--max-update", 20))
    # The second was written without gradients, perhaps by other kernels: of two digits, the last may differ.
    assert len(still) == 3 and still[0] == pytest.approx(still[1], abs=0.011)
    moved = perplexities(staleness(documents, tmp_path / "moved", "--lr", 1e-2, "--max-update", 20))
    assert len(set(moved)) == 3 and abs(moved[0] - moved[1]) > 0.011


@pytest.mark.slow
def test_staleness_refuses_the_end_of_an_epoch(documents, tmp_path):
    printed = staleness(documents, tmp_path, "--max-epoch", 1, check=False)
    assert "error: " in printed and "stands at the end of an epoch; take another checkpoint" in printed
