"""What prepare.sh reads and what it leaves: found splits, refusals in one line, all or nothing."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import run_forked
from fairseq.data import Dictionary
from forking import ROOT, ended, fork, start_command
from preparing import TRAIN, VALID, documents_of, refused, run, stats, write

from fairseq_infformer.cli import prepare
from fairseq_infformer.data.corpus import find_splits
from fairseq_infformer.errors import InputError
from fairseq_infformer.files import AtomicFolder, make_once

pytestmark = pytest.mark.forks

# ---- the raw folder -------------------------------------------------------------------------------------------------


def test_find_splits_ignores_case_and_other_files(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "Wiki.TRAIN.d", b="b\n", a="a")
    (raw / "corpus.Validation.tokens").write_text("a\n")
    (raw / "README").write_text("not a split")
    run(raw, tmp_path / "out")
    assert documents_of(tmp_path / "out", "train") == ["a\nb\n"]
    assert set(stats(tmp_path / "out")["splits"]) == {"train", "valid"}
    assert not (tmp_path / "out" / "test.bin").exists()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.txt", "valid.txt", "contest_rules.md"], ["train.txt", "valid.txt"]),
        (["train.txt", "valid.txt", "test.txt", "contest_rules.md", "latest"], ["train.txt", "valid.txt", "test.txt"]),
        (["wiki.test.tokens", "wiki.train.tokens", "wiki.valid.tokens"], ["train", "valid", "test"]),
        (["wiki.test.raw", "wiki.train.raw", "wiki.valid.raw", "README"], ["train", "valid", "test"]),
        (["Train_1", "2-validation", "testing.old"], ["Train", "validation", "testing"]),
        (["trainset", "validdata", "test2014"], ["train", "valid", "test"]),
        (["mytrain.txt", "myvalid.txt", "mytest.txt"], ["train", "valid", "test"]),
    ],
)
def test_find_splits_matches_whole_words_first(names: list[str], expected: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    found = find_splits(tmp_path)
    assert [entry.name for entry in found.values()] == [next(n for n in names if part in n) for part in expected]
    assert list(found) == ["train", "valid", "test"][: len(expected)]


def test_raw_follows_links_to_files(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", train=TRAIN, valid=VALID)
    (tmp_path / "raw").mkdir()
    for file in elsewhere.iterdir():
        (tmp_path / "raw" / file.name).symlink_to(file)
    run(tmp_path / "raw", tmp_path / "out")
    assert (elsewhere / "train.txt").read_text() == TRAIN


# ---- the destination ------------------------------------------------------------------------------------------------


def test_raw_and_dest_refuse_folders_that_collide(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train=TRAIN, valid=VALID)
    refused("contain one another", raw, raw)
    refused("contain one another", raw, raw / "out")
    refused("contain one another", raw, tmp_path)
    (tmp_path / "link").symlink_to(raw)
    refused("contain one another", raw, tmp_path / "link" / "out")
    (tmp_path / "file").touch()
    refused("is a file", raw, tmp_path / "file")
    write(tmp_path / "mine", notes="keep")
    refused("holds other files", raw, tmp_path / "mine", "--overwrite")
    write(tmp_path / "out.partial", notes="keep")
    refused("contains files that this program did not create", raw, tmp_path / "out")
    refused("is not a folder", raw / "train.txt", tmp_path / "new")
    assert sorted(path.name for path in raw.iterdir()) == ["train.txt", "valid.txt"]


def test_dest_that_is_complete_is_kept_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out"
    run(raw, out)
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in out.iterdir()}
    capsys.readouterr()
    run(raw, out, "--workers", 2)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in out.iterdir()}

    refused("made with other documents;", raw, out, "--documents", "blank-line")
    write(raw, valid="changed\n")
    refused("made with other files;", raw, out)
    (out / "checkpoint.pt").touch()
    refused("would remove checkpoint.pt", raw, out, "--overwrite")
    (out / "checkpoint.pt").unlink()
    run(raw, out, "--overwrite")
    assert stats(out)["splits"]["valid"]["words"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize("reason", [errno.EBUSY, errno.EXDEV], ids=errno.errorcode.get)
def test_dest_that_cannot_be_replaced_is_refused_before_any_work(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point is busy; a folder of a container's image is, to rename, on another device."""
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out"
    out.mkdir()
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if out in (self, target):
            raise OSError(reason, os.strerror(reason), str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    monkeypatch.setattr(prepare, "write_text", None)
    message = f"{out} cannot be replaced .{os.strerror(reason)}.*; give a folder inside it, such as {out / 'data'}"
    refused(message, raw, out)
    with pytest.raises(InputError, match=message):
        make_once(out, {}, "notes.json", lambda made: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"] and not list(out.iterdir())


def test_dest_comes_back_after_a_kill_while_it_was_moved(tmp_path: Path) -> None:
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out"
    run(raw, out)
    before, place = files(out), AtomicFolder(out, prepare.STAGES)
    place.folder.mkdir()
    out.rename(place.folder / "earlier")
    refused(r"stage 1 .text. of .* has not been run", raw, out, "--stage", 2)
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_stages_refuse_a_missing_one_and_give_the_same_data_as_one_run(tmp_path: Path) -> None:
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out"
    refused(r"stage 1 \(text\) of .* has not been run", raw, out, "--stage", 2)
    run(raw, out, "--stop-stage", 1)
    refused(r"stage 2 \(vocabulary\) of .* has not been run", raw, out, "--stage", 3)
    refused(r"stage 1 \(text\) of .* other text or arguments", raw, out, "--stage", 2, "--documents", "blank-line")
    run(raw, out, "--stage", 2, "--stop-stage", 2)
    refused(r"stage 2 \(vocabulary\) of .* other text or arguments", raw, out, "--stage", 3, "--vocab-size", 9)
    assert not out.exists()
    run(raw, out, "--stage", 3)
    run(raw, tmp_path / "at-once")
    for file in out.iterdir():
        assert (tmp_path / "at-once" / file.name).read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-once", "out", "raw"]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(params=[False, True], ids=["new", "overwrite"])
def place(request, tmp_path: Path) -> tuple[Path, Path, list[str], list[dict[str, bytes]]]:
    """A raw folder, a DEST, options, and what DEST may hold: what it held before, if anything, and what it shall."""
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID, test=VALID), tmp_path / "out"
    run(raw, tmp_path / "whole")
    allowed = [files(tmp_path / "whole")]
    if request.param:
        run(raw, out, "--vocab-size", 8)
        allowed.append(files(out))
    return raw, out, ["--overwrite"] if request.param else [], allowed


# What changes the disk; a run calls these some thirty times.
STEPS = [
    (Path, "mkdir"),
    (Path, "rename"),
    (Path, "write_text"),
    (shutil, "rmtree"),
    (np, "save"),
    (Dictionary, "save"),
]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_prepare_stopped_at_any_step_leaves_all_or_nothing(place, number: signal.Signals) -> None:
    """Each run finds what the one before has left, and is stopped one step later."""
    raw, out, options, allowed = place

    def stopped(step: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        left = [step]
        for owner, name in STEPS:
            original = getattr(owner, name)

            def counted(*args: object, original: Callable = original, **kwargs: object) -> object:
                left[0] -= 1
                if not left[0]:
                    signal.raise_signal(number)
                return original(*args, **kwargs)

            setattr(owner, name, counted)
        run(raw, out, *options)

    for step in range(1, 100):
        code = ended(fork(lambda step=step: stopped(step)))
        if out.exists():
            assert files(out) in allowed, step
        if code == 0:
            break
        assert code in ((1, 3) if number is signal.SIGINT else (-number,))
    assert step > 15
    run(raw, out, *options)
    assert files(out) == allowed[0]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "raw", "whole"]


@pytest.mark.parametrize("workers", [1, 2])
def test_prepare_killed_at_any_moment_leaves_all_or_nothing(place, workers: int) -> None:
    raw, out, options, allowed = place
    began = time.monotonic()
    assert ended(fork(lambda: run(raw, out.with_name("other"), "--workers", workers))) == 0
    whole_time = time.monotonic() - began
    shutil.rmtree(out.with_name("other"))
    killed = 0
    for share in np.random.default_rng(0).uniform(0, 1, 20):
        child = fork(lambda: run(raw, out, "--workers", workers, *options))
        time.sleep(share * whole_time)
        os.kill(child, signal.SIGKILL)
        if ended(child) != 0:
            killed += 1
        else:  # it was done by then: the first run was slower, as it is on a busy machine
            whole_time *= share
        if out.exists():
            assert files(out) in allowed
            if files(out) == allowed[0]:
                shutil.rmtree(out)
    assert killed >= 5
    wait_for_its_workers(out)
    run(raw, out, *options)
    assert files(out) == allowed[0]
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "raw", "whole"]


def wait_for_its_workers(out: Path) -> None:
    """Processes that a killed run had started hold its folder until they notice."""
    for _ in range(100):
        try:
            with AtomicFolder(out, prepare.STAGES).opened():
                return
        except InputError:
            time.sleep(0.1)
    raise AssertionError("the folder of a killed run stays locked")


def test_prepare_reports_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_vocabulary", interrupted)
    refused("interrupted; repeat the same call", write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out.partial").iterdir()] == ["text"]


def test_prepare_reports_a_full_disk_and_leaves_nothing_on_it(tmp_path: Path) -> None:
    """No file may grow beyond 1024 bytes, which says the same as a disk that is full."""
    raw = write(tmp_path / "raw", train="a b c d\n" * 1000, valid=VALID)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = ["infformer-prepare", "--raw", raw, "--dest", tmp_path / "out", "--level", "word"]
    done = start_command(*command, before=fill).wait()
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "File too large; check that" in done.stdout.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("out.partial/*.tmp"))
    run(raw, tmp_path / "out")


def test_prepare_refuses_a_folder_that_another_process_is_making(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train=TRAIN, valid=VALID)
    place = AtomicFolder(tmp_path / "out", prepare.STAGES)
    with place.opened():
        refused("another process is making", raw, tmp_path / "out")
        assert place.folder.exists(), "the one that was refused must not clear up after the other"
    run(raw, tmp_path / "out")


# ---- the command line -----------------------------------------------------------------------------------------------


def test_prepare_sh_prepares_and_reports_errors_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "raw", train=TRAIN, valid=VALID)
    command = [ROOT / "preprocess" / "prepare.sh", "--raw", "raw", "--dest", "data/out", "--level", "word"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "train: " in done.stdout and "is complete" in done.stdout
    assert stats(tmp_path / "data" / "out")["splits"]["valid"]["tokens"] == 5
    again = ["--raw", tmp_path / "raw", "--dest", tmp_path / "data/out", "--level", "word", "--vocab-size", 7]
    failed = run_forked("infformer-prepare", *again, check=False)
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1].startswith("error: --dest") and "Traceback" not in failed.stdout
