"""Memformer's recipe in small, as a user runs it."""

import json

import pytest
from command_line import ROOT, run


@pytest.mark.slow
def test_memformer_recipe_trains_and_scores_both_forms_at_equal_parameters(tmp_path):
    run(ROOT / "recipes/memformer/run.sh", "--tiny", "--dir", tmp_path, "--stage", 1, "--splits", "test", timeout=600)
    found = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert {run["memory"] for run in found} == {"slots-bptt8", "memformer-bptt8"}
    assert all(run["updates"] == 10 and sum(run["test"]["asked"]) == 64 for run in found)
    least, most = sorted(run["parameters"] for run in found)
    assert most < 1.002 * least
    assert (tmp_path / "by-distance.png").is_file()
