"""The recipe of speech translation in small, as a user runs it."""

import json

import pytest
from command_line import ROOT, run
from small_speech import write_digits


@pytest.mark.slow
def test_digits_speech_recipe_trains_translates_and_measures_once(tmp_path):
    raw = write_digits(tmp_path / "raw", ("george", "lucas", "theo"))
    command = [ROOT / "recipes/digits_speech/run.sh", "--tiny", "--raw", raw, "--dir", tmp_path / "run", "--stage", 1]
    done = run(*command, timeout=900)
    found = {run["memory"]: run for run in json.loads((tmp_path / "run/results.json").read_text())["runs"]}
    assert list(found) == ["bank", "full"]
    for name, one in found.items():
        assert one["updates"] == one["recognition"]["updates"] == 8 and f"| {name} " in done.stdout
        known = {(score["k"], score["stream"]) for score in one["scores"]}
        assert known == {("1", "5s"), ("inf", "5s")} | ({("1", "unbroken")} if name == "bank" else set())
        assert all(score["utterances"] == 2 and score["chrF"] >= 0 for score in one["scores"])
        assert one["cost"]["heard"] == [5, 10] and min(one["cost"]["milliseconds"]) > 0
    assert (tmp_path / "run/quality.png").is_file() and (tmp_path / "run/time.png").is_file()
    again = run(*command).stdout
    assert again.count("is trained already") == 4 and "translating" not in again and "| bank " in again
