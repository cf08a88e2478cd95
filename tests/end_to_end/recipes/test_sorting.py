"""recipes/sorting runs, resumes where it was stopped, and sums up what was scored."""

import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from command_line import ENVIRONMENT, ROOT, run, run_forked

from recipes import launches, runs

RECIPE = ROOT / "recipes/sorting/run.sh"


@pytest.mark.slow
def test_sorting_recipe_in_small_resumes_and_sums_up(tmp_path):
    # A third of the recipe's length, half of its updates and three times its learning rate, so that the tests end. A
    # segment and a short-term memory in which there is little of a sequence show soon what a memory is for.
    options = ["--tiny", "--memory", "none,continuous", "--stage", 1, "--length", 170, "--dir", tmp_path, "--"]
    options += ["--tokens-per-sample", 32, "--stm-length", 16, "--update-freq", 6, "--lr", "1e-2"]
    options += ["--save-interval-updates", 50, "--max-update", 200]
    started = subprocess.Popen(
        [str(part) for part in [RECIPE, *options]],
        env=ENVIRONMENT | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},  # no forks: with interpreters of their own
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores Ctrl-C
    )
    save = tmp_path / "170/none-seed1"
    deadline = time.monotonic() + 300
    log = save / "train.log"
    while not (log.exists() and "Saved checkpoint" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)  # Ctrl-C
    assert started.wait() == 130
    stopped = log.read_text()
    time.sleep(3)
    assert log.read_text() == stopped and not (save / "done").exists()

    done = run(RECIPE, *options, timeout=900)
    assert (save / "done").exists()
    assert re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch 1 @ (50|100|150) updates\)", log.read_text())
    assert runs.training(save)["updates"] == 200 and runs.training(save)["launches"] == 2
    found = {run["memory"]: run for run in json.loads((tmp_path / "results.json").read_text())["runs"]}
    assert set(found) == {"none", "continuous"}
    accuracy = {memory: run["test"]["accuracy"] for memory, run in found.items()}
    # Three seeds had 23.3, 22.6 and 23.4 % right with the memory, and 18.0, 18.2 and 17.6 % without.
    assert accuracy["continuous"] > accuracy["none"] + 0.02
    assert accuracy["none"] > 0.15  # it has learned not to give a symbol twice, or its defeat would say nothing
    for memory, one in found.items():
        assert f"{100 * one['test']['accuracy']:.1f}" in next(
            line for line in done.stdout.splitlines() if f" {memory} " in line
        )
        assert one["test"]["tokens"] == 20 * 640
    again = run(RECIPE, *options).stdout
    assert again.count("is trained already") == 2 and "scoring" not in again


def test_slurm_job_of_several_nodes_trains_by_srun(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    (tmp_path / "bin/srun").chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_NTASKS": 8, "SLURM_JOB_NUM_NODES": 2, "CALLS": tmp_path / "calls"}
    job["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for name, value in job.items():
        monkeypatch.setitem(ENVIRONMENT, name, str(value))
    options = ["--size", "paper", "--length", 4000, "--memory", "none,sticky", "--seeds", 1, "--dir", tmp_path]
    run(ROOT / "recipes/slurm.sh", "sorting", *options, "--stage", 2, "--stop-stage", 2)
    none, sticky = (tmp_path / "calls").read_text().splitlines()
    assert none.startswith("--ntasks 8 ") and f"fairseq-train {tmp_path}/4000/data " in none
    # A sequence for each of the eight; the four segments of 4,022 tokens are one update.
    assert "--batch-size 1 " in none and "--update-freq 4 " in none and "--long-term-memory none " in none
    assert "--ltm-sampling sticky " in sticky


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "huge"], "unknown size huge; choose from tiny, small, paper"),
        (["--memory", "none,sticki"], "unknown memory sticki; choose from none,compressive,"),
        (["--length", "2k"], "--length must be a positive number, got 2k"),
        (["--nproc", 3], "--nproc 3 does not divide the batch of 16 sequences"),
        (["--lenght", 3], "unknown argument --lenght; see --help"),
    ],
)
def test_sorting_recipe_refuses_wrong_options(arguments, message):
    done = run(RECIPE, *arguments, check=False)
    assert done.returncode == 2 and done.stdout.startswith(f"error: {message}")


TRAIN_LOG = """| num. shared model params: 1,234 (num. trained: 1,234)
2026-01-01 | INFO | train_inner | {"epoch": 1, "nll_loss": "2.5", "accuracy": "20", "num_updates": "10", "wall": "60"}
2026-01-01 | INFO | train_inner | {"epoch": 1, "nll_loss": "2.4", "accuracy": "21", "num_updates": "20", "wall": "120"}
2026-01-01 | INFO | train_inner | {"epoch": 1, "nll_loss": "2.3", "accuracy": "22", "num_updates": "20", "wall": "30"}
"""


def made_up(folder, right: list[int]) -> None:
    """A scored run, in which answer i of the test split has ``right[i]`` right symbols; all of the other are."""
    folder.mkdir(parents=True)
    launches.note(folder, ["fairseq-train", f"{ROOT}/runs/data"])
    target = np.tile(np.arange(20), (len(right), 1))
    predicted = np.where(np.arange(20) < np.array(right)[:, None], target, (target + 1) % 20)
    for split, words in (("valid", target), ("test", predicted)):
        np.savez(folder / f"{split}.npz", target=target.ravel(), predicted=words.ravel())
        (folder / f"{split}.json").write_text(json.dumps({"path": "x", "split": split, "tokens": target.size}))
    (folder / "train.log").write_text(TRAIN_LOG)


def test_summary_is_over_symbols_answers_seeds_and_lengths(tmp_path):
    made_up(tmp_path / "100/none-seed1", [20, 10])
    made_up(tmp_path / "100/none-seed2", [20, 20])
    made_up(tmp_path / "100/sticky-fixed-seed1", [5, 19])
    table = run_forked("recipes.sorting.summary", tmp_path).stdout
    first, second, sticky = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert (first["length"], first["memory"], first["seed"], second["seed"]) == (100, "none", 1, 2)
    assert first["valid"]["accuracy"] == 1 and first["test"]["accuracy"] == pytest.approx(0.75)
    assert first["test"]["accuracy_by_place"] == [1] * 10 + [0.5] * 10
    assert sticky["test"]["accuracy"] == pytest.approx(0.6) and sticky["test"]["matches"] == 0
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:4]]
    assert cells == [
        ["100", "sticky-fixed", "1,234", "1", "20", "40", "2.5 min", "60.0", "0.0"],
        ["100", "none", "1,234", "2", "20", "40", "2.5 min", "87.5 ± 17.7", "75.0 ± 35.4"],
    ]
    # What was lost when a run was stopped is not part of its curve; paths are those of the repository.
    assert first["curve"] == {"update": [10, 20], "nll_loss": [2.5, 2.3], "accuracy": [20, 22]}
    assert first["command"] == "fairseq-train runs/data"


def test_summary_of_nothing_says_so(tmp_path):
    done = run_forked("recipes.sorting.summary", tmp_path, check=False)
    assert done.returncode == 1 and "nothing was scored" in done.stdout
