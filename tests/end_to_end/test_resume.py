"""A training that was killed resumes as if it never had been: losses, weights and memory, to the bit."""

import copy
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import TASK, TINY, eval_lm, free_port, logged, perplexity, run_here, train
from fairseq_cli import train as fairseq_train
from forking import start_command
from in_process import start, training_configuration

from fairseq_infformer.errors import InputError
from fairseq_infformer.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

SAVING = ["--save-interval-updates", 4, "--disable-validation", "--no-epoch-checkpoints", "--log-interval", 1]
RESET = ["--document-boundaries", "reset"]


def train_on(ranks: int, data: Path, save: Path, *more: object, kill_at: int | None = None) -> list[str]:
    """Train on ``ranks`` processes, which kill themselves after ``kill_at`` updates, in the next; their outputs."""

    def deadly() -> None:
        step = StreamingLanguageModelingTask.optimizer_step

        def optimizer_step(self: Any, optimizer: Any, model: Any, update_num: int) -> None:
            if update_num == kill_at:
                signal.raise_signal(signal.SIGKILL)
            step(self, optimizer, model, update_num)

        StreamingLanguageModelingTask.optimizer_step = optimizer_step

    command = ["fairseq-train", data, *TASK, *TINY, "--save-dir", save, *more]
    if ranks > 1:
        command += ["--distributed-world-size", ranks, "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}"]
        command += ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", "--distributed-no-spawn"]
    ranked = [["--distributed-rank", rank] if ranks > 1 else [] for rank in range(ranks)]
    processes = [start_command(*command, *rank, before=deadly) for rank in ranked]
    done = [process.wait() for process in processes]
    codes = {process.returncode for process in done}
    assert codes == ({0} if kill_at is None else {-signal.SIGKILL}), done[0].stdout[-4000:]
    return [process.stdout for process in done]


def steps(log: str) -> dict[int, tuple[float, ...]]:
    """Loss and gradient norm of each update."""
    values = [logged(log, "train_inner", name) for name in ("num_updates", "loss", "gnorm")]
    return {int(update): tuple(figures) for update, *figures in zip(*values)}


def checkpoint(save: Path, name: str = "checkpoint_last.pt") -> dict:
    return torch.load(save / name, weights_only=True)


def assert_equal(one: object, other: object) -> None:
    """All tensors and numbers in two nests of dicts and lists are the same bits."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "kill_at", "more"),
    [
        (1, 7, ["--batch-size", 4, "--dropout", 0.1, "--ltm-sampling", "sticky", "--pointer-length", 32, *RESET]),
        (1, 9, ["--batch-size", 6, "--update-freq", 3, "--attention-dropout", 0.1, "--num-workers", 2]),
        (2, 11, ["--batch-size", 3, "--dropout", 0.1, "--ltm-sampling", "sticky", "--ltm-contraction", "fixed"]),
        (
            2,
            5,
            [
                "--batch-size",
                3,
                "--update-freq",
                3,
                "--document-boundaries",
                "reset",
                "--long-term-memory",
                "compressive",
            ],
        ),
        (1, 7, ["--batch-size", 4, "--dropout", 0.1, "--bptt-segments", 4, "--bptt-replay", *RESET]),
    ],
    ids=["sticky-reset", "update-freq", "two-ranks-sticky", "two-ranks-update-freq", "bptt-replay"],
)
def test_killed_training_resumes_to_the_same_losses_weights_and_memory(ranks, kill_at, more, documents, tmp_path):
    flags = [*SAVING, "--tokens-per-sample", 16, "--max-update", 12, *more]
    whole = steps(train_on(ranks, documents, tmp_path / "whole", *flags)[0])
    killed = steps(train_on(ranks, documents, tmp_path / "killed", *flags, kill_at=kill_at)[0])
    resumed = steps(train_on(ranks, documents, tmp_path / "killed", *flags)[0])
    assert list(resumed) == list(range(kill_at // 4 * 4 + 1, 13))
    assert killed | resumed == whole
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed")
    assert one["extra_state"]["train_iterator"]["memory"]
    for part in ("model", "last_optimizer_state"):
        assert_equal(one[part], other[part])
    assert_equal(one["extra_state"]["train_iterator"], other["extra_state"]["train_iterator"])


@pytest.fixture(scope="module")
def halfway(documents, tmp_path_factory) -> Path:
    """A checkpoint in the middle of an epoch of 4 streams of segments of 16 tokens."""
    save = tmp_path_factory.mktemp("halfway")
    train(documents, save, *SAVING, "--tokens-per-sample", 16, "--batch-size", 4, "--max-update", 4)
    return save / "checkpoint_last.pt"


def resume(halfway: Path, data: Path, save: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    shutil.copy(halfway, save / "checkpoint_last.pt")
    flags = [*SAVING, "--tokens-per-sample", 16, "--batch-size", 4, "--max-update", 6]
    return train(data, save, *flags, *more, check=check)


@pytest.mark.slow
def test_resume_within_an_epoch_refuses_other_streams_unless_reset_dataloader(halfway, documents, tmp_path):
    refused = resume(halfway, documents, tmp_path, "--batch-size", 8, check=False)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stdout
    assert re.search(r"error: .*--batch-size 4 \(now 8\).*--reset-dataloader", refused.stdout), refused.stdout[-2000:]
    anew = resume(halfway, documents, tmp_path, "--batch-size", 8, "--reset-dataloader").stdout
    assert list(steps(anew)) == [5, 6]
    assert "the memory starts empty" not in anew  # every stream does begin
    position = checkpoint(tmp_path)["extra_state"]["train_iterator"]
    assert position["iterations_in_epoch"] == 2
    assert position["streams"]["--batch-size"] == 8


def iterator(documents: Path, batch_size: int = 4, ranks: int = 1, length: int = 16, **settings: object):
    cfg = StreamingLanguageModelingConfig(data=str(documents), tokens_per_sample=length, **settings)
    task = StreamingLanguageModelingTask.setup_task(cfg)
    task.load_dataset("train", data_selector=None)  # by which fairseq's training data is known
    return task.get_batch_iterator(task.dataset("train"), max_sentences=batch_size, num_shards=ranks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 2}, r"--batch-size 4 \(now 2\); resume with the same, or give --reset-dataloader"),
        ({"batch_size": 1000}, r"--batch-size 4 \(now 1000\)"),
        ({"length": 8}, r"--tokens-per-sample 16 \(now 8\)"),
        ({"ranks": 2}, r"processes 1 \(now 2\)"),
        ({"batch_size": 2, "ranks": 2}, r"--batch-size 4 \(now 2\), processes 1 \(now 2\)"),
        ({"document_boundaries": "reset"}, r"documents 1 \(now 96\)"),
        ({"bptt_segments": 4}, r"--bptt-segments 1 \(now 4\)"),
    ],
)
def test_iterator_refuses_a_position_of_other_streams(changed, message, documents):
    before = iterator(documents)
    batches = before.next_epoch_itr(shuffle=False)
    next(batches)
    with pytest.raises(InputError, match=message):
        iterator(documents, **changed).load_state_dict(before.state_dict())


def test_iterator_accepts_other_streams_in_a_new_epoch(documents):
    before = iterator(documents)
    for _ in before.next_epoch_itr(shuffle=False):
        pass
    after = iterator(documents, batch_size=2)
    after.load_state_dict(before.state_dict())
    assert after.next_epoch_idx == 2


@pytest.mark.slow
def test_resume_without_the_memory_warns(halfway, documents, tmp_path):
    stripped = torch.load(halfway, weights_only=True)
    del stripped["extra_state"]["train_iterator"]["memory"]
    torch.save(stripped, tmp_path / "stripped.pt")
    log = resume(tmp_path / "stripped.pt", documents, tmp_path).stdout
    assert list(steps(log)) == [5, 6]
    assert "there is no memory of the text before segment 4: the memory starts empty" in log


def test_eval_lm_scores_a_checkpoint_copied_elsewhere(halfway, documents, tmp_path):
    alone = shutil.copy(halfway, tmp_path / "elsewhere.pt")
    more = ["--tokens-per-sample", 16, "--batch-size", 4]
    assert perplexity(eval_lm(documents, alone, *more).stdout) == perplexity(eval_lm(documents, halfway, *more).stdout)


def test_resume_in_half_precision_gives_the_same_weights(documents, tmp_path, caplog):
    """The float32 weights that the optimizer changes, too; a checkpoint of an earlier version resumes without them."""

    def train_here(save: Path, updates: int) -> dict:
        flags = ["--tokens-per-sample", 16, "--batch-size", 4, "--num-workers", 0, "--bf16", "--optimizer", "ltm_adam"]
        flags += ["--disable-validation", "--no-epoch-checkpoints", "--save-dir", save, "--max-update", updates]
        code, text = run_here(fairseq_train.cli_main, documents, *TASK, *TINY, *flags)
        assert code == 0, text
        return checkpoint(save)

    whole = train_here(tmp_path / "whole", 4)
    half = train_here(tmp_path / "killed", 2)
    resumed = train_here(tmp_path / "killed", 4)
    for part in ("model", "last_optimizer_state"):
        assert_equal(resumed[part], whole[part])
    rounded = [weight.bfloat16().float() for weight in whole["last_optimizer_state"]["fp32_weights"]]
    assert any(not weight.equal(exact) for weight, exact in zip(rounded, whole["last_optimizer_state"]["fp32_weights"]))
    assert "no float32 weights" not in caplog.text

    del half["last_optimizer_state"]["fp32_weights"]
    torch.save(half, tmp_path / "killed" / "checkpoint_last.pt")
    train_here(tmp_path / "killed", 3)
    assert "the checkpoint has no float32 weights" in caplog.text


@pytest.mark.parametrize("flags", [["--fp16"], ["--fp16", "--fp16-no-flatten-grads"], ["--memory-efficient-fp16"]])
def test_fp16_optimizer_restores_its_weights_and_loss_scale(flags, documents, tmp_path, monkeypatch):
    """What a GPU does, on the CPU: its optimizer before and after a checkpoint."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of the CPU as a device

    def optimizer() -> Any:
        streams = ["--tokens-per-sample", 16, "--batch-size", 4, "--fp16-scale-window", 3]
        cfg = training_configuration(documents, tmp_path, *streams, *flags)
        return start(cfg, check_precision=False)[0].optimizer

    def update(optimizer: Any) -> None:
        optimizer.zero_grad()
        for number, parameter in enumerate(optimizer.params if "memory" in flags[0] else optimizer.fp16_params):
            parameter.grad = torch.full_like(parameter, 1e-3 * (number + 1))
        optimizer.clip_grad_norm(0.25)
        optimizer.step()

    one, other = optimizer(), optimizer()
    for _ in range(2):
        update(one)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    if "memory" in flags[0]:
        for mine, theirs in zip(other.params, one.params):
            mine.data.copy_(theirs)  # which are the model's, and no other
    for _ in range(3):
        update(one)
        update(other)
    assert_equal(other.state_dict(), one.state_dict())
    assert one.state_dict()["loss_scale"] > 2**7  # it has been changed meanwhile
