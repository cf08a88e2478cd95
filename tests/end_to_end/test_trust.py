"""What is read runs nothing, and what is prepared is written nowhere but in its destination."""

import ast
import io
import os
import pickle
import runpy
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, TASK, TINY, eval_lm
from fairseq_cli import eval_lm as fairseq_eval_lm
from fairseq_cli import train as fairseq_train

from fairseq_infformer.cli import evaluate, export, prepare
from fairseq_infformer.errors import InputError

CODE = sorted([*(ROOT / "fairseq_infformer").rglob("*.py"), *(ROOT / "preprocess").rglob("*.py")])


class Trap:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def trapped(kind: str, folder: Path, checkpoint: Path) -> tuple[Path, Path]:
    """A file that runs something when it is loaded as a pickle, and what it would leave; the kind says how it hides."""
    path, sprung = folder / "checkpoint.pt", folder / "sprung"
    if kind == "a checkpoint":
        state = torch.load(checkpoint, weights_only=True)
        state["extra_state"]["val_loss"] = Trap(sprung)
        torch.save(state, path)
    elif kind == "a checkpoint of old":
        torch.save({"model": Trap(sprung)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=4))
    return path, sprung


def call(command: str, data: Path, path: Path, monkeypatch) -> None:
    """Run a command, in this process, that reads the checkpoint ``path``."""
    main, arguments = {
        "infformer-eval": (evaluate.main, ["--cpu"]),
        "infformer-export": (lambda: export.main(sys.argv[1:]), ["--dest", path.parent / "exported"]),
        "fairseq-eval-lm": (fairseq_eval_lm.cli_main, [*TASK, "--cpu"]),
        "fairseq-train": (
            fairseq_train.cli_main,
            [*TASK, *TINY, "--batch-size", 4, "--max-update", 1, "--save-dir", path.parent / "saved"],
        ),
    }[command]
    option = "--restore-file" if command == "fairseq-train" else "--path"
    monkeypatch.setattr("sys.argv", [str(word) for word in (command, data, option, path, *arguments)])
    main()


DISGUISES = ("a checkpoint", "a checkpoint of old", "a pickle")
CALLS = [
    *(("infformer-export", kind) for kind in DISGUISES),
    *(("infformer-eval", kind) for kind in DISGUISES),
    ("fairseq-eval-lm", "a checkpoint"),
    ("fairseq-train", "a checkpoint"),
]


@pytest.mark.parametrize(("command", "kind"), CALLS)
def test_checkpoint_that_would_run_code_is_refused(command, kind, documents, trained, tmp_path, monkeypatch):
    path, sprung = trapped(kind, tmp_path, trained[0])
    with pytest.raises(
        InputError, match=r"use a checkpoint that this plugin wrote|is truncated or is not a fairseq checkpoint"
    ) as error:
        call(command, documents, path, monkeypatch)
    assert ("contains posix.mkdir, which could execute code when read" in str(error.value)) == (kind != "a pickle")
    assert "\n" not in str(error.value)
    assert not sprung.exists() and not (tmp_path / "exported").exists()
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap is none"


@pytest.mark.parametrize("command", ["infformer-export", "infformer-eval", "fairseq-eval-lm"])
def test_checkpoint_is_refused_where_the_environment_allows_code(command, documents, trained, tmp_path, monkeypatch):
    path, sprung = trapped("a checkpoint", tmp_path, trained[0])
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets .* unset it"):
        call(command, documents, path, monkeypatch)
    assert not sprung.exists()


def test_checkpoint_that_would_run_code_is_reported_in_one_line(documents, trained, tmp_path):
    path, sprung = trapped("a checkpoint", tmp_path, trained[0])
    done = eval_lm(documents, path, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert [line for line in done.stdout.splitlines() if "posix.mkdir" in line] == [done.stdout.splitlines()[-1]]
    assert done.stdout.splitlines()[-1].startswith(f"error: checkpoint {path} contains posix.mkdir")
    assert not sprung.exists()


def test_document_offsets_that_would_run_code_are_refused(documents, trained, tmp_path, monkeypatch):
    for file in documents.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    np.save(tmp_path / "test.documents.npy", np.array([Trap(tmp_path / "sprung")]), allow_pickle=True)
    with pytest.raises(InputError, match=r"is not a numpy array .*; prepare the data again"):
        call("infformer-eval", tmp_path, trained[0], monkeypatch)
    assert not (tmp_path / "sprung").exists()


def calls(code: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Every call in a source, as it is written, with the arguments that are given by name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}


def runs_what_it_reads(code: str) -> list[str]:
    """The calls in a source that could."""
    return [
        name
        for name, given in calls(code)
        if name in ("eval", "exec", "compile", "__import__")
        or name.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle")
        or (name.endswith("torch.load") and given.get("weights_only") != "True")
        or given.get("weights_only", "True") != "True"
        or given.get("allow_pickle", "False") != "False"
        or name.endswith(("unpack_archive", "extractall", "extract"))
    ]


def test_code_of_the_project_runs_nothing_that_it_reads():
    assert len(CODE) > 30
    assert {path.name: found for path in CODE if (found := runs_what_it_reads(path.read_text(encoding="utf-8")))} == {}
    for bad in (
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "pickle.load(f)",
    ):
        assert runs_what_it_reads(bad), bad


TEXT = "the cat sat on the mat .\n\nthe dog sat .\n"


@pytest.fixture
def raw(tmp_path) -> Path:
    for split in ("train", "valid"):
        (tmp_path / "raw" / split).mkdir(parents=True)
        (tmp_path / "raw" / split / "a book.txt").write_text(TEXT)
    return tmp_path / "raw"


def prepared(raw: Path, dest: Path, *more: object) -> None:
    prepare.main([str(word) for word in ("--raw", raw, "--dest", dest, "--level", "word", *more)])


def contents(folder: Path) -> dict[Path, bytes | None]:
    """All that is below a folder, without following links."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder of someone else's, with a name in it that a stage has too."""
    (tmp_path / "elsewhere" / "text").mkdir(parents=True)
    (tmp_path / "elsewhere" / "text" / "precious").write_text("precious")
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("inside", ["", "text", "text.tmp", "vocabulary", "data.tmp", "rubbish"])
@pytest.mark.parametrize("dangling", [False, True])
def test_prepare_refuses_links_in_its_work_folder(inside, dangling, raw, elsewhere, tmp_path):
    dest, link = tmp_path / "data", tmp_path / "data.partial" / inside
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere / ("not-there" if dangling else "text" if inside else ""))
    before = contents(elsewhere)
    with pytest.raises(
        InputError, match=r"data\.partial.* is a link, through which this program would write elsewhere; remove"
    ):
        prepared(raw, dest)
    assert contents(elsewhere) == before and not dest.exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_prepare_refuses_a_link_instead_of_a_finished_stage(stage, raw, elsewhere, tmp_path):
    dest, done = tmp_path / "data", tmp_path / "data.partial" / "text"
    prepared(raw, dest, "--stop-stage", 2)
    done.rename(elsewhere / "moved")
    done.symlink_to(elsewhere / "moved")
    before = contents(elsewhere)
    with pytest.raises(InputError, match="is a link"):
        prepared(raw, dest, "--stage", stage)
    assert contents(elsewhere) == before and not dest.exists()


def test_prepare_overwrite_removes_links_but_not_their_targets(raw, elsewhere, tmp_path):
    dest = tmp_path / "data"
    prepared(raw, dest)
    (dest / "test.bin").symlink_to(elsewhere / "text" / "precious")
    (dest / "test.idx").symlink_to(elsewhere)
    before = contents(elsewhere)
    prepared(raw, dest, "--vocab-size", 8, "--overwrite")
    assert contents(elsewhere) == before and not (dest / "test.bin").exists()


def test_prepare_resolves_a_destination_with_links_and_dots(raw, tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    before = {*contents(tmp_path)}
    prepared(raw, tmp_path / "link" / ".." / "data")
    made = {*contents(tmp_path)} - before
    assert tmp_path / "real" / "data" in made
    assert all(path.is_relative_to(tmp_path / "real" / "data") for path in made)


def test_prepare_writes_no_file_named_after_a_book(raw, tmp_path):
    """Names that would lead elsewhere if they were pasted to a path or a command."""
    names = [
        "..",
        "~",
        "$HOME",
        "`touch sprung`",
        "; touch sprung",
        "-rf",
        "..\\..\\windows",
        "%2e%2e%2fup",
        "*",
    ]
    for name in names:
        (raw / "train" / f"{name} .txt").write_text(TEXT)
    before = {*contents(tmp_path)}
    prepared(raw, tmp_path / "data", "--documents", "file")
    made = {*contents(tmp_path)} - before
    ends = {
        "dict.txt",
        "stats.json",
        *(f"{s}.{e}" for s in ("train", "valid") for e in ("bin", "idx", "documents.npy")),
    }
    assert {str(path.relative_to(tmp_path)) for path in made} == {"data", *(f"data/{end}" for end in ends)}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", os.fsdecode(b"\xff")])
@pytest.mark.parametrize("split", [True, False])
def test_prepare_refuses_unprintable_file_names(name, split, raw, tmp_path):
    (raw / f"test{name}" if split else raw / "train" / name).write_text(TEXT)
    with pytest.raises(InputError, match=r"the name '.*\\.*' in .* is not plain UTF-8 text; rename it") as error:
        prepared(raw, tmp_path / "data")
    assert str(error.value).isprintable() and not list(tmp_path.glob("data*"))


def archive(kind: str, path: Path, name: str) -> None:
    """An archive with one text, whose name leads out of where it is unpacked."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(name, TEXT)
    else:
        with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}") as made:
            entry = tarfile.TarInfo(name)
            entry.size = len(TEXT)
            made.addfile(entry, io.BytesIO(TEXT.encode()))


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
def test_prepare_refuses_archives(kind, raw, tmp_path):
    archive(kind, tmp_path / "books", "../../sprung.txt")
    archive(kind, raw / "valid" / "z.txt", str(tmp_path / "sprung.txt"))
    before = contents(tmp_path)
    for given in (tmp_path / "books", raw):
        with pytest.raises(InputError, match=r" is a (zip|tar|gzip|bzip2|xz) file; unpack it, and give") as error:
            prepared(given, tmp_path / "data")
        assert "\n" not in str(error.value)
        assert contents(tmp_path) == before


def test_generate_documents_follows_no_links(elsewhere, tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    for name in ("train.txt.tmp", "valid.txt"):
        (tmp_path / "raw" / name).symlink_to(elsewhere / "text" / "precious")
    before = contents(elsewhere)
    command = ["generate_documents.py", "--dest", str(tmp_path / "raw"), "--documents", "2", "--length", "3"]
    monkeypatch.setattr("sys.argv", command)
    runpy.run_path(str(ROOT / "preprocess" / "generate_documents.py"), run_name="__main__")
    assert contents(elsewhere) == before
    assert not any(path.is_symlink() for path in (tmp_path / "raw").iterdir())


def test_export_follows_no_links(documents, trained, elsewhere, tmp_path):
    (tmp_path / "exported.partial").symlink_to(elsewhere)
    before = contents(elsewhere)
    with pytest.raises(InputError, match="is a link"):
        export.main([str(documents), "--path", str(trained[0]), "--dest", str(tmp_path / "exported")])
    assert contents(elsewhere) == before and not (tmp_path / "exported").exists()
