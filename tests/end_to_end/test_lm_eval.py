"""The LM Evaluation Harness: its figures of a model that fairseq-train made are those of infformer-eval."""

import json
import sys

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

import preparing
from command_line import run_here
from fairseq_cli import train
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from pretrained_data import BOOKS, FLAGS, GIBBS, write_model

from fairseq_infformer.cli import evaluate, export
from fairseq_infformer.cli.harness import InfformerLM
from fairseq_infformer.errors import InputError
from recipes.lm_eval import tasks


def make(raw, dest, monkeypatch, *more):
    words = ["--raw", raw, "--dest", dest, "--name", "books", "--documents", "file", *more]
    monkeypatch.setattr(sys, "argv", ["tasks", *map(str, words)])
    tasks.main()
    return dest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    two = {"1": BOOKS["1.txt"] * 9 + "An odd end: naïve\r\n", "2": BOOKS["2.txt"] * 4 + "no line end"}
    raw = preparing.write(folder / "raw", train=BOOKS, valid=two, test=two)
    model = write_model(folder / "llama")
    preparing.run(raw, folder / "data", "--tokenizer", model, "--documents", "file", level="tokenizer")
    return folder


def scored(folder, names, tasks, **arguments):
    model = InfformerLM(str(folder), device="cpu", **arguments)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0)
    return found["results"]


@pytest.mark.slow
def test_perplexities_of_two_documents_are_those_of_infformer_eval(corpus, tmp_path, monkeypatch, capsys):
    data, save = corpus / "data", tmp_path / "save"
    flags = [*FLAGS, *GIBBS, "--disable-validation", "--max-update", 3, "--save-dir", save]
    code, error = run_here(train.cli_main, data, *flags, "--pretrained", corpus / "llama")
    assert code == 0, error
    path = save / "checkpoint_last.pt"
    export.main([str(part) for part in [data, "--path", path, "--to", "hf", "--dest", tmp_path / "hf"]])
    monkeypatch.setattr(sys, "argv", ["infformer-eval", str(data), "--path", str(path), "--cpu", "--json"])
    capsys.readouterr()
    evaluate.main()
    expected = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(tasks, "BEFORE", 7)
    made = make(corpus / "raw", tmp_path / "tasks", monkeypatch, "--needles", "5", "--questions", 6)
    found = scored(tmp_path / "hf", ["books", "books_needle_5"], made, batch_size=2)
    assert found["books"]["word_perplexity,none"] == pytest.approx(expected["perplexity_per_word"], rel=1e-5)
    assert found["books"]["bits_per_byte,none"] == pytest.approx(expected["bits_per_byte"], rel=1e-5)
    assert 0 <= found["books_needle_5"]["acc,none"] <= 1


def test_needles_ask_for_one_of_the_facts(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "BEFORE", 7)
    make(corpus / "raw", tmp_path, monkeypatch, "--needles", "12,20", "--questions", 9)
    docs = [json.loads(line) for line in (tmp_path / "books_needle_12.jsonl").read_text().splitlines()]
    assert len(docs) == 9 and len({doc["answer"] for doc in docs}) > 2
    for doc in docs:
        facts = doc["context"].split("The secret number of ")[1:]
        assert len(facts) == 5
        answers = [fact.split(".")[0] for fact in facts[:4]]
        assert f"{facts[-1]} {doc['choices'][doc['answer']]}" in answers
        assert len(facts[3].split(".", 1)[1].split()) == 12


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--split", "test", "--needles", "9000"],
            r"--needles 9000 needs a document of 9200 words, the longest has \d+",
        ),
    ],
)
def test_tasks_refuse_what_the_text_does_not_have(more, message, corpus, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=message):
        make(corpus / "raw", tmp_path / "new", monkeypatch, *more)
    assert not (tmp_path / "new").exists()
