"""Memformer as a user trains, resumes and scores it."""

import subprocess
from pathlib import Path

import pytest
import torch
from command_line import (
    BIN,
    TASK,
    as_flags,
    eval_lm,
    infformer_eval,
    logged,
    one_error,
    perplexity,
    run,
    run_forked,
    scored,
)

MEMFORMER = as_flags(
    arch="memformer_lm_tiny",
    decoder_embed_dim=32,
    decoder_ffn_embed_dim=32,
    criterion="ltm_cross_entropy",
    log_format="simple",
    log_interval=1,
    num_workers=0,
    cpu=True,
    document_boundaries="reset",
    tokens_per_sample=16,
    bptt_segments=4,
    no_epoch_checkpoints=True,
)
ADAM = as_flags(optimizer="adam", lr="1e-2", dropout=0.1, batch_size=12, batch_size_valid=4, disable_validation=True)
READING = as_flags(tokens_per_sample=16, document_boundaries="reset", batch_size=4)


def train(data: Path, save: Path, *more: object) -> str:
    return run_forked("fairseq-train", data, *TASK, *MEMFORMER, "--save-dir", save, *more).stdout


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory) -> tuple[Path, str]:
    """Twelve updates of four segments: the checkpoint and the log."""
    save = tmp_path_factory.mktemp("memformer")
    log = train(documents, save, *ADAM, "--bptt-replay", "--max-update", 12)
    return save / "checkpoint_last.pt", log


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


def test_stopped_training_resumes_to_the_same_losses_weights_and_memory(trained, documents, tmp_path):
    train(documents, tmp_path, *ADAM, "--bptt-replay", "--max-update", 7)
    log = train(documents, tmp_path, *ADAM, "--bptt-replay", "--max-update", 12)
    for name in ("num_updates", "loss", "gnorm"):
        assert logged(log, "train_inner", name) == logged(trained[1], "train_inner", name)[7:]
    whole, resumed = (torch.load(file, weights_only=True) for file in (trained[0], tmp_path / "checkpoint_last.pt"))
    torch.testing.assert_close(resumed["model"], whole["model"], rtol=0, atol=0)
    memories = [saved["extra_state"]["train_iterator"]["memory"] for saved in (resumed, whole)]
    torch.testing.assert_close(*memories, rtol=0, atol=0)
    assert "layers.0.memory.slots" in memories[0]


def test_replay_trains_as_without(trained, documents, tmp_path):
    log = train(documents, tmp_path, *ADAM, "--max-update", 12)
    # Logs have three decimals, and Adam enlarges what rounding changes.
    assert logged(log, "train_inner", "loss") == pytest.approx(logged(trained[1], "train_inner", "loss"), abs=0.011)


def test_eval_lm_and_infformer_eval_score_every_token_once_and_alike(trained, documents):
    printed = eval_lm(documents, trained[0], *READING).stdout
    found = infformer_eval(documents, trained[0], *READING)
    assert scored(printed) == found["tokens"] == 4 * 202
    assert perplexity(printed) == pytest.approx(found["perplexity_per_token"], abs=0.01)
    ablated = [infformer_eval(documents, trained[0], *READING, "--ablation", name)["nll"] for name in ("zero", "swap")]
    assert len({found["nll"], *ablated}) == 3


def test_infformer_eval_refuses_a_short_term_memory_that_the_model_lacks(trained, documents):
    done = run_forked("infformer-eval", documents, "--path", trained[0], "--stm-length", 8, check=False)
    assert done.returncode == 1
    assert "--stm-length 8 does not apply, because memformer_lm_tiny has no short-term memory" in one_error(done.stdout)


# Plain gradient descent, so that weights differ as gradients do, and no ReLU, whose kink makes a thousand roundings of
# one.
PLAIN = as_flags(optimizer="sgd", lr=0.1, activation_fn="gelu", max_update=15, disable_validation=True)


@pytest.fixture(scope="module")
def alone(documents, tmp_path_factory) -> tuple[Path, str]:
    """Fifteen updates of ten streams in one process: the checkpoint and the log."""
    save = tmp_path_factory.mktemp("alone")
    return save / "checkpoint_last.pt", train(documents, save, *PLAIN, "--batch-size", 10)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_processes_train_as_one_with_twice_the_streams(backend, alone, documents, tmp_path):
    command = [documents, *TASK, *MEMFORMER, *PLAIN, "--batch-size", 5, "--bptt-replay", "--ddp-backend", backend]
    launched = [BIN / "torchrun", "--standalone", "--nproc-per-node", 2, "-m", "fairseq_cli.train"]
    log = run(*launched, *command, "--save-dir", tmp_path, stderr=subprocess.STDOUT).stdout
    for name in ("loss", "gnorm"):
        one = logged(alone[1], "train_inner", name)
        assert len(one) == 15
        assert logged(log, "train_inner", name) == pytest.approx(one, abs=0.0011)
    # Float32 sums in another order.
    torch.testing.assert_close(weights(tmp_path / "checkpoint_last.pt"), weights(alone[0]), rtol=1e-4, atol=1e-5)
