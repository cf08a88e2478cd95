"""The recipe of translation in small, as a user runs it."""

import json
import re

import pytest
from command_line import ROOT, run
from parallel_text import write_raw


@pytest.mark.slow
def test_multi30k_recipe_searches_trains_translates_and_scores_once(tmp_path):
    raw = write_raw(tmp_path / "raw", {"train": 300, "val": 20, "test_2016_flickr": 20}, "abcdefghijklmnopqrst")
    command = [ROOT / "recipes/multi30k/run.sh", "--tiny", "--raw", raw, "--dir", tmp_path / "run", "--stage", 1]
    done = run(*command, "--splits", "test", timeout=900)
    results = json.loads((tmp_path / "run/results.json").read_text())
    found = {run["memory"]: run for run in results["runs"]}
    assert list(found) == ["transformer", "found", "random", "search"]
    assert found["random"]["parameters"] == pytest.approx(found["found"]["parameters"], rel=0.01)
    assert found["random"]["architecture"] != found["found"]["architecture"]
    assert found["search"]["course"]["update"] == [2, 4, 6, 8]
    for name in ("transformer", "found", "random"):
        own = re.search(r"BLEU = ([\d.]+)", (tmp_path / f"run/{name}-seed1/test.txt").read_text().splitlines()[-1])
        assert found[name]["test"]["bleu"] == pytest.approx(float(own[1]), abs=0.006)  # that of fairseq, as printed
        assert found[name]["valid"] is None and found[name]["updates"] == 16 and f"| {name} " in done.stdout
    assert (tmp_path / "run/weights.png").is_file()
    again = run(*command, "--splits", "test").stdout
    assert again.count("is trained already") == 4 and "translating" not in again and "| found " in again
