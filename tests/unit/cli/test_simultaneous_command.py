"""infformer-simultaneous: what it prints and reports, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from small_speech import BINS, RATE, TEXTS, config, write_corpus
from small_speech import task as task_of

from fairseq_infformer.cli import prepare_speech, simultaneous
from fairseq_infformer.errors import InputError
from fairseq_infformer.models.simultaneous import Word
from fairseq_infformer.models.streaming_translation import StreamingTranslation
from fairseq_infformer.speech.corpus import write_table


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    raw = write_corpus(folder / "raw")
    with pytest.MonkeyPatch.context() as patch:
        flags = ("--raw", raw, "--dest", folder / "data", "--rate", RATE, "--bins", BINS)
        patch.setattr("sys.argv", ["prepare_speech", *map(str, flags)])
        prepare_speech.main()
    return folder / "data"


def call(monkeypatch, data: Path, *arguments: object) -> None:
    """The command, with a small model of random weights in place of a checkpoint's."""

    def load(path: str, folder: Path) -> tuple:
        task = task_of(folder)
        torch.manual_seed(0)
        model = StreamingTranslation.build(config(), task.target_dictionary, BINS).eval()
        with torch.no_grad():  # so that it writes words before it ends
            model.decoder.norm.bias[:] = model.decoder.embed_tokens.weight[task.target_dictionary.index("eins")] * 5
        return model, task

    monkeypatch.setattr(simultaneous, "load", load)
    flags = ["infformer-simultaneous", "--data", data, "--path", "model.pt", *arguments]
    monkeypatch.setattr("sys.argv", [str(flag) for flag in flags])
    simultaneous.main()


def test_main_prints_words_and_reports_quality_latency_and_cost(data, monkeypatch, capsys):
    call(monkeypatch, data, "--split", "train", "--wait-k", 1)
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[:3]] == ["train-0", "train-1", "train-2"]
    words = [word for line in printed[:3] for word in line.split()[1:]]
    assert words and set(words) <= {"eins", "zwei", "drei", "<unk>"}
    figures = {name: float(value) for name, value in (line.split(": ") for line in printed[3:])}
    assert figures["utterances"] == 3 and 0 <= figures["BLEU"] <= 100 and figures["ms per segment"] > 0
    assert figures["AL_CA"] > figures["AL"]  # which is negative where a translation is too long
    for name in ("LAAL", "DAL", "AP"):
        assert figures[f"{name}_CA"] > figures[name] > 0
    call(monkeypatch, data, "--split", "train", "--wait-k", 1, "--json")
    again = json.loads(capsys.readouterr().out)
    assert list(again) == list(figures) and again["DAL"] == pytest.approx(figures["DAL"], abs=1e-3)


def test_main_joins_the_utterances_of_a_stream(data, monkeypatch, capsys):
    call(monkeypatch, data, "--split", "train", "--wait-k", "inf", "--join", 60)
    printed = capsys.readouterr().out
    assert "train-0:" in printed and "train-1:" not in printed and "utterances: 3" in printed


def test_main_reports_an_unbroken_stream_as_one_translation(data, monkeypatch, capsys):
    found = {}
    for flags in ((), ("--unbroken",)):
        call(monkeypatch, data, "--split", "train", "--join", 60, "--json", *flags)
        found[flags] = json.loads(capsys.readouterr().out)
    whole = " ".join(TEXTS["train"])
    # The model writes eins alone: as many mistakes as there are other words, if it writes as many, or more.
    assert found["--unbroken",]["word accuracy"] <= 100 * whole.split().count("eins") / len(whole.split())
    assert found["--unbroken",]["DAL"] > found[()]["DAL"]  # of longer speech


def test_joined_keeps_speakers_apart_and_ends_long_streams():
    rows = [{"speaker": name} for name in "aaaab"]
    audio = [torch.zeros(RATE)] * 5
    assert simultaneous.joined(rows, audio, RATE, 2.0) == [[0, 1], [2, 3], [4]]
    assert simultaneous.joined(rows, audio, RATE, 0.0) == [[0], [1], [2], [3], [4]]


def test_spelled_lets_a_word_come_with_its_last_piece():
    pieces = ["▁sieben", "und", "vierzig", "▁null"]
    words = [Word(number, 100.0 * number, 200.0 * number) for number in range(4)]
    assert simultaneous.spelled(words, pieces, True) == [("siebenundvierzig", 200, 400), ("null", 300, 600)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--step", 0), "--step must be 1 or more, got 0"),
        (("--split", "dev"), "dev.tsv cannot be read"),
    ],
)
def test_main_refuses_wrong_arguments_in_one_line(data, monkeypatch, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        call(monkeypatch, data, *arguments)
    assert "\n" not in str(error.value)


def test_main_refuses_waiting_for_nothing(data, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, data, "--wait-k", 0)
    assert "argument --wait-k: must be 1 or more, or inf, got 0" in capsys.readouterr().err


def test_run_refuses_a_table_without_recordings(data, monkeypatch, tmp_path):
    write_table(tmp_path / "test.tsv", [{"id": "a", "audio": "a.npy", "tgt_text": TEXTS["test"][0]}])
    with pytest.raises(InputError, match="has no column wav; give a data folder of"):
        call(monkeypatch, tmp_path)
