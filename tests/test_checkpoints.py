"""Checkpoint files: whole or not there, whatever happens while they are written."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import BIN, ENVIRONMENT, ROOT, TASK, TINY, one_error, run_here
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq_cli import train
from forking import ended, fork

from fairseq_infformer import checkpoints

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
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(folder, work, size):
    assert limited(work, folder, size, deadly=True) == -signal.SIGXFSZ
    assert last(folder).equal(OLD["number"])
    checkpoints.open_directory(str(folder))
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
@pytest.mark.parametrize("size", [0, 1000, 100_000, 201_000])
def test_a_write_that_fails_leaves_the_checkpoint_before_and_nothing_else(folder, work, size):
    assert limited(work, folder, size, deadly=False) == 3
    assert last(folder).equal(OLD["number"])
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


def test_a_crash_is_told_though_its_checkpoint_cannot_be_saved(folder):
    def crash(folder: Path) -> None:
        checkpoint_utils.torch_persistent_save(NEW, str(folder / "crash.pt"))

    assert limited(crash, folder, 1000, deadly=False) == 0
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
def test_a_write_takes_the_place_of_what_a_killed_run_has_left(folder, work):
    (folder / "checkpoint_last.pt.tmp").write_bytes(b"half of a checkpoint" * 20_000)
    work(folder)
    assert last(folder).equal(NEW["number"])
    assert {path.name for path in folder.iterdir()} == {"checkpoint_last.pt", "checkpoint_1_2.pt"}


@pytest.mark.parametrize("work", [write, copy])
def test_a_kill_before_the_name_is_changed_leaves_the_one_before(folder, work, monkeypatch):
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda *names: signal.raise_signal(signal.SIGKILL))
    assert ended(fork(lambda: work(folder))) == -signal.SIGKILL
    assert last(folder).equal(OLD["number"])


def arguments(data: Path, save: Path, *more: object) -> list[str]:
    return [str(part) for part in (data, *TASK, *TINY, *STREAMS, "--save-dir", save, *more)]


@pytest.fixture
def begun(documents, tmp_path) -> Path:
    """The save directory of a run of two updates, that goes on."""
    code, text = run_here(train.cli_main, *arguments(documents, tmp_path / "save", "--max-update", 2))
    assert code == 0, text
    return tmp_path / "save"


def updates(checkpoint: Path) -> int:
    return torch.load(checkpoint)["optimizer_history"][-1]["num_updates"]


def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on_later(documents, begun):
    before = {path.name: path.read_bytes() for path in begun.iterdir()}
    command = ["ulimit -f 64; exec " + '"$0" "$@"', str(BIN / "fairseq-train")]
    done = subprocess.run(
        ["bash", "-c", *command, *arguments(documents, begun, "--max-update", 4)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    error = one_error(done.stderr)
    assert f"cannot save {begun}/checkpoint1.pt: File too large (" in error
    needed = int(error.split("File too large (")[1].split(" bytes needed")[0].replace(",", ""))
    assert {path.name: path.read_bytes() for path in begun.iterdir()} == before

    code, text = run_here(train.cli_main, *arguments(documents, begun, "--max-update", 4))
    assert code == 0, text
    assert updates(begun / "checkpoint_last.pt") == 4
    assert needed == pytest.approx((begun / "checkpoint1.pt").stat().st_size, rel=0.02)


def test_a_run_killed_while_it_copies_a_checkpoint_goes_on(documents, begun, tmp_path):
    """A plugin of the test's kills the run when half of checkpoint_last.pt is written."""
    plugin = tmp_path / "deadly"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        "import os, shutil, signal\n"
        "import fairseq_infformer\n\n"
        "def half(source, target, *more):\n"
        "    if 'checkpoint_last' in target.name:\n"
        "        target.write(source.read(100_000))\n"
        "        target.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    target.write(source.read())\n\n"
        "shutil.copyfileobj, shutil._USE_CP_SENDFILE = half, False\n"
    )
    command = arguments(documents, begun, "--max-update", 4)
    command[command.index("--user-dir") + 1] = str(plugin)
    environment = ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([BIN / "fairseq-train", *command], env=environment).returncode == -signal.SIGKILL
    assert updates(begun / "checkpoint1.pt") == updates(begun / "checkpoint_best.pt") == 4
    assert updates(begun / "checkpoint_last.pt") == 2

    code, text = run_here(train.cli_main, *arguments(documents, begun, "--max-update", 4))
    assert code == 0, text
    assert updates(begun / "checkpoint_last.pt") == 4
    assert not list(begun.glob("*.tmp"))


def test_old_checkpoints_are_removed_as_before(documents, tmp_path):
    flags = ["--save-interval-updates", 1, "--keep-interval-updates", 2, "--keep-last-epochs", 1, "--max-epoch", 2]
    code, text = run_here(train.cli_main, *arguments(documents, tmp_path, *flags, "--keep-best-checkpoints", 1))
    assert code == 0, text
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if "best_" not in name} == {
        *("checkpoint2.pt", "checkpoint_2_6.pt", "checkpoint_2_7.pt"),
        *("checkpoint_best.pt", "checkpoint_last.pt"),
    }
    assert len(names) == 6
    shutil.copy(tmp_path / "checkpoint2.pt", tmp_path / "alone.pt")
    assert updates(tmp_path / "alone.pt") == 8
