"""Speech corpora as data folders, and what the task reads of them."""

import shutil

import numpy as np
import pytest
import torch
from small_speech import BINS, RATE, TEXTS, task, write_corpus, write_wav

from fairseq_infformer.cli import prepare_speech
from fairseq_infformer.errors import InputError
from fairseq_infformer.speech.log_mel import LogMel
from fairseq_infformer.speech.wav import read_wav

SIZES = ("--rate", RATE, "--bins", BINS)


def prepare(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["prepare_speech", *map(str, arguments)])
    prepare_speech.main()


def test_main_writes_what_the_task_reads_wherever_the_folder_is(tmp_path, monkeypatch):
    raw = write_corpus(tmp_path / "raw")
    prepare(monkeypatch, "--raw", raw, "--dest", tmp_path / "made", *SIZES)
    shutil.move(tmp_path / "made", tmp_path / "data")
    read = task(tmp_path / "data")
    features, frames = LogMel(RATE, BINS), []
    for split, texts in TEXTS.items():
        read.load_dataset(split)
        dataset = read.dataset(split)
        assert len(dataset) == len(texts)
        for number, text in enumerate(texts):
            item = dataset[number]
            assert read.target_dictionary.string(item.target) == text
            expected = features(read_wav(raw / f"{split}{number}.wav", RATE))
            with np.load(tmp_path / "data/cmvn.npz") as stats:
                normalised = (expected - stats["mean"]) / stats["std"]
            torch.testing.assert_close(item.source, normalised.float(), rtol=1e-5, atol=1e-5)
            frames += [item.source] if split == "train" else []
    together = torch.cat(frames)
    torch.testing.assert_close(together.mean(0), torch.zeros(BINS), rtol=0, atol=1e-4)
    torch.testing.assert_close(together.std(0, correction=0), torch.ones(BINS), rtol=0, atol=1e-4)


def test_main_takes_what_is_said_for_speech_recognition(tmp_path, monkeypatch):
    write_corpus(tmp_path / "raw")
    prepare(monkeypatch, "--raw", tmp_path / "raw", "--dest", tmp_path / "data", "--text", "src_text", *SIZES)
    read = task(tmp_path / "data")
    read.load_dataset("valid")
    assert read.target_dictionary.string(read.dataset("valid")[0].target) == "one"


def spoil_rate(raw):
    write_wav(raw / "train1.wav", 400, 0, rate=16000)


def spoil_channels(raw):
    write_wav(raw / "train1.wav", 400, 0, channels=2)


def spoil_length(raw):
    write_wav(raw / "train1.wav", 20, 0)


def spoil_text(raw):
    (raw / "valid.tsv").write_text("id\taudio\ttgt_text\na\tvalid0.wav\t\n")


def spoil_columns(raw):
    (raw / "valid.tsv").write_text("id\ttgt_text\na\tb\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_rate, "train1.wav has 16000 samples per second, not 8000; convert it"),
        (spoil_channels, "train1.wav has 2 channels; mix them into one"),
        (spoil_length, "train1.wav is shorter than a frame of 25 ms; remove it, or record it again"),
        (spoil_text, "valid.tsv, line 2, lacks its audio or tgt_text; complete the line, or remove it"),
        (spoil_columns, "valid.tsv has no column audio; it has id, tgt_text"),
        (lambda raw: (raw / "valid.tsv").unlink(), "valid.tsv cannot be read as text in UTF-8"),
    ],
)
def test_main_refuses_bad_corpora_in_one_line_and_writes_nothing(tmp_path, monkeypatch, spoil, message):
    spoil(write_corpus(tmp_path / "raw"))
    with pytest.raises(InputError, match=message) as error:
        prepare(monkeypatch, "--raw", tmp_path / "raw", "--dest", tmp_path / "data", *SIZES)
    assert "\n" not in str(error.value) and not (tmp_path / "data").exists()


def test_task_refuses_folders_that_are_no_data_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"has no config.yaml; give a data folder made by prepare_speech.sh"):
        task(tmp_path)
    write_corpus(tmp_path / "raw")
    prepare(monkeypatch, "--raw", tmp_path / "raw", "--dest", tmp_path / "data", *SIZES)
    with pytest.raises(InputError, match=r"dev.tsv does not exist; give a data folder"):
        task(tmp_path / "data").load_dataset("dev")
