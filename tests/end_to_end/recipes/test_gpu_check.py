"""The check for GPUs, all of whose steps run in small on the CPU."""

import json

import pytest
from command_line import ROOT, one_error, run, run_here

from recipes.gpu import check

STEPS = ["modules", "precision", "ranks", "speed", "compile", "sorting"]


@pytest.mark.slow
def test_gpu_check_runs_every_step_in_small_and_resumes(tmp_path):
    kept = tmp_path / "gpu.json"
    command = [ROOT / "recipes/gpu_check.sh", "--dry-run", "--dest", kept, "--work", tmp_path / "work"]
    first = run(*command, timeout=600).stdout
    record = json.loads(kept.read_text())
    assert list(record["steps"]) == STEPS
    for step in record["steps"].values():
        assert step["ok"] and step["rows"], first
    assert "FAILED" not in first
    again = run(*command).stdout
    assert [line for line in again.splitlines() if line.endswith("done before")] == [
        f"{name}: done before" for name in STEPS
    ]
    assert json.loads(kept.read_text()) == record


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--dry-run"], "give --dry-run a --dest"),
        (["--dry-run", "--dest", "x.json", "--only", "speed,nosuch"], "--only has 'nosuch'; choose from modules,"),
        (["--dry-run", "--dest", "nosuch/x.json"], "--dest nosuch/x.json: there is no such folder"),
        (["--minutes", "0"], "--minutes must be positive, got 0"),
    ],
)
def test_gpu_check_refuses_wrong_options(arguments, error):
    code, text = run_here(check.main, *arguments)
    assert code == 2
    assert error in one_error(text)
