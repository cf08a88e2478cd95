"""recipes/sorting runs, goes on where it was stopped, and sums up what was scored."""

import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from command_line import ENVIRONMENT, ROOT, logged, run

RECIPE = ROOT / "recipes/sorting/run.sh"


@pytest.mark.slow
def test_the_tiny_recipe_shows_what_the_memory_is_for(tmp_path):
    done = run(RECIPE, "--tiny", "--stage", 1, "--dir", tmp_path, timeout=900)
    rows = {row["memory"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert set(rows) == {"none", "compressive", "continuous"}
    accuracy = {memory: row["accuracy"]["mean"] for memory, row in rows.items()}
    assert accuracy["continuous"] > accuracy["none"] + 0.05
    assert accuracy["none"] > 0.15  # it has learned not to give a symbol twice, or its defeat would say nothing
    for memory, value in accuracy.items():
        assert f"{100 * value:.1f}" in next(line for line in done.stdout.splitlines() if f" {memory} " in line)
        logged = json.loads((tmp_path / f"490/{memory}-seed1/test.json").read_text())
        assert logged["accuracy"] == pytest.approx(value) and logged["tokens"] == 20 * 640
    again = run(RECIPE, "--tiny", "--stage", 1, "--dir", tmp_path).stdout
    assert again.count("is trained already") == 3 and "scoring" not in again


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on(tmp_path):
    options = ["--tiny", "--memory", "none", "--length", 42, "--dir", tmp_path, "--stop-stage", 2]
    options += ["--", "--save-interval-updates", 50, "--max-update", 200]
    run(RECIPE, "--stage", 1, "--stop-stage", 1, *options[:7])
    save = tmp_path / "42/none-seed1"
    started = subprocess.Popen(
        [str(part) for part in [RECIPE, "--stage", 2, *options]],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    log = save / "train.log"
    while not (log.exists() and "Saved checkpoint" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)  # Ctrl-C
    assert started.wait() == 130
    stopped = log.read_text()
    time.sleep(3)
    assert log.read_text() == stopped and not (save / "done").exists()
    run(RECIPE, "--stage", 2, *options)
    assert (save / "done").exists()
    assert re.search(r"Loaded checkpoint .*checkpoint_last.pt \(epoch 1 @ (50|100|150) updates\)", log.read_text())
    assert logged(log.read_text(), "train_inner", "num_updates")[-1] == 200


def test_a_slurm_job_of_several_nodes_trains_by_srun(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    (tmp_path / "bin/srun").chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": ROOT, "SLURM_NTASKS": 8, "SLURM_JOB_NUM_NODES": 2, "CALLS": tmp_path / "calls"}
    job["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for name, value in job.items():
        monkeypatch.setitem(ENVIRONMENT, name, str(value))
    options = ["--size", "paper", "--length", 4000, "--memory", "none,sticky", "--seeds", 1, "--dir", tmp_path]
    run(ROOT / "recipes/sorting/slurm.sh", *options, "--stage", 2, "--stop-stage", 2)
    none, sticky = (tmp_path / "calls").read_text().splitlines()
    assert none.startswith("--ntasks 8 ") and f"fairseq-train {tmp_path}/4000/data " in none
    # A sequence for each of the eight; the four segments of 4,022 tokens are one update.
    assert "--batch-size 1 --update-freq 4 " in none and "--long-term-memory none " in none
    assert "--ltm-sampling sticky " in sticky


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "huge"], "unknown size huge; choose of tiny, small, paper"),
        (["--memory", "none,sticki"], "unknown memory sticki; choose of none,compressive,"),
        (["--length", "2k"], "--length must be a positive number, got 2k"),
        (["--nproc", 3], "--nproc 3 does not divide the batch of 16 sequences"),
        (["--lenght", 3], "unknown argument --lenght; see --help"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    done = run(RECIPE, *arguments, check=False)
    assert done.returncode == 2 and done.stdout.startswith(f"error: {message}")


def made_up(folder, right: list[int]) -> None:
    """A scored run, in which answer i of the test split has ``right[i]`` right symbols; all of the other are."""
    folder.mkdir(parents=True)
    target = np.tile(np.arange(20), (len(right), 1))
    predicted = np.where(np.arange(20) < np.array(right)[:, None], target, (target + 1) % 20)
    for split, words in (("valid", target), ("test", predicted)):
        np.savez(folder / f"{split}.npz", target=target.ravel(), predicted=words.ravel())
    (folder / "train.log").write_text("| num. shared model params: 1,234 (num. trained: 1,234)\n")


def test_the_summary_is_over_symbols_answers_seeds_and_lengths(tmp_path):
    made_up(tmp_path / "100/none-seed1", [20, 10])
    made_up(tmp_path / "100/none-seed2", [20, 20])
    made_up(tmp_path / "100/sticky-fixed-seed1", [5, 19])
    summary = [ENVIRONMENT["PYTHON"], ROOT / "recipes/sorting/summary.py"]
    table = run(*summary, tmp_path).stdout
    sticky, none = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert (none["length"], none["memory"], none["parameters"]) == (100, "none", 1234)
    assert none["accuracy"] == {"mean": pytest.approx(0.875), "std": pytest.approx(0.125 * 2**0.5)}
    assert none["matches"] == {"mean": pytest.approx(0.75), "std": pytest.approx(0.25 * 2**0.5)}
    assert none["seeds"]["1"]["test"]["accuracy"] == pytest.approx(0.75)
    assert none["seeds"]["1"]["valid"] == {"sequences": 2, "accuracy": 1, "matches": 1}
    assert sticky["accuracy"] == {"mean": pytest.approx(0.6), "std": None} and sticky["matches"]["mean"] == 0
    assert [line.split()[4:] for line in table.splitlines()[1:3]] == [
        ["60.0", "0.0"],
        ["87.5", "±", "17.7", "75.0", "±", "35.4"],
    ]
    assert not (tmp_path / "accuracy.png").exists()
    made_up(tmp_path / "200/none-seed1", [3])
    run(*summary, tmp_path)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_summary_of_nothing_says_so(tmp_path):
    done = run(ENVIRONMENT["PYTHON"], ROOT / "recipes/sorting/summary.py", tmp_path, check=False)
    assert done.returncode == 1 and "nothing was scored" in done.stdout
