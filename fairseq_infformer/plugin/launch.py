"""One run in several processes: which of them this one is, and what fairseq is to make of it.

fairseq's own inference (``infer_init_method`` in its distributed/utils.py) looks at no environment where one device is
visible, so that jobs race on one checkpoint, divides by the number of GPUs, and takes a process that merely runs
inside a SLURM allocation for one of its tasks.
"""

import os
import socket
import subprocess
import sys
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed.nn.functional  # before there is a group: see leave
from torch import distributed as dist

from fairseq_infformer.errors import InputError

TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


class Launch(NamedTuple):
    """What torchrun or srun told a process that it started.

    ``variable`` is the environment's name for ``world_size``. ``nodes`` is the number of nodes of an srun, and 0 for
    torchrun, whose processes never start others.
    """

    variable: str
    world_size: int
    rank: int
    local_rank: int
    nodes: int

    def init_method(self, port: int = 0) -> str:
        """Where the processes meet, as torch.distributed takes it; ``port`` (0: the launcher's) is for srun alone.

        Under srun it is the first node of the step, or MASTER_ADDR and MASTER_PORT, where a job script sets them.
        """
        if self.variable == "WORLD_SIZE":
            return "env://"
        job, step = int(os.environ.get("SLURM_JOB_ID", 0)), int(os.environ.get("SLURM_STEP_ID", 0))
        # Below 32768, where systems begin to hand out ports; steps that share a node get different ones.
        port = port or int(os.environ.get("MASTER_PORT", 10000 + (31 * job + step) % 20000))
        return f"tcp://{os.environ.get('MASTER_ADDR') or _first_host()}:{port}"


ALONE = Launch("", 1, 0, 0, 0)


def launched() -> Optional[Launch]:
    """The launch that this process is part of; None for a process of its own.

    srun counts the tasks of its step in SLURM_STEP_NUM_TASKS. SLURM_NTASKS says nothing: salloc and sbatch set it to
    what was asked for, whether the tasks run or not.
    """
    given = os.environ
    if all(name in given for name in TORCHRUN):
        return Launch("WORLD_SIZE", int(given["WORLD_SIZE"]), int(given["RANK"]), int(given.get("LOCAL_RANK", 0)), 0)
    tasks = int(given.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks == 1:
        return None
    nodes = int(given.get("SLURM_STEP_NUM_NODES", 1))
    return Launch("SLURM_STEP_NUM_TASKS", tasks, int(given["SLURM_PROCID"]), int(given["SLURM_LOCALID"]), nodes)


def _first_host() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    try:
        hosts = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"scontrol cannot name the hosts of {nodes!r} ({error}): set MASTER_ADDR") from error
    return hosts[0]


def configure(cfg: Any, command: str) -> None:
    """Settle in fairseq's configuration how many processes work together, and which of them this one is.

    Args:
        cfg: the whole configuration, as fairseq gives it to ``call_main``; its distributed_training is changed.
        command: the module of the command, such as ``train`` or ``eval_lm``.

    Raises:
        InputError: if the settings disagree with the environment or cannot be.
    """
    settings, launch = cfg.distributed_training, launched()
    gpus = 0 if cfg.common.cpu else torch.cuda.device_count()
    _refuse_unsupported(cfg)
    if not gpus and settings.distributed_backend == "nccl":
        settings.distributed_backend = "gloo"
    if command == "eval_lm" or (command == "validate" and not gpus):  # fairseq gathers what validate sums on a GPU
        _one_process(settings, launch, command)
    elif launch:
        _join(settings, launch, gpus)
    else:
        _start(settings, gpus)


def refuse_a_race() -> None:
    """InputError if this process is one of several and fairseq has not joined them."""
    launch = launched()
    if launch and launch.world_size > 1 and not dist.is_initialized():
        raise InputError(
            f"the environment says {launch.variable}={launch.world_size}, but this process trains alone: give "
            "fairseq-train to torchrun or srun, not fairseq-hydra-train"
        )


def _refuse_unsupported(cfg: Any) -> None:
    if str(cfg.distributed_training.ddp_backend) == "fully_sharded":
        raise InputError("--ddp-backend fully_sharded (FSDP) is not supported: give pytorch_ddp or legacy_ddp")
    if cfg.common.model_parallel_size != 1 or cfg.distributed_training.pipeline_model_parallel:
        raise InputError(
            "model parallelism is not supported: leave out --model-parallel-size and --pipeline-model-parallel"
        )
    if str(cfg.distributed_training.zero_sharding) != "none":
        raise InputError("--zero-sharding is not supported: leave it out")


def _asked(settings: Any) -> Optional[int]:
    """The world size, unless it may be a default: 1 to score, and the number of visible GPUs to train."""
    spelt = "--distributed-world-size" in [word.split("=")[0] for word in sys.argv]
    size = settings.distributed_world_size
    return size if spelt or size not in (1, torch.cuda.device_count()) else None


def _one_process(settings: Any, launch: Optional[Launch], command: str) -> None:
    size = max(settings.distributed_world_size, launch.world_size if launch else 1)
    if size > 1:
        raise InputError(
            f"fairseq-{command.replace('_', '-')} cannot add up the results of {size} processes: run it in one, or run "
            f"infformer-eval, which can: torchrun --nproc-per-node {size} -m fairseq_infformer.cli.evaluate"
        )


def _join(settings: Any, launch: Launch, gpus: int) -> None:
    # fairseq's way on several nodes: a task that is alone on its node starts a process for each GPU.
    alone = launch.nodes == launch.world_size and gpus > 1 and not settings.distributed_no_spawn
    each = gpus if alone else 1
    size = launch.world_size * each
    if _asked(settings) not in (None, size):
        raise InputError(
            f"--distributed-world-size {settings.distributed_world_size} disagrees with the environment, whose "
            f"{launch.variable}={launch.world_size} makes a world of {size}: leave it out, or unset "
            f"{launch.variable} for a run of its own"
        )
    settings.distributed_world_size, settings.distributed_rank = size, launch.rank * each
    if settings.distributed_init_method is None:
        settings.distributed_init_method = launch.init_method(max(0, settings.distributed_port))
    if not alone:
        settings.distributed_no_spawn, settings.device_id = True, launch.local_rank % max(1, gpus)


def _start(settings: Any, gpus: int) -> None:
    can_start = 0 if settings.distributed_no_spawn else gpus
    if settings.distributed_init_method is None:
        size = _asked(settings) or min(settings.distributed_world_size, max(1, can_start))
        settings.distributed_world_size = size
        possible = size == 1 or size <= can_start
        if possible and size > 1:
            port = settings.distributed_port if settings.distributed_port > 0 else _free_port()
            settings.distributed_init_method = f"tcp://127.0.0.1:{port}"
    else:
        possible = settings.distributed_no_spawn or gpus > 0
    if not possible:
        raise InputError(
            f"--distributed-world-size {settings.distributed_world_size} needs other processes, and this one can start "
            f"{can_start} (one for each GPU): start them with torchrun --nproc-per-node or srun"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
