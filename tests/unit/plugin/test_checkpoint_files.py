"""Checkpoint files: whole or not there, whatever happens while they are written."""

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from command_line import TASK, TINY, one_error, run_here
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq_cli import train
from forking import ended, fork, start_command

from fairseq_infformer.plugin import checkpoint_files

OLD, NEW = {"number": torch.zeros(50_000)}, {"number": torch.ones(50_000)}
# Four updates are an epoch.
STREAMS = ["--tokens-per-sample", 16, "--batch-size", 400, "--batch-size-valid", 4, "--num-workers", 0]


def write(folder: Path) -> None:
    checkpoint_utils.torch_persistent_save(NEW, str(folder / "checkpoint_last.pt"))


def copy(folder: Path) -> None:
    PathManager.copy(str(folder / "checkpoint_1_2.pt"), str(folder / "checkpoint_last.pt"), overwrite=True)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A save directory with an old checkpoint_last.pt and a new checkpoint to copy over it."""
    torch.save(OLD, tmp_path / "checkpoint_last.pt")
    torch.save(NEW, tmp_path / "checkpoint_1_2.pt")
    return tmp_path


def limited(work: Callable[[Path], None], folder: Path, size: int, deadly: bool) -> int:
    """Do some work in a process whose files may not grow beyond a size: that kills it, or its writes fail."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        work(folder)

    return ended(fork(child))


def last(folder: Path) -> torch.Tensor:
    return torch.load(folder / "checkpoint_last.pt")["number"]


@pytest.mark.parametrize("work", [write, copy])
@pytest.mark.parametrize("size", [0, 1000, 100_000, 201_000])
def test_write_that_is_killed_leaves_the_previous_checkpoint(folder, work, size):
    assert limited(work, folder, size, deadly=True) == -signal.SIGXFSZ
    assert last(folder).equal(OLD["number"])
    checkpoint_files.open_directory(str(folder))
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
@pytest.mark.parametrize("size", [0, 1000, 100_000, 201_000])
def test_write_that_fails_leaves_only_the_previous_checkpoint(folder, work, size):
    assert limited(work, folder, size, deadly=False) == 3
    assert last(folder).equal(OLD["number"])
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


def test_write_of_a_crash_checkpoint_may_fail(folder):
    def crash(folder: Path) -> None:
        checkpoint_utils.torch_persistent_save(NEW, str(folder / "crash.pt"))

    assert limited(crash, folder, 1000, deadly=False) == 0
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
def test_write_replaces_what_a_killed_run_has_left(folder, work):
    (folder / "checkpoint_last.pt.tmp").write_bytes(b"half of a checkpoint" * 20_000)
    work(folder)
    assert last(folder).equal(NEW["number"])
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
def test_write_that_is_killed_before_its_rename_leaves_the_previous_checkpoint(folder, work, monkeypatch):
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda *names: signal.raise_signal(signal.SIGKILL))
    assert ended(fork(lambda: work(folder))) == -signal.SIGKILL
    assert last(folder).equal(OLD["number"])


def arguments(data: Path, save: Path, *more: object) -> list[str]:
    return [str(part) for part in (data, *TASK, *TINY, *STREAMS, "--save-dir", save, *more)]


@pytest.fixture
def begun(documents, tmp_path) -> Path:
    """The save directory of a run of two updates that continues."""
    code, text = run_here(train.cli_main, *arguments(documents, tmp_path / "save", "--max-update", 2))
    assert code == 0, text
    return tmp_path / "save"


def updates(checkpoint: Path) -> int:
    return torch.load(checkpoint)["optimizer_history"][-1]["num_updates"]


def test_training_ends_in_one_line_on_a_full_disk_and_resumes(documents, begun):
    before = {path.name: path.read_bytes() for path in begun.iterdir()}

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = start_command("fairseq-train", *arguments(documents, begun, "--max-update", 4), before=fill).wait()
    assert done.returncode == 1
    error = one_error(done.stdout)
    assert f"cannot save {begun}/checkpoint1.pt: File too large (" in error
    needed = int(error.split("File too large (")[1].split(" bytes needed")[0].replace(",", ""))
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before

    code, text = run_here(train.cli_main, *arguments(documents, begun, "--max-update", 4))
    assert code == 0, text
    assert updates(begun / "checkpoint_last.pt") == 4
    assert needed == pytest.approx((begun / "checkpoint1.pt").stat().st_size, rel=0.02)


def test_training_killed_while_it_copies_a_checkpoint_resumes(documents, begun):
    """The kill comes when half of checkpoint_last.pt is written."""

    def half(source: BinaryIO, target: BinaryIO, *more: object) -> None:
        if "checkpoint_last" in target.name:
            target.write(source.read(100_000))
            target.flush()
            signal.raise_signal(signal.SIGKILL)
        target.write(source.read())

    def deadly() -> None:
        shutil.copyfileobj, shutil._USE_CP_SENDFILE = half, False

    killed = start_command("fairseq-train", *arguments(documents, begun, "--max-update", 4), before=deadly).wait()
    assert killed.returncode == -signal.SIGKILL
    assert updates(begun / "checkpoint1.pt") == updates(begun / "checkpoint_best.pt") == 4
    assert updates(begun / "checkpoint_last.pt") == 2

    code, text = run_here(train.cli_main, *arguments(documents, begun, "--max-update", 4))
    assert code == 0, text
    assert updates(begun / "checkpoint_last.pt") == 4
    assert not list(begun.glob("*.tmp"))


def test_training_removes_old_checkpoints_as_requested(documents, tmp_path):
    flags = ["--save-interval-updates", 1, "--keep-interval-updates", 2, "--keep-last-epochs", 1, "--max-epoch", 2]
    code, text = run_here(train.cli_main, *arguments(documents, tmp_path, *flags, "--keep-best-checkpoints", 1))
    assert code == 0, text
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if "best_" not in name} == {
        "checkpoint2.pt",
        "checkpoint_2_6.pt",
        "checkpoint_2_7.pt",
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    }
    assert len(names) == 6
    shutil.copy(tmp_path / "checkpoint2.pt", tmp_path / "alone.pt")
    assert updates(tmp_path / "alone.pt") == 8
