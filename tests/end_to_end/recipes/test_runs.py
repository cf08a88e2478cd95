"""What all comparing recipes share: their options, what they refuse, how runs are ended, and what is read of a run."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from command_line import ROOT, run
from recipe_options import experiment

from recipes import commands, launches, plot, runs, train
from recipes.commands import Command

SORTING = ROOT / "recipes/sorting/run.sh"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--stage", "two"], "--stage must be a number, got two"),
        (["--stage", 3, "--stop-stage", 2], "--stage 3 comes after --stop-stage 2: nothing would be done"),
        (["--stage"], "--stage needs a value"),
    ],
)
@pytest.mark.parametrize("recipe", ["sorting/run.sh", "quickstart.sh"])
def test_stages_refuse_a_range_that_is_empty_or_unknown(recipe, arguments, message):
    done = run(ROOT / "recipes" / recipe, *arguments, check=False)
    assert done.returncode == 2 and done.stdout == f"error: {message}\n"


def test_scoring_refuses_what_was_not_trained(tmp_path):
    done = run(SORTING, "--dir", tmp_path, "--memory", "none", "--stage", 3, check=False)
    assert done.returncode == 2
    assert f"error: {tmp_path}/2000/none-seed1 is not trained to its end" in done.stdout


def test_check_refuses_a_training_of_other_arguments(tmp_path, capsys):
    launches.note(tmp_path, ["torchrun", f"{ROOT}/.venv/bin/fairseq-train", f"{ROOT}/data", "--lr", "1"])
    launches.check(tmp_path, ["srun", "fairseq-train", "--lr", "1", "./data"])  # wherever it resumes, in whatever order
    with pytest.raises(SystemExit):
        launches.check(tmp_path, ["fairseq-train", "data", "--lr", "2", "--fp16"])
    assert (
        "training of other arguments, with '1' where '2 --fp16' is given now; give another" in capsys.readouterr().err
    )


def test_check_leaves_options_of_other_memories_out(tmp_path, capsys):
    trained = ["fairseq-train", "data", "--ltm-basis", "8", "--ltm-flat-start", "--long-term-memory", "compressive"]
    launches.note(tmp_path, trained)
    launches.check(tmp_path, ["fairseq-train", "data", "--hitters-length", "9", "--long-term-memory", "compressive"])
    for more in (["--compressive-length", "9"], ["--ltm-layers", "1"]):
        with pytest.raises(SystemExit):
            launches.check(tmp_path, [*trained, *more])
        assert f"with 'nothing' where '{' '.join(more)}' is given now" in capsys.readouterr().err


def test_train_runs_a_training_once(tmp_path, capsys, monkeypatch):
    """And again after it has failed, to the end of the same log."""
    for script in ("echo first; echo Error: too hot; exit 3", "echo second", "exit 4"):
        (tmp_path / "fairseq-train").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "fairseq-train").chmod(0o755)
        monkeypatch.setattr(sys, "argv", ["train", str(tmp_path / "run"), str(tmp_path / "fairseq-train")])
        if "too hot" in script:
            with pytest.raises(SystemExit, match="1"):
                train.main()
            assert capsys.readouterr().err == f"error: training {tmp_path}/run failed: Error: too hot\n"
        else:
            train.main()
    assert (tmp_path / "run/train.log").read_text() == "first\nError: too hot\nsecond\n"
    assert len(launches.launches(tmp_path / "run")) == 2 and "is trained already" in capsys.readouterr().err


def test_run_loses_no_failure_of_commands_side_by_side(tmp_path):
    """They end together, and the last to be waited for has failed."""
    made = [
        Command(["sh", "-c", f"touch {tmp_path}/{name}; exit {code}"]) for name, code in (("a", 0), ("b", 0), ("c", 5))
    ]
    assert commands.run(made, 3) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}
    assert commands.run([Command(["false"]), Command(["touch", str(tmp_path / "d")])], 1) == 1
    assert (tmp_path / "d").exists()


def test_run_stops_at_the_first_failure_of_commands_in_order(tmp_path):
    assert commands.run([Command(["false"]), Command(["touch", str(tmp_path / "a")])]) == 1
    assert not (tmp_path / "a").exists()


def test_run_leaves_an_output_whole_or_not_at_all(tmp_path):
    made = [Command(["sh", "-c", f"echo text; exit {code}"], output=tmp_path / f"{code}.json") for code in (0, 1)]
    assert commands.run(made, 2) == 1
    assert (tmp_path / "0.json").read_text() == "text\n" and not (tmp_path / "1.json").exists()


def has_ended(pid: str) -> bool:
    """Whether a process runs no more, be it that nobody has waited for it yet."""
    state = pathlib.Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_whole_process_groups_with_itself(tmp_path, number):
    """And no process beside them."""
    beside = subprocess.Popen(["sleep", "50"])
    family = Command(["sh", "-c", f"sleep 50 & echo $! > {tmp_path}/child; wait"])
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(SystemExit) as ended:
        commands.run([family, Command(["sleep", "50"]), family], 2)
    assert ended.value.code == 128 + number
    assert has_ended((tmp_path / "child").read_text().strip())
    assert beside.poll() is None
    beside.kill()
    beside.wait()


def test_progress_names_the_last_update(tmp_path):
    log = tmp_path / "none-seed1/train.log"
    command = Command(["fairseq-train", "--max-update", "600", "--max-update", "50"], log=log)
    assert commands.progress(command) == "none-seed1 0/50"
    log.parent.mkdir()
    log.write_text('| train_inner | {"num_updates": "10"}\n| train_inner | {"num_updates": "20", "lo')
    assert commands.progress(command) == "none-seed1 20/50"


def test_command_of_a_result_is_one_that_a_shell_takes():
    made = experiment("wikitext2", "--raw", "/a/b", "--nproc", 4, "--", "--adam-betas", "(0.9, 0.98)")
    assert made.command == "recipes/wikitext2/run.sh --size small --raw DIR --nproc 4 -- --adam-betas '(0.9, 0.98)'"
    found = [{"memory": "none", "seed": 1}, {"memory": "sticky", "seed": 1}]
    assert (
        runs.full_command("run.sh --raw DIR -- --lr 1", found)
        == "run.sh --raw DIR --memory none,sticky --seeds 1 -- --lr 1"
    )
    assert runs.full_command("run.sh", found[:1]) == "run.sh --memory none --seeds 1"


def test_hardware_is_that_of_the_processes(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA H100 (UUID: $i)"; done\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launches.hardware("fairseq-train data") == "1 × NVIDIA H100"
    assert launches.hardware("srun --ntasks 8 fairseq-train data") == "8 × NVIDIA H100"
    assert launches.hardware("fairseq-train data --cpu").endswith(", all threads per process")
    several = launches.hardware("torchrun --nproc-per-node 2 fairseq-train data --cpu")
    assert several.endswith(", 1 thread per process, 2 processes")


def test_write_leaves_json_that_every_reader_accepts(tmp_path):
    """As of a training that diverged."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    runs.write(tmp_path / "results.json", {"kind": "x", "runs": [{"curve": [1.5, float("nan")], "ppl": float("inf")}]})
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert found == {"kind": "x", "runs": [{"curve": [1.5, None], "ppl": None}]}


def test_results_ignore_incomplete_runs(tmp_path):
    head = "| num. shared model params: 1,234 (num. trained: 1,234)\n"
    for name in ("none-seed1", "none-seed1.old"):
        (tmp_path / name).mkdir()
        launches.note(tmp_path / name, ["fairseq-train"])
        (tmp_path / name / "test.json").write_text('{"tokens": 1}')
        (tmp_path / name / "train.log").write_text(head + '| train_inner | {"nll_loss": "2", "num_upd')
    ((_, found),) = runs.scored_runs(tmp_path)
    assert found["updates"] == 0 and found["valid"] is None
    results = {"kind": "language-model", "runs": [found]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert plot.draw(results, "", tmp_path) == []  # too short to have been logged


def test_recipe_that_is_killed_ends_its_trainings(tmp_path):
    """Where the signal comes to the shell alone, as by ``kill``."""
    (tmp_path / "srun").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 50\n")
    (tmp_path / "srun").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NUM_NODES": "2"}
    options = ["--memory", "none", "--nproc", "2", "--stage", "2", "--dir", tmp_path / "run"]
    recipe = subprocess.Popen([SORTING, *options], env=environment, stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    recipe.terminate()
    assert recipe.wait(60) == 143
    assert has_ended(pid.read_text().strip())
