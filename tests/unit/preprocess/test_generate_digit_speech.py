"""German numbers, and speech of digits whose speakers are apart."""

import csv

import numpy as np
import pytest
import torch
from small_speech import write_digits

from fairseq_infformer.errors import InputError
from fairseq_infformer.speech.log_mel import LogMel
from preprocess import generate_digit_speech
from preprocess.generate_digit_speech import draw_digits, german, translation, utterance


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "null"),
        (1, "eins"),
        (10, "zehn"),
        (16, "sechzehn"),
        (21, "einundzwanzig"),
        (30, "dreißig"),
        (47, "siebenundvierzig"),
    ],
)
def test_german_says_numbers(number, words):
    assert german(number) == words


def test_german_gives_every_number_a_word_of_its_own():
    assert len({german(number) for number in range(100)}) == 100


def test_translation_reads_digits_in_pairs():
    assert translation([4, 7, 1, 0, 0]) == "siebenundvierzig zehn null"


def test_draw_digits_begins_no_pair_with_zero():
    rng = np.random.default_rng(0)
    drawn = [draw_digits(rng, 2, 5) for _ in range(300)]
    assert {len(digits) for digits in drawn} == {2, 3, 4, 5}
    assert all(digits[place] for digits in drawn for place in range(0, len(digits) - 1, 2))
    assert any(digits[-1] == 0 for digits in drawn if len(digits) % 2) and any(digits[1] == 0 for digits in drawn)


def test_utterance_has_no_silence_whose_energy_is_far_below_all_others():
    """A pause of zeros would be at -16, the floor of the logarithm, and most of the deviation of features."""
    takes = {digit: [(1000 * np.sin(np.arange(2000) * (1 + digit) / 10)).astype(np.int16)] for digit in range(10)}
    samples = utterance(np.random.default_rng(1), [4, 7, 1], takes)
    features = LogMel(generate_digit_speech.RATE, 40)(torch.from_numpy(samples / 32768).float())
    assert samples.dtype == np.int16 and features.min() > -4 and features.max() > 15


def generate(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["generate_digit_speech.py", *map(str, arguments)])
    generate_digit_speech.main()


SIZES = ("--utterances", 6, "--evaluation-utterances", 2, "--valid-speaker", "b", "--test-speaker", "c")


def test_main_keeps_speakers_apart_and_repeats(tmp_path, monkeypatch):
    raw = write_digits(tmp_path / "raw", "abcd")
    for name in ("one", "two"):
        generate(monkeypatch, "--raw", raw, "--dest", tmp_path / name, *SIZES)
    for split, speakers in (("train", ["a"] * 3 + ["d"] * 3), ("valid", ["b"] * 2), ("test", ["c"] * 2)):
        one, two = ((tmp_path / name / f"{split}.tsv").read_text() for name in ("one", "two"))
        assert one == two
        rows = list(csv.DictReader(one.splitlines(), delimiter="\t"))
        assert [row["speaker"] for row in rows] == speakers
        for row in rows:
            digits = [generate_digit_speech.ENGLISH.index(word) for word in row["src_text"].split()]
            assert 2 <= len(digits) <= 10 and row["tgt_text"] == translation(digits)
            same = [(tmp_path / name / row["audio"]).read_bytes() for name in ("one", "two")]
            assert same[0] == same[1] and len(same[0]) > len(digits) * 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SIZES, "--test-speaker", "x"), "--test-speaker must be one of a, b, c, d, got 'x'"),
        ((*SIZES, "--digits", 3, 2), "--digits must be positive and increase, got 3 2"),
        ((*SIZES, "--utterances", 0), "--utterances must be 1 or more, got 0"),
        ((*SIZES, "--test-speaker", "b"), "needs three speakers, one for each split at least"),
    ],
)
def test_main_refuses_wrong_arguments_and_writes_nothing(tmp_path, monkeypatch, arguments, message):
    raw = write_digits(tmp_path / "raw", "abcd")
    with pytest.raises(InputError, match=message):
        generate(monkeypatch, "--raw", raw, "--dest", tmp_path / "out", *arguments)
    with pytest.raises(InputError, match="has no files DIGIT_SPEAKER_NUMBER"):
        generate(monkeypatch, "--raw", tmp_path, "--dest", tmp_path / "out", *SIZES)
    assert not (tmp_path / "out").exists()
