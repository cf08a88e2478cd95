"""Averaged weights, by ``--store-ema``: what is averaged, and that it can be resumed, scored and exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import TASK, TINY, one_error, run_here
from fairseq_cli import train

from fairseq_infformer.cli import evaluate, export

STREAMS = ["--tokens-per-sample", 16, "--batch-size", 4, "--num-workers", 0, "--disable-validation"]
AVERAGE = ["--store-ema", "--ema-decay", 0.5, "--ema-update-freq", 2]
UPDATES = 4


def train_here(data: Path, save: Path, *flags: object) -> dict[str, Any]:
    """Train in this process; the last checkpoint."""
    code, text = run_here(train.cli_main, data, *TASK, *TINY, *STREAMS, "--save-dir", save, *flags)
    assert code == 0, text
    return torch.load(save / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def averaged(documents, tmp_path_factory) -> tuple[Path, list[dict[str, Any]]]:
    """The save directory of a training with averages, and its checkpoint after each update."""
    save = tmp_path_factory.mktemp("averaged")
    train_here(documents, save, *AVERAGE, "--max-update", UPDATES, "--save-interval-updates", 1)
    return save, [torch.load(save / f"checkpoint_1_{update + 1}.pt") for update in range(UPDATES)]


def test_ema_averages_each_weight_once_and_no_buffer(averaged):
    """The tied embedding too, which has two names; the average starts at the weights after the first update."""
    expected = {}
    for update, state in enumerate(averaged[1], start=1):
        weights = state["model"]
        if update % 2 == 0:
            expected = {name: (expected[name] + value) / 2 for name, value in weights.items()}
        expected = (expected or weights) | {name: weights[name] for name in weights if "checksum" in name}
        # Both are sums of a few numbers in float32, in another order.
        torch.testing.assert_close(state["extra_state"]["ema"], expected, rtol=1e-6, atol=1e-7)
    assert {"decoder.dictionary_checksum", "decoder.output_projection.weight"} <= set(expected)


def test_ema_leaves_the_training_as_it_is(averaged, documents, tmp_path):
    alone = train_here(documents, tmp_path, "--max-update", UPDATES)
    beside = averaged[1][-1]
    for part in ("model", "last_optimizer_state"):
        torch.testing.assert_close(alone[part], beside[part], rtol=0, atol=0)
    memory = [state["extra_state"]["train_iterator"]["memory"] for state in (alone, beside)]
    torch.testing.assert_close(*memory, rtol=0, atol=0)


def test_ema_resumes_to_the_same_average(averaged, documents, tmp_path):
    """After an odd number of updates, where averages are taken at even ones."""
    shutil.copy(averaged[0] / "checkpoint_1_3.pt", tmp_path / "checkpoint_last.pt")
    resumed = train_here(documents, tmp_path, *AVERAGE, "--max-update", UPDATES)
    whole = averaged[1][-1]
    torch.testing.assert_close(resumed["extra_state"]["ema"], whole["extra_state"]["ema"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["model"], whole["model"], rtol=0, atol=0)


def test_ema_starts_from_the_weights_of_a_checkpoint_without_one(documents, tmp_path, caplog):
    before = train_here(documents, tmp_path, "--max-update", 1)
    after = train_here(documents, tmp_path, "--max-update", 2, *AVERAGE)
    assert "averaging starts from its weights" in caplog.text
    name = "decoder.final_norm.weight"
    expected = 0.5 * before["model"][name] + 0.5 * after["model"][name]
    torch.testing.assert_close(after["extra_state"]["ema"][name], expected)


def score_here(capsys, *flags: object) -> float:
    code, text = run_here(evaluate.main, *flags, "--json", "--cpu", "--tokens-per-sample", 400, "--split", "valid")
    assert code == 0, text
    return json.loads(capsys.readouterr().out)["nll"]


def test_ema_weights_are_scored_and_exported(averaged, documents, tmp_path, capsys):
    path = averaged[0] / "checkpoint_last.pt"
    weights, average = (score_here(capsys, documents, "--path", path, *flags) for flags in ([], ["--ema"]))
    code, text = run_here(
        lambda: export.main([str(part) for part in (documents, "--path", path, "--ema", "--dest", tmp_path / "given")])
    )
    assert code == 0, text
    capsys.readouterr()
    assert weights != average == score_here(capsys, documents, "--path", tmp_path / "given")


def test_ema_must_be_requested_exactly_where_there_is_one(trained, documents, tmp_path):
    _, text = run_here(evaluate.main, documents, "--path", trained[0], "--ema", "--cpu")
    assert f"{trained[0]} has no averaged weights, which --store-ema saves in training" in one_error(text)
    given = [str(part) for part in (documents, "--path", trained[0], "--ema", "--dest", tmp_path / "given")]
    code, text = run_here(lambda: export.main(given))
    assert code == 1 and "has no averaged weights" in one_error(text)
    assert not (tmp_path / "given").exists()
