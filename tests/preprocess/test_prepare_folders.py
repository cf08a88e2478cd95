"""What prepare.sh reads and what it leaves: found splits, refusals in one line, all or nothing."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from preparing import TRAIN, VALID, documents_of, refused, run, stats, write

from fairseq_infformer.cli import prepare
from fairseq_infformer.cli.stages import Workplace
from fairseq_infformer.data import vocabulary

ROOT = Path(__file__).resolve().parents[2]


# ---- the raw folder -------------------------------------------------------------------------------------------------


def test_splits_are_found_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write(raw / "Wiki.TRAIN.d", b="b\n", a="a")
    (raw / "corpus.Validation.tokens").write_text("a\n")
    (raw / "README").write_text("not a split")
    run(raw, tmp_path / "out")
    assert documents_of(tmp_path / "out", "train") == ["a\nb\n"]
    assert set(stats(tmp_path / "out")["splits"]) == {"train", "valid"}
    assert not (tmp_path / "out" / "test.bin").exists()


def test_a_split_may_be_a_link_to_a_file_elsewhere(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", train=TRAIN, valid=VALID)
    (tmp_path / "raw").mkdir()
    for file in elsewhere.iterdir():
        (tmp_path / "raw" / file.name).symlink_to(file)
    run(tmp_path / "raw", tmp_path / "out")
    assert (elsewhere / "train.txt").read_text() == TRAIN


# ---- the destination ------------------------------------------------------------------------------------------------


def test_folders_that_are_refused(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train=TRAIN, valid=VALID)
    refused("lie in one another", raw, raw)
    refused("lie in one another", raw, raw / "out")
    refused("lie in one another", raw, tmp_path)
    (tmp_path / "link").symlink_to(raw)
    refused("lie in one another", raw, tmp_path / "link" / "out")
    (tmp_path / "file").touch()
    refused("is a file", raw, tmp_path / "file")
    write(tmp_path / "mine", notes="keep")
    refused("holds other files", raw, tmp_path / "mine", "--overwrite")
    write(tmp_path / "out.partial", notes="keep")
    refused("holds files of someone else", raw, tmp_path / "out")
    refused("is not a folder", raw / "train.txt", tmp_path / "new")
    assert sorted(path.name for path in raw.iterdir()) == ["train.txt", "valid.txt"]


def test_a_finished_folder_is_used_again_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
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


def test_stages(tmp_path: Path) -> None:
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID), tmp_path / "out"
    refused(r"stage 1 \(text\) of .* has not been done", raw, out, "--stage", 2)
    run(raw, out, "--stop-stage", 1)
    refused(r"stage 2 \(vocabulary\) of .* has not been done", raw, out, "--stage", 3)
    refused(r"stage 1 \(text\) of .* other text or arguments", raw, out, "--stage", 2, "--documents", "blank-line")
    run(raw, out, "--stage", 2, "--stop-stage", 2)
    refused(r"stage 2 \(vocabulary\) of .* other text or arguments", raw, out, "--stage", 3, "--vocab-size", 9)
    assert not out.exists()
    run(raw, out, "--stage", 3)
    run(raw, tmp_path / "at-once")
    for file in out.iterdir():
        assert (tmp_path / "at-once" / file.name).read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-once", "out", "raw"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (prepare, "write_text", 1),
        (vocabulary, "word_dictionary", 1),
        (vocabulary, "binarize", 2),
        (Workplace, "publish", 1),
        (Workplace, "clear", 2),
    ],
)
def test_a_killed_run_leaves_all_or_nothing(
    tmp_path: Path, owner: object, name: str, call: int, overwrite: bool
) -> None:
    raw, out = write(tmp_path / "raw", train=TRAIN, valid=VALID, test=VALID), tmp_path / "out"
    if overwrite:
        run(raw, out, "--vocab-size", 8)
        old = {file.name: file.read_bytes() for file in out.iterdir()}
    run(raw, tmp_path / "whole")
    whole = {file.name: file.read_bytes() for file in (tmp_path / "whole").iterdir()}

    child = os.fork()
    if not child:
        original, calls = getattr(owner, name), []

        def killed(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, killed)
        run(raw, out, *(["--overwrite"] if overwrite else []))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "out.partial").exists()
    if out.exists():
        left = {file.name: file.read_bytes() for file in out.iterdir()}
        assert left == whole or (overwrite and left == old)
    run(raw, out, *(["--overwrite"] if overwrite else []))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_two_runs_for_one_folder_do_not_meet(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", train=TRAIN, valid=VALID)
    place = Workplace(tmp_path / "out", prepare.STAGES)
    with place.opened():
        refused("is being made by another process", raw, tmp_path / "out")
        assert place.folder.exists(), "the one that was refused must not clear up after the other"
    run(raw, tmp_path / "out")


# ---- the command line -----------------------------------------------------------------------------------------------


def test_the_shell_command(tmp_path: Path) -> None:
    write(tmp_path / "raw", train=TRAIN, valid=VALID)
    command = [ROOT / "preprocess" / "prepare.sh", "--raw", "raw", "--dest", "data/out", "--level", "word"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "train: " in done.stdout and "is complete" in done.stdout
    assert stats(tmp_path / "data" / "out")["splits"]["valid"]["tokens"] == 5
    failed = subprocess.run([*command, "--vocab-size", "7"], cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: --dest") and "Traceback" not in failed.stderr
