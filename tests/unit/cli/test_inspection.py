"""infformer-inspect: a page for a checkpoint, and what it refuses."""

import pytest
from command_line import one_error, run_here
from preparing import lines_of
from small_model import build

from fairseq_infformer.cli import inspection, reading
from fairseq_infformer.data.spelling import WordSpelling
from fairseq_infformer.vocabulary_files import load_dictionary


@pytest.fixture(scope="module")
def book(documents, tmp_path_factory):
    dictionary, file = load_dictionary(documents / "dict.txt"), tmp_path_factory.mktemp("book") / "book.txt"
    lines = (" ".join(dictionary[number] for number in line[:-1]) for line in lines_of(documents, "test"))
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_inspect_writes_a_page(documents, trained, book, tmp_path, capsys):
    arguments = ["--path", trained[0], "--data", documents, "--text", book, "--save", tmp_path / "page.html", "--cpu"]
    inspection.main([str(argument) for argument in [*arguments, "--max-tokens", 200]])
    assert f"{tmp_path / 'page.html'}: 2 layers, " in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert f"{book}, 200 tokens in segments of 16" in page and page.count("<figure>") == 1 + 2 * (2 * 4 + 2)
    words = book.read_text().split()
    assert any(" ".join(words[start : start + 4]) in page for start in range(150))


WRONG = [
    (["--max-tokens", 0], "--max-tokens must be 1 or more, got 0"),
    (["--max-tokens", 16], "has 16 tokens, none of which has left the short-term memory; give a longer text"),
    (["--text", "none.txt"], "--text none.txt cannot be read (No such file or directory)"),
    (["--save", "none/page.html"], "--save none/page.html cannot be written; give a file in a folder that exists"),
    (["--path", "none.pt"], "--path none.pt does not exist; give a checkpoint or a folder that does"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_inspect_refuses(flags, message, documents, trained, book, tmp_path):
    given = {"--path": trained[0], "--data": documents, "--text": book, "--save": tmp_path / "page.html"}
    arguments = [word for pair in (given | {flags[0]: flags[1]}).items() for word in pair]
    code, text = run_here(inspection.main, *arguments, "--cpu")
    assert code == 1 and message in one_error(text)
    assert not list(tmp_path.iterdir())


def test_inspect_refuses_a_model_without_memory(documents, trained, book, tmp_path, monkeypatch):
    model = build(long_term_memory="none")
    spelling = WordSpelling(model.decoder.dictionary)
    monkeypatch.setattr(reading, "load", lambda args: reading.Reader(model, 5, spelling))
    arguments = ["--path", trained[0], "--data", documents, "--text", book, "--save", tmp_path / "page.html"]
    code, text = run_here(inspection.main, *arguments)
    assert code == 1 and "has no layer with a long-term memory; give a model that has one" in one_error(text)
