"""What all comparing recipes share: their options, what they refuse, how runs are ended, and what is read of a run."""

import json
import os
import subprocess

import pytest
from command_line import ENVIRONMENT, ROOT, run

from recipes import plot, runs

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
def test_wrong_stages_are_refused(recipe, arguments, message):
    done = run(ROOT / "recipes" / recipe, *arguments, check=False)
    assert done.returncode == 2 and done.stdout == f"error: {message}\n"


def test_what_was_not_trained_is_not_scored(tmp_path):
    done = run(SORTING, "--dir", tmp_path, "--memory", "none", "--stage", 3, check=False)
    assert done.returncode == 1
    assert f"error: {tmp_path}/2000/none-seed1 is not trained to its end" in done.stdout


def test_a_training_of_other_arguments_is_refused(tmp_path):
    runs.note_launch(tmp_path, ["torchrun", f"{ROOT}/.venv/bin/fairseq-train", "data", "--lr", "1"])
    runs.note_launch(tmp_path, ["srun", "fairseq-train", "data", "--lr", "1"])  # wherever it goes on
    with pytest.raises(
        SystemExit, match=r"training of other arguments, with '1' where now is '2 --fp16'; give another"
    ):
        runs.note_launch(tmp_path, ["fairseq-train", "data", "--lr", "2", "--fp16"])
    (tmp_path / "done").touch()
    with pytest.raises(SystemExit, match="training of other arguments"):
        runs.note_launch(tmp_path, ["fairseq-train", "data", "--lr", "2"])
    runs.note_launch(tmp_path, ["fairseq-train", "data", "--lr", "1"])
    assert len(runs.launches(tmp_path)) == 2


def shell(*lines: str) -> subprocess.CompletedProcess:
    """A script that has sourced what recipes source."""
    head = [f"root={ROOT}", '. "$root/recipes/staged.sh"', '. "$root/recipes/memories.sh"', "further=()"]
    command = ["bash", "-c", "\n".join([*head, *lines])]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def test_no_failure_of_a_run_is_lost():
    # They end together, and the last to be waited for has failed.
    lines = [
        'one() { echo "$1 $2"; [ "$1 $2" != "sticky 2" ]; }',
        "memory=none,sticky seeds=1,2 jobs=4",
        "for_each_run one",
    ]
    for _ in range(20):
        done = shell(*lines)
        assert done.returncode == 1
        assert sorted(done.stdout.splitlines()) == ["none 1", "none 2", "sticky 1", "sticky 2"]


def test_a_recipe_that_is_ended_takes_its_runs_along_and_nothing_else():
    done = shell(
        "one() { sleep 50; echo survived; }",
        "memory=none,sticky seeds=1 jobs=2",
        "(trap '' TERM; sleep 1; echo beside) &",
        "(sleep 0.5; kill $$) &",
        "for_each_run one",
    )
    assert done.returncode == 143 and done.stdout == "beside\n"


def test_the_command_of_a_result_is_one_that_a_shell_takes():
    done = shell(
        "size=small seeds=1 memory=none nproc=4 jobs=1 shown='--raw DIR'",
        "further=(--adam-betas '(0.9, 0.98)')",
        "check_comparison",
        'echo "$command"',
    )
    assert done.stdout == r"recipes/./run.sh --size small --raw DIR --nproc 4 -- --adam-betas \(0.9\,\ 0.98\)" + "\n"
    found = [{"memory": "none", "seed": 1}, {"memory": "sticky", "seed": 1}]
    assert runs.told("run.sh --raw DIR -- --lr 1", found) == "run.sh --raw DIR --memory none,sticky --seeds 1 -- --lr 1"
    assert runs.told("run.sh", found[:1]) == "run.sh --memory none --seeds 1"


def test_the_hardware_is_that_of_the_processes(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA H100 (UUID: $i)"; done\n'
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert runs.hardware("fairseq-train data") == "1 × NVIDIA H100"
    assert runs.hardware("srun --ntasks 8 fairseq-train data") == "8 × NVIDIA H100"
    assert runs.hardware("fairseq-train data --cpu").endswith(", all threads a process")
    several = runs.hardware("torchrun --nproc-per-node 2 fairseq-train data --cpu")
    assert several.endswith(", 1 thread a process, 2 processes")


def test_write_leaves_json_that_every_reader_takes(tmp_path):
    """As of a training that diverged."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    runs.write(tmp_path / "results.json", {"kind": "x", "runs": [{"curve": [1.5, float("nan")], "ppl": float("inf")}]})
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert found == {"kind": "x", "runs": [{"curve": [1.5, None], "ppl": None}]}


def test_what_is_not_whole_is_passed_over(tmp_path):
    head = "| num. shared model params: 1,234 (num. trained: 1,234)\n"
    for name in ("none-seed1", "none-seed1.old"):
        (tmp_path / name).mkdir()
        runs.note_launch(tmp_path / name, ["fairseq-train"])
        (tmp_path / name / "test.json").write_text('{"tokens": 1}')
        (tmp_path / name / "train.log").write_text(head + '| train_inner | {"nll_loss": "2", "num_upd')
    ((_, found),) = runs.scored_runs(tmp_path)
    assert found["updates"] == 0 and found["valid"] is None
    results = {"kind": "language-model", "runs": [found]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert plot.draw(results, "", tmp_path) == []  # too short to have been logged
