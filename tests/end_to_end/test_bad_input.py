"""Wrong input: the one line that names it, before any work, and a disk on which nothing has changed."""

import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from command_line import BIN, ROOT, TASK, TINY, one_error, run, run_here
from fairseq.trainer import Trainer
from fairseq_cli import eval_lm, train, validate
from wrong_inputs import CHECKPOINTS, DATA, EVALUATION, PREPARING, RESET, SCORING, TRAINING, VALIDATION, Wrong

from fairseq_infformer.cli import evaluate, prepare

STREAMS = ["--tokens-per-sample", 16, "--batch-size", 4, "--num-workers", 0]


@pytest.fixture(scope="module")
def checkpoint(documents, tmp_path_factory) -> bytes:
    """A checkpoint after two updates."""
    save = tmp_path_factory.mktemp("checkpoint")
    code, text = train_here(documents, save, "--max-update", 2)
    assert code == 0, text
    return (save / "checkpoint_last.pt").read_bytes()


def without(flag: str, command: Sequence[object]) -> list[object]:
    """A command without a flag and its value."""
    if not flag:
        return list(command)
    at = command.index(flag)
    return [*command[:at], *command[at + 2 :]]


def train_here(data: Path, save: Path, *flags: object, lacks: str = "") -> tuple[int, str]:
    command = [data, *TASK, *TINY, *STREAMS, "--save-dir", save]
    return run_here(train.cli_main, *without(lacks, command), *flags)


def contents(*folders: Path) -> dict[str, str]:
    """Every file below some folders, with its checksum."""
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def altered(documents: Path, change: str, data: Path) -> Path:
    """A copy of the documents in ``data`` to which a change of DATA was made."""
    shutil.copytree(documents, data)
    for name, new in DATA[change].items():
        if callable(new):
            new = new((data / name).read_bytes())
        elif isinstance(new, str):
            new = (data / new).read_bytes()
        (data / name).unlink(missing_ok=True)
        if new is not None:
            (data / name).write_bytes(new)
    return data


def refused(row: Wrong, command: Callable[[Path, Path], tuple[int, str]], documents: Path, good: bytes, folder: Path):
    """Run a command on what the row describes, and hold it to the row."""
    data = documents
    if row.data:
        data = altered(documents, row.data, folder / "data")
    (folder / "notes.txt").write_text("of the user's\n")
    save = folder / row.save
    if row.checkpoint:
        save.mkdir()
        (save / "checkpoint_last.pt").write_bytes(CHECKPOINTS[row.checkpoint](good))
        (save / "dummy").write_text("of the user's too\n")
    before = contents(folder, data)
    code, text = command(data, save)
    assert code != 0
    assert re.search(row.message, one_error(text)), text[-2000:]
    assert contents(folder, data) == before


def by_name(rows: list[Wrong]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Fail where a model would begin to learn or to score."""

    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("the error came after the work had begun")

    monkeypatch.setattr(Trainer, "train_step", work)
    monkeypatch.setattr(evaluate, "score", work)


@by_name(TRAINING)
def test_training_refuses(row, documents, checkpoint, tmp_path, no_work):
    refused(
        row, lambda data, save: train_here(data, save, *row.flags, lacks=row.without), documents, checkpoint, tmp_path
    )


@by_name(EVALUATION)
def test_fairseq_eval_lm_refuses(row, documents, checkpoint, tmp_path):
    def command(data: Path, save: Path) -> tuple[int, str]:
        path = save / "checkpoint_last.pt"
        arguments = [data, *TASK, "--path", path, "--tokens-per-sample", 16, "--cpu", "--num-workers", 0]
        return run_here(eval_lm.cli_main, *without(row.without, arguments), *row.flags)

    row = row if row.checkpoint else row._replace(checkpoint="good")
    refused(row, command, documents, checkpoint, tmp_path)


@by_name(VALIDATION)
def test_fairseq_validate_refuses(row, documents, checkpoint, tmp_path):
    def command(data: Path, save: Path) -> tuple[int, str]:
        path = save / "checkpoint_last.pt"
        arguments = [data, *TASK, "--path", path, "--batch-size", 4, "--cpu", "--num-workers", 0]
        return run_here(validate.cli_main, *without(row.without, arguments), *row.flags)

    refused(row._replace(checkpoint="good"), command, documents, checkpoint, tmp_path)


@by_name(SCORING)
def test_infformer_eval_refuses(row, documents, checkpoint, tmp_path, no_work):
    def command(data: Path, save: Path) -> tuple[int, str]:
        return run_here(evaluate.main, data, "--path", save / "checkpoint_last.pt", "--cpu", *row.flags)

    row = row if row.checkpoint else row._replace(checkpoint="good")
    refused(row, command, documents, checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("fairseq-train", [*TASK, *TINY, *STREAMS, "--save-dir", "save", "--ddp-backend", "fully_sharded"], "FSDP"),
        pytest.param("infformer-eval", ["--path", "none.pt"], "none.pt does not exist", marks=pytest.mark.slow),
    ],
    ids=["fairseq-train", "infformer-eval"],
)
def test_console_scripts_report_an_error_in_one_line(script, flags, message, documents, tmp_path):
    """As a shell starts them, in processes of their own."""
    files = {name: tmp_path / name for name in ("save", "none.pt")}
    done = run(BIN / script, documents, *(files.get(flag, flag) for flag in flags), check=False)
    assert done.returncode == 1 and message in one_error(done.stdout)
    assert not list(tmp_path.iterdir())


def test_user_dir_of_another_name_is_refused(documents, tmp_path):
    """Linked, and copied: fairseq takes the name of the folder for that of the module."""
    (tmp_path / "linked").symlink_to(ROOT / "fairseq_infformer")
    shutil.copytree(ROOT / "fairseq_infformer", tmp_path / "copied")
    for name, advice in (("linked", str(ROOT / "fairseq_infformer")), ("copied", "a folder of that name")):
        code, text = run_here(train.cli_main, documents, "--user-dir", tmp_path / name, *TASK[2:])
        assert code == 1 and one_error(text).endswith(f"not as {name}; give --user-dir {advice}")
    other = (tmp_path / "copied").rename(tmp_path / "fairseq_infformer")
    code, text = run_here(evaluate.main, documents, "--path", "none.pt", "--user-dir", other)
    assert code == 1 and one_error(text).endswith(
        f"but this command belongs to {ROOT / 'fairseq_infformer'}; leave it out"
    )


def test_arch_of_another_project_is_refused(documents, tmp_path):
    flags = ["--arch", "lstm_lm", "--optimizer", "adam", "--cpu", "--save-dir", tmp_path / "save"]
    code, text = run_here(train.cli_main, documents, *TASK, *STREAMS, *flags)
    assert code == 1 and "--arch lstm_lm does not read streams" in one_error(text)
    assert not (tmp_path / "save").exists()


def test_training_accepts_unusual_input(documents, checkpoint, tmp_path, caplog):
    """Another criterion, other layers, no statistics, and files of the user's in the save directory."""
    data = shutil.copytree(documents, tmp_path / "data")
    (data / "stats.json").unlink()
    save = tmp_path / "save"
    save.mkdir()
    (save / "dummy").write_text("of the user's")
    (save / "checkpoint_1_9.pt.tmp").write_bytes(b"what a killed run has left")
    with caplog.at_level(logging.INFO):
        code, text = train_here(data, save, "--max-update", 1, "--criterion", "cross_entropy", "--ltm-layers", "1")
    assert code == 0, text
    names = {path.name for path in save.iterdir()}
    assert names == {"dummy", "checkpoint_last.pt", "checkpoint_best.pt"}
    assert (save / "dummy").read_text() == "of the user's"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("short train", r"later: 4 streams .* more than the 3 segments of 16"),
        ("no train", r"later has no split 'train'; choose one of test, valid"),
        ("no dictionary", r"is read as 2 folders joined by ':', and .*later/dict.txt does not exist"),
    ],
)
def test_training_refuses_data_of_a_later_epoch(data, message, documents, tmp_path, no_work):
    later = altered(documents, data, tmp_path / "later")
    code, text = train_here(Path(f"{documents}:{later}"), tmp_path / "save")
    assert code == 1 and re.search(message, one_error(text)), text
    assert not contents(tmp_path / "save")


def test_evaluation_refuses_joined_data(documents, checkpoint, tmp_path, no_work):
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    joined = [f"{documents}:{documents}", "--path", tmp_path / "checkpoint.pt", "--cpu"]
    code, text = run_here(evaluate.main, *joined)
    assert code == 1 and "joins several data folders by ':'; give one folder" in one_error(text)
    code, text = run_here(eval_lm.cli_main, *joined, *TASK, "--tokens-per-sample", 16)
    assert code == 1 and f"would score only {documents} of {documents}:{documents}" in one_error(text)


def test_training_refuses_a_folder_with_a_colon(documents, tmp_path):
    data = shutil.copytree(documents, tmp_path / "a:b")
    code, text = train_here(data, tmp_path / "save")
    assert code == 1 and "rename the folder if the ':' is part of its path" in one_error(text)


def test_training_accepts_a_second_validation_split(documents, tmp_path):
    """Its documents are no split, and so none that is ignored."""
    data = altered(documents, "a second valid", tmp_path / "data")
    code, text = train_here(
        data, tmp_path / "save", "--max-update", 1, "--valid-subset", "valid,valid1", *RESET.split()
    )
    assert code == 0, text


# ---- raw text -------------------------------------------------------------------------------------------------------


def prepare_here(folder: Path, splits: Mapping[str, str | bytes] | None, *flags: object) -> tuple[int, str]:
    """Write raw text to ``folder``/raw and prepare it as ``folder``/out."""
    (folder / "raw").mkdir()
    for name, text in ({"train": "a b\n", "valid": "a\n"} if splits is None else splits).items():
        path = folder / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    command = ["--raw", folder / "raw", "--dest", folder / "out", "--level", "word"]
    return run_here(lambda: prepare.main([str(part) for part in (*command, *flags)]))


@by_name(PREPARING)
def test_prepare_refuses(row, tmp_path):
    code, text = prepare_here(tmp_path, row.splits, *row.flags)
    assert code != 0
    assert re.search(row.message, one_error(text)), text
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(("size", "message"), [(8000, r"too large .* at most \d+"), (5, r"too small .* at least \d+")])
def test_prepare_refuses_a_vocabulary_that_does_not_fit(size, message, tmp_path):
    one_word = {"train": "a a", "valid": "a"}
    code, text = prepare_here(tmp_path, one_word, "--level", "sentencepiece", "--vocab-size", size)
    assert code == 1 and re.search(message, one_error(text)), text
    assert not (tmp_path / "out").exists()
    assert {path.name for path in (tmp_path / "out.partial").iterdir()} == {"text"}  # a stage that is complete


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("a b\r\nc\r\n", 5, id="Windows line ends"),
        pytest.param("\ufeffa b", 3, id="a byte order mark, no last line end"),
        pytest.param("nul \0 nul\n", 4, id="the character 0"),
        pytest.param("a a a\n", 4, id="one word"),
        pytest.param("\n\n\na\n\n\n\nb\n\n\n", 12, id="empty documents"),
        pytest.param("x" * 10_000_000 + " y\n", 3, id="a word of 10 MB"),
        pytest.param(("x" * 999 + " ") * 10_000 + "\n", 10_001, id="a line of 10 MB"),
    ],
)
def test_prepare_accepts_unusual_text(text, tokens, tmp_path):
    code, printed = prepare_here(tmp_path, {"train": text, "valid": "a\n"}, "--documents", "blank-line")
    assert code == 0, printed
    assert f'"tokens": {tokens}' in (tmp_path / "out" / "stats.json").read_text().split('"valid"')[0]


def test_training_accepts_a_vocabulary_of_one_word(tmp_path):
    code, text = prepare_here(tmp_path, {"train": "a a a\n" * 99, "valid": "a\n"})
    assert code == 0, text
    code, text = train_here(tmp_path / "out", tmp_path / "save", "--max-update", 1, "--batch-size-valid", 1)
    assert code == 0, text
