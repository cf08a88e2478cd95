"""One run in several processes: which of them this process is, and how to configure fairseq for it.

fairseq's own inference (``infer_init_method`` in its distributed/utils.py) fails in three ways: where one device is
visible it ignores the environment, so that processes overwrite each other's checkpoint; it divides by the number of
GPUs, which may be 0; and it mistakes a process that merely runs inside a SLURM allocation for one of its tasks.
"""

import os
import socket
import subprocess
import sys
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed.nn.functional  # before a group exists: see collectives.shutdown
from torch import distributed as dist

from fairseq_infformer.errors import InputError

TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


class Launch(NamedTuple):
    """What torchrun or srun says in the environment of a process that it started.

    ``variable`` is the environment variable that holds ``world_size``. ``nodes`` is the number of nodes of an srun,
    and 0 under torchrun, whose processes never start others.
    """

    variable: str
    world_size: int
    rank: int
    local_rank: int
    nodes: int

    def init_method(self, port: int = 0) -> str:
        """Where the processes meet, for torch.distributed; ``port`` (0: the launcher's) is used under srun only.

        Under srun that is the first node of the step, or MASTER_ADDR and MASTER_PORT if the job script sets them.
        """
        if self.variable == "WORLD_SIZE":
            return "env://"
        job, step = int(os.environ.get("SLURM_JOB_ID", 0)), int(os.environ.get("SLURM_STEP_ID", 0))
        # Below 32768, where the ports begin that systems assign; steps that share a node get different ports.
        port = port or int(os.environ.get("MASTER_PORT", 10000 + (31 * job + step) % 20000))
        return f"tcp://{os.environ.get('MASTER_ADDR') or _first_host()}:{port}"


ALONE = Launch("", 1, 0, 0, 0)


def launched() -> Optional[Launch]:
    """The launch that this process is part of; None if it was started alone.

    srun counts the tasks of its step in SLURM_STEP_NUM_TASKS. SLURM_NTASKS does not help: salloc and sbatch set it to
    the number of tasks requested, whether they run or not.
    """
    env = os.environ
    if all(name in env for name in TORCHRUN):
        return Launch("WORLD_SIZE", int(env["WORLD_SIZE"]), int(env["RANK"]), int(env.get("LOCAL_RANK", 0)), 0)
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1:
        return None
    nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
    return Launch("SLURM_STEP_NUM_TASKS", tasks, int(env["SLURM_PROCID"]), int(env["SLURM_LOCALID"]), nodes)


def _first_host() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"scontrol cannot name the hosts of {nodes!r} ({error}); set MASTER_ADDR to one") from error
    return hosts[0]


def configure(cfg: Any, command: str) -> None:
    """Set in fairseq's configuration how many processes work together, and which of them this one is.

    Args:
        cfg: the whole configuration, as fairseq gives it to ``call_main``; its distributed_training is changed.
        command: the module of the command, such as ``train`` or ``eval_lm``.

    Raises:
        InputError: if the settings disagree with the environment or are not supported.
    """
    settings, launch = cfg.distributed_training, launched()
    gpus = 0 if cfg.common.cpu else torch.cuda.device_count()
    _refuse_unsupported(cfg)
    if not gpus and settings.distributed_backend == "nccl":
        settings.distributed_backend = "gloo"
    if command == "eval_lm" or (command == "validate" and not gpus):  # fairseq gathers the sums of validate on a GPU
        _one_process(settings, launch, command)
    elif launch:
        _join_launch(settings, launch, gpus)
    else:
        _spawn_local(settings, gpus)


def refuse_race() -> None:
    """InputError if this process is one of several and fairseq has not joined them, so that each would train alone."""
    launch = launched()
    if launch and launch.world_size > 1 and not dist.is_initialized():
        raise InputError(
            f"the environment says {launch.variable}={launch.world_size}, but fairseq-hydra-train cannot join several "
            "processes; start fairseq-train with torchrun or srun instead"
        )


def _refuse_unsupported(cfg: Any) -> None:
    if str(cfg.distributed_training.ddp_backend) == "fully_sharded":
        raise InputError("--ddp-backend fully_sharded (FSDP) is not supported; give pytorch_ddp or legacy_ddp")
    if cfg.common.model_parallel_size != 1 or cfg.distributed_training.pipeline_model_parallel:
        raise InputError(
            "model parallelism is not supported; leave out --model-parallel-size and --pipeline-model-parallel"
        )
    if str(cfg.distributed_training.zero_sharding) != "none":
        raise InputError("--zero-sharding is not supported; leave it out")


def _requested_world_size(settings: Any) -> Optional[int]:
    """The world size the user gave; None if it may be a default: 1 for scoring, the visible GPUs for training."""
    typed = "--distributed-world-size" in [word.split("=")[0] for word in sys.argv]
    size = settings.distributed_world_size
    return size if typed or size not in (1, torch.cuda.device_count()) else None


def _one_process(settings: Any, launch: Optional[Launch], command: str) -> None:
    size = max(settings.distributed_world_size, launch.world_size if launch else 1)
    if size > 1:
        raise InputError(
            f"fairseq-{command.replace('_', '-')} cannot add up the results of {size} processes; run it in one, or "
            f"run infformer-eval, which can: torchrun --nproc-per-node {size} -m fairseq_infformer.cli.evaluate"
        )


def _join_launch(settings: Any, launch: Launch, gpus: int) -> None:
    # As fairseq does on several nodes: a task that is alone on its node starts one process per GPU.
    alone = launch.nodes == launch.world_size and gpus > 1 and not settings.distributed_no_spawn
    each = gpus if alone else 1
    size = launch.world_size * each
    if _requested_world_size(settings) not in (None, size):
        raise InputError(
            f"--distributed-world-size {settings.distributed_world_size} disagrees with the environment, whose "
            f"{launch.variable}={launch.world_size} makes a world size of {size}; leave the option out, or unset "
            f"{launch.variable} for a separate run"
        )
    settings.distributed_world_size, settings.distributed_rank = size, launch.rank * each
    if settings.distributed_init_method is None:
        settings.distributed_init_method = launch.init_method(max(0, settings.distributed_port))
    if not alone:
        settings.distributed_no_spawn, settings.device_id = True, launch.local_rank % max(1, gpus)


def _spawn_local(settings: Any, gpus: int) -> None:
    """Let fairseq start one process per GPU of this machine."""
    can_start = 0 if settings.distributed_no_spawn else gpus
    if settings.distributed_init_method is None:
        size = _requested_world_size(settings) or min(settings.distributed_world_size, max(1, can_start))
        settings.distributed_world_size = size
        possible = size == 1 or size <= can_start
        if possible and size > 1:
            port = settings.distributed_port if settings.distributed_port > 0 else _free_port()
            settings.distributed_init_method = f"tcp://127.0.0.1:{port}"
    else:
        possible = settings.distributed_no_spawn or gpus > 0
    if not possible:
        raise InputError(
            f"--distributed-world-size {settings.distributed_world_size} needs that many processes, and fairseq can "
            f"start {can_start} by itself (one per GPU); start them with torchrun --nproc-per-node or srun"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
