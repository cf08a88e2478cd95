"""What the processes of one run do together: join a group, add up results, leave the group."""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional  # before a group exists: see shutdown
from fairseq.distributed import utils as distributed_utils
from torch import distributed as dist

from fairseq_infformer.errors import InputError

from .launch import ALONE, Launch, launched


@contextmanager
def process_group() -> Iterator[Launch]:
    """Join the other processes of this launch, if it has any, for sums over them on the host."""
    launch = launched()
    if launch is None:
        yield ALONE
        return
    dist.init_process_group("gloo", init_method=launch.init_method(), world_size=launch.world_size, rank=launch.rank)
    if launch.rank:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        with _explained_losses():
            yield launch
    finally:
        shutdown()


def run_main(main: Callable, cfg: Any, **more: Any) -> None:
    """Run fairseq's ``main``; InputError if it fails because another process of the run has ended.

    fairseq creates a group of its own when it first needs one. If another process has failed before that, the others
    would wait for it for half an hour; processes that already share a group notice at once. So it is created first.
    """
    if dist.is_initialized():
        distributed_utils.get_global_group()
    with _explained_losses():
        main(cfg, **more)


@contextmanager
def _explained_losses() -> Iterator[None]:
    """InputError if a collective fails because another process cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, and NCCL one type for everything that can go wrong, so the text decides.
        lost = re.search(r"gloo/.*(Connection|[Tt]imed out|timeout)|remote process exited", str(error))
        if not (lost or isinstance(error, (dist.DistNetworkError, dist.DistStoreError))):
            raise
        raise InputError(
            "another process of this run has ended or cannot be reached, so this one ends too; see the other's output"
        ) from error


def shutdown() -> None:
    """Destroy the process group, if there is one; every process must have finished its work.

    A thread of gloo ends with the last reference to its group. If one outlives Python, it sometimes aborts the process
    at exit ("terminate called without an active exception", pytorch issue 190489). Two references are easily missed:
    fairseq keeps a group of its own, and torch.distributed.nn.functional keeps the group that exists when it is
    imported (by torch.compile or a custom operator) as a default argument. So it is imported above, before any exists.
    """
    if dist.is_initialized():
        vars(distributed_utils.get_global_group).pop("_global_group", None)
        dist.destroy_process_group()
        gc.collect()  # models wrapped by DDP refer to the group and to themselves


def summed(totals: dict[str, float]) -> dict[str, float]:
    """Each figure summed over the processes, in float64; all processes have the same figures."""
    if not dist.is_initialized():
        return totals
    sums = torch.tensor([totals[name] for name in sorted(totals)], dtype=torch.float64)
    dist.all_reduce(sums)
    return dict(zip(sorted(totals), sums.tolist()))


def joined(rows: np.ndarray) -> np.ndarray:
    """The rows of all processes, one process after the other; all processes have them."""
    if not dist.is_initialized():
        return rows
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return np.concatenate(parts)
