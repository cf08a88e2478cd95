"""Several processes train and score as one does, however they are started, or refuse in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fairseq_cli.eval_lm
import fairseq_cli.train
import fairseq_cli.validate
import pytest
import torch
from command_line import (
    BIN,
    TASK,
    TINY,
    as_flags,
    checked,
    free_port,
    infformer_eval,
    logged,
    one_error,
    run,
    run_forked,
)
from fairseq.distributed import utils as distributed_utils
from forking import start_command
from in_process import training_configuration

from fairseq_infformer.errors import InputError
from fairseq_infformer.plugin import hooks, launch

RESET = ["--document-boundaries", "reset"]
# Ten streams are of 39 and 38 segments, so that the second of two processes has none but empty rows at the end. Two
# words in a band of their own, so that batches lack it. Plain gradient descent, so that weights differ as gradients do,
# and no ReLU, whose kink makes a thousand roundings of one.
TRAINING = as_flags(
    document_boundaries="reset",
    tokens_per_sample=64,
    ltm_sampling="sticky",
    dropout=0,
    log_interval=1,
    adaptive_input=True,
    adaptive_softmax_cutoff="20,70",
    activation_fn="gelu",
    optimizer="sgd",
    lr=0.5,
    max_epoch=1,
    no_epoch_checkpoints=True,
)


def step_of_srun(tasks: int, task: int, nodes: int = 1) -> dict[str, str]:
    """The environment that srun gives a task, the tasks filling one node after another."""
    names = {"NUM_TASKS": tasks, "NUM_NODES": nodes, "NODELIST": f"node[0-{nodes - 1}]", "ID": 3}
    names = {f"SLURM_STEP_{name}": value for name, value in names.items()}
    names |= {"SLURM_JOB_ID": 4711, "SLURM_NTASKS": tasks, "SLURM_PROCID": task, "SLURM_NNODES": nodes}
    names |= {"SLURM_LOCALID": task % (tasks // nodes), "SLURM_NODEID": task // (tasks // nodes)}
    return {name: str(value) for name, value in names.items()}


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> None:
    """A scontrol that knows the hosts of node[0-…]; srun brings the real one."""
    script = tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && [ -n "$3" ] && echo 127.0.0.1 && echo node1\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")


def process_of_torchrun(size: int, rank: int = 0, local_rank: int = 0, port: int = 1234) -> dict[str, str]:
    """The environment that torchrun gives a process."""
    numbers = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": local_rank, "MASTER_PORT": port}
    return {"MASTER_ADDR": "localhost"} | {name: str(number) for name, number in numbers.items()}


def torchrun(folder: Path, module: str, *arguments: object, stderr: int = subprocess.STDOUT) -> str:
    """What the two processes of ``torchrun -m module`` print, in which no thread of gloo outlives its group.

    It would abort its process once in a hundred times, at the very end.
    """
    script = folder / "script.py"
    script.write_text(
        "import runpy, sys\nfrom pathlib import Path\n"
        f"runpy.run_module('{module}', run_name='__main__')\n"
        "names = [thread.read_text().strip() for thread in Path('/proc/self/task').glob('*/comm')]\n"
        "sys.exit(f'threads left: {names}' if any('gloo' in name for name in names) else 0)\n"
    )
    return run(BIN / "torchrun", "--standalone", "--nproc-per-node", 2, script, *arguments, stderr=stderr).stdout


def srun(*command: object) -> list[str]:
    """What the two tasks of ``srun --ntasks 2`` print on their standard outputs."""
    port = {"MASTER_PORT": str(free_port())}
    environments = [step_of_srun(2, task) | port for task in range(2)]
    tasks = [start_command(*command, environment=given, stderr=subprocess.PIPE) for given in environments]
    return [checked(task.wait()).stdout for task in tasks]


def weights(save: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(save / "checkpoint_last.pt", weights_only=True)["model"]
    # fairseq's adaptive input keeps a buffer that is never initialised.
    return {name: tensor for name, tensor in saved.items() if not name.endswith("._float_tensor")}


def training(data: Path, save: Path, streams: int, valid_streams: int, *more: object) -> list[object]:
    sizes = ["--batch-size", streams, "--batch-size-valid", valid_streams]
    return [data, *TASK, *TINY, *TRAINING, *sizes, "--save-dir", save, *more]


@pytest.fixture(scope="module")
def alone(documents, tmp_path_factory) -> tuple[Path, str]:
    """An epoch over ten streams in one process: its checkpoint's folder and its log."""
    save = tmp_path_factory.mktemp("alone")
    return save, run_forked("fairseq-train", *training(documents, save, 10, 6)).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "backend"), [("torchrun", "pytorch_ddp"), ("srun", "legacy_ddp")])
def test_training_on_two_processes_equals_one_with_twice_the_streams(
    launcher, backend, alone, documents, tmp_path, scontrol
):
    flags = training(documents, tmp_path / "two", 5, 3, "--ddp-backend", backend)
    torch_runs = launcher == "torchrun"
    log = torchrun(tmp_path, "fairseq_cli.train", *flags) if torch_runs else srun("fairseq-train", *flags)[0]
    for name in ("loss", "nll_loss", "kl", "ltm_mu", "ltm_sigma", "gnorm"):
        one = logged(alone[1], "train_inner", name)
        assert len(one) == 39
        # Logs have three decimals, so that the last may be rounded the other way.
        assert logged(log, "train_inner", name) == pytest.approx(one, abs=0.0011), name
    for name in ("loss", "ppl", "kl", "ltm_mu_std"):
        assert logged(log, "valid", name) == pytest.approx(logged(alone[1], "valid", name), rel=1e-4), name
    # Float32 sums in another order, carried through 39 updates: 7e-7 was seen.
    for name, weight in weights(tmp_path / "two").items():
        one = weights(alone[0])[name]
        assert (weight - one).abs().max() <= 1e-5 * one.abs().max(), name


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_bptt_on_two_processes_equals_one_with_twice_the_streams(backend, documents, tmp_path):
    """The second process has none but empty rows in the last segments of the last sample; one of the two replays."""
    bptt = ["--bptt-segments", 4, "--update-freq", 2]
    one = run_forked("fairseq-train", *training(documents, tmp_path / "one", 10, 6, *bptt)).stdout
    flags = training(documents, tmp_path / "two", 5, 3, *bptt, "--bptt-replay", "--ddp-backend", backend)
    log = torchrun(tmp_path, "fairseq_cli.train", *flags)
    for name in ("loss", "nll_loss", "kl", "gnorm"):
        values = logged(one, "train_inner", name)
        assert len(values) == 5
        assert logged(log, "train_inner", name) == pytest.approx(values, abs=0.0011), name
    for name, weight in weights(tmp_path / "two").items():
        # Float32 sums in another order.
        assert (weight - weights(tmp_path / "one")[name]).abs().max() <= 1e-5 * weight.abs().max(), name


@pytest.mark.slow
def test_scoring_on_two_processes_equals_one_with_twice_the_streams(documents, alone, tmp_path, scontrol):
    checkpoint = alone[0] / "checkpoint_last.pt"
    flags = [documents, "--path", checkpoint, "--cpu", "--json", "--batch-size", 3]
    one = infformer_eval(documents, checkpoint, "--batch-size", 6)
    printed = [torchrun(tmp_path, "fairseq_infformer.cli.evaluate", *flags, stderr=subprocess.PIPE)]
    printed += srun("infformer-eval", *flags)
    assert printed.pop() == ""  # the second task's
    for text in printed:
        two = json.loads(text)
        assert two["tokens"] == one["tokens"] == 4 * 202
        for name in ("nll", "perplexity_per_word", "bits_per_byte", "ltm_mu", "ltm_sigma"):
            # Products of other shapes in float32, whose logits may be off by 1e-6, and all the same way.
            assert two[name] == pytest.approx(one[name], rel=1e-5), name


def test_training_reports_the_failed_process_and_ends_the_others_in_one_line(documents, tmp_path):
    flags = ["--tokens-per-sample", 16, "--batch-size", 2, "--max-update", 1, "--save-dir", tmp_path / "save"]
    port = free_port()
    processes = [
        start_command("fairseq-train", data, *TASK, *TINY, *flags, environment=process_of_torchrun(2, rank, port=port))
        for rank, data in enumerate((documents, tmp_path / "none"))
    ]
    first, second = (process.wait() for process in processes)
    assert first.returncode == second.returncode == 1
    assert "none/dict.txt does not exist; make the data" in one_error(second.stdout)
    assert "another process of this run has ended" in one_error(first.stdout)


# From here on fairseq's commands run in this process, up to where they would begin to work.


@pytest.fixture
def settle(monkeypatch, tmp_path):
    """A function that gives fairseq's command line an environment and returns what it would begin with.

    That is: how many processes it starts (0 if it is one of those that others started, None if it works alone), and
    the settings.
    """
    began: list[tuple[Any, Any]] = []

    def spawn(args: tuple, nprocs: int, **more: Any) -> None:
        began.append((nprocs, args[1].distributed_training))

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)
    monkeypatch.setattr(
        distributed_utils,
        "distributed_main",
        lambda device, main, cfg, more: began.append((0, cfg.distributed_training)),
    )
    monkeypatch.setattr(fairseq_cli.train, "main", lambda cfg: began.append((None, cfg.distributed_training)))

    def run_in_process(
        environment: dict[str, str], *flags: object, gpus: int = 0, command: Any = fairseq_cli.train
    ) -> tuple[Any, Any]:
        for name in [name for name in os.environ if name in launch.TORCHRUN or name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        saved = ["--batch-size", 2, "--save-dir", tmp_path / "save"]
        given = TASK if command is not fairseq_cli.train else [*TASK, *TINY[:-1], *saved]
        monkeypatch.setattr(sys, "argv", [str(word) for word in ("fairseq", tmp_path / "data", *given, *flags)])
        command.cli_main()
        return began.pop()

    return run_in_process


# What salloc and sbatch leave in the environment of a process that srun did not start.
ALLOCATION = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
ALLOCATION |= {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2"}

MANUALLY = ["--distributed-world-size", 2, "--distributed-no-spawn", "--distributed-init-method", "tcp://node0:1"]

# environment, flags, visible GPUs; processes it starts, size, rank, device, backend.
LAUNCHES = {
    "alone": ({}, [], 0, None, 1, 0, 0, "gloo"),
    "alone, 4 GPUs": ({}, [], 4, 4, 4, None, 0, "nccl"),
    "alone, 2 of 4 GPUs": ({}, ["--distributed-world-size", 2], 4, 2, 2, None, 0, "nccl"),
    "alone, on the CPU beside 4 GPUs": ({}, ["--cpu"], 4, None, 1, 0, 0, "gloo"),
    "alone, asked not to spawn": ({}, ["--distributed-no-spawn"], 4, None, 1, 0, 0, "nccl"),
    "by hand": ({}, [*MANUALLY, "--distributed-rank", 1], 0, 0, 2, 1, 0, "gloo"),
    "torchrun": (process_of_torchrun(2, 1, 1), [], 0, 0, 2, 1, 0, "gloo"),
    "torchrun of one": (process_of_torchrun(1), [], 4, 0, 1, 0, 0, "nccl"),
    "torchrun, the size said twice": (process_of_torchrun(2, 1), ["--distributed-world-size=2"], 0, 0, 2, 1, 0, "gloo"),
    "torchrun, 2 × 4 GPUs": (process_of_torchrun(8, 6, 2), [], 4, 0, 8, 6, 2, "nccl"),
    "torchrun inside srun": (step_of_srun(2, 1, 2) | process_of_torchrun(8, 6, 2), [], 4, 0, 8, 6, 2, "nccl"),
    "srun": (step_of_srun(2, 1), [], 0, 0, 2, 1, 0, "gloo"),
    "srun, 2 × 2 GPUs": (step_of_srun(4, 3, 2), [], 2, 0, 4, 3, 1, "nccl"),
    "srun, each task sees its GPU alone": (step_of_srun(4, 3, 2), [], 1, 0, 4, 3, 0, "nccl"),
    "srun of one": (step_of_srun(1, 0), [], 0, None, 1, 0, 0, "gloo"),
    "srun of one, 4 GPUs": (step_of_srun(1, 0), [], 4, 4, 4, None, 0, "nccl"),
    "srun, one task for each of two nodes of 4 GPUs": (step_of_srun(2, 1, 2), [], 4, 4, 8, None, 0, "nccl"),
    "srun, one task for each of two nodes": (step_of_srun(2, 1, 2), [], 1, 0, 2, 1, 0, "nccl"),
    "in an allocation": (ALLOCATION, [], 0, None, 1, 0, 0, "gloo"),
    "in an allocation, 4 GPUs": (ALLOCATION, [], 4, 4, 4, None, 0, "nccl"),
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_launch_is_recognised(launch, settle, scontrol):
    environment, flags, gpus, *expected = LAUNCHES[launch]
    starts, found = settle(environment, *flags, gpus=gpus)
    rank, device = found.distributed_rank, found.device_id
    assert [starts, found.distributed_world_size, rank, device, found.distributed_backend] == expected


def test_launch_gives_all_processes_one_address(settle, scontrol):
    def place(environment: dict[str, str], *flags: object, gpus: int = 0) -> str:
        return settle(environment, *flags, gpus=gpus)[1].distributed_init_method

    assert place(process_of_torchrun(2)) == "env://"
    first, second = place(step_of_srun(4, 0, 2)), place(step_of_srun(4, 3, 2))
    assert first == second
    host, port = first.removeprefix("tcp://").split(":")
    assert host == "127.0.0.1" and 1024 < int(port) < 32768
    assert place(step_of_srun(4, 0, 2) | {"SLURM_STEP_ID": "4"}) != first
    assert place(step_of_srun(2, 0), "--distributed-port", 2345) == "tcp://127.0.0.1:2345"
    given = {"MASTER_ADDR": "node7", "MASTER_PORT": "3456"}
    assert place(step_of_srun(2, 0) | given) == "tcp://node7:3456"
    assert place(step_of_srun(2, 0), "--distributed-init-method", "tcp://node8:99") == "tcp://node8:99"
    assert place({}, gpus=2) != place({}, gpus=2)  # two runs beside each other


TWO = process_of_torchrun(2)
MISTAKES = {
    "torchrun of 2, asked for 4": (
        TWO,
        ["--distributed-world-size", 4],
        "size 4 disagrees with .* WORLD_SIZE=2 makes a world size of 2",
    ),
    "torchrun of 2, asked for 1": (
        TWO,
        ["--distributed-world-size", 1],
        "size 1 disagrees with .* WORLD_SIZE=2 makes a world size of 2",
    ),
    "the same, in one word": (
        TWO,
        ["--distributed-world-size=1"],
        "size 1 disagrees with .* WORLD_SIZE=2 makes a world size of 2",
    ),
    "srun of 2, asked for 4": (
        step_of_srun(2, 1),
        ["--distributed-world-size", 4],
        "4 .* SLURM_STEP_NUM_TASKS=2 makes a world size of 2",
    ),
    "nobody starts the others": (
        {},
        ["--distributed-world-size", 2],
        "2 needs that many processes.* start 0 .*torchrun",
    ),
    "nor here": (
        {},
        ["--distributed-world-size", 2, "--distributed-init-method", "tcp://node0:1"],
        "2 needs that many processes.* start 0 .*torchrun",
    ),
    "FSDP": ({}, ["--ddp-backend", "fully_sharded"], "fully_sharded .* not supported; give pytorch_ddp or legacy_ddp"),
    "tensor parallelism": ({}, ["--model-parallel-size", 2], "model parallelism is not supported"),
    "pipelines": ({}, ["--pipeline-model-parallel"], "model parallelism is not supported"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_launch_that_is_inconsistent_is_refused_before_anything_is_written(mistake, settle, scontrol, tmp_path):
    environment, flags, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message) as error:
        settle(environment, *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "save").exists()


def test_launch_by_srun_without_scontrol_asks_for_the_address(settle, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"hosts of 'node\[0-0\]' .*; set MASTER_ADDR"):
        settle(step_of_srun(2, 0))


@pytest.mark.parametrize("flags", [["--distributed-world-size", 2], [*MANUALLY, "--distributed-rank", 1], []])
@pytest.mark.parametrize("command", [fairseq_cli.eval_lm, fairseq_cli.validate])
def test_fairseq_eval_lm_and_validate_refuse_several_processes(command, flags, settle):
    with pytest.raises(
        InputError, match=r"of 2 processes.* torchrun --nproc-per-node 2 -m fairseq_infformer\.cli\.evalu"
    ):
        settle({} if flags else TWO, "--path", "model.pt", *flags, command=command)


def test_hydra_train_is_checked_before_anything_is_written(monkeypatch, documents, tmp_path):
    """fairseq-hydra-train imports the plugin when it trains; processes must not race on a checkpoint there either."""
    monkeypatch.setattr(hooks.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(hooks.hydra_utils, "CompactHydraException", hooks.hydra_utils.CompactHydraException)
    monkeypatch.setattr(fairseq_cli.train, "add_defaults", lambda cfg: None)
    hooks.check_before_hydra_run()

    def look(data: object, *flags: object) -> None:
        fairseq_cli.train.add_defaults(training_configuration(data, tmp_path, "--batch-size", 2, *flags))

    look(documents)
    with pytest.raises(
        InputError, match=r"task.data data is not an absolute path, and hydra runs in .*; give an absolute path"
    ):
        look("data")
    with pytest.raises(InputError, match=r"--seed must lie in"):
        look(documents, "--seed", -1)
    with pytest.raises(hooks.hydra_utils.CompactHydraException):  # of which hydra prints the line alone
        look(documents, "--fp16")
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"WORLD_SIZE=2.* but fairseq-hydra-train cannot join .* start fairseq-train"):
        look(documents)


def fail(rank: int) -> None:
    raise InputError("the flag is wrong: give another")


def test_spawned_process_reports_an_error_in_one_line(capsys):
    try:
        # fairseq spawns it, which imports everything anew and names the mistake in the same words.
        torch.multiprocessing.start_processes(fail, nprocs=1, start_method="fork")
    except torch.multiprocessing.ProcessRaisedException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err == "error: the flag is wrong: give another\n"
