"""What the processes of a run do together: meet, part, add up."""

import gc
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed.nn.functional  # before there is a group: see leave
from fairseq.distributed import utils as distributed_utils
from torch import distributed as dist

from fairseq_infformer.errors import InputError

from .launch import ALONE, Launch, launched


@contextmanager
def together() -> Iterator[Launch]:
    """Join the processes of this launch, if there are any, for sums over them on the host."""
    launch = launched()
    if launch is None:
        yield ALONE
        return
    dist.init_process_group("gloo", init_method=launch.init_method(), world_size=launch.world_size, rank=launch.rank)
    if launch.rank:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        with _in_one_line():
            yield launch
    finally:
        leave()


def run_together(main: Callable, cfg: Any, **more: Any) -> None:
    """Run fairseq's ``main``; InputError where it is lost because another process of the run has ended.

    fairseq makes a group of its own when it first needs it. A process that comes there when another has failed before
    would wait for it for half an hour; those of groups that stand see at once that it is gone.
    """
    if dist.is_initialized():
        distributed_utils.get_global_group()
    with _in_one_line():
        main(cfg, **more)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # gloo's errors are of no kind of their own; NCCL's are of one for all that can go wrong.
        lost = re.search(r"gloo/.*(Connection|[Tt]imed out|timeout)|remote process exited", str(error))
        if not (lost or isinstance(error, (dist.DistNetworkError, dist.DistStoreError))):
            raise
        raise InputError(
            "another process of this run has ended or cannot be reached, so this one ends too; its output says why"
        ) from error


def leave() -> None:
    """Part from the other processes, if there are any; each must have come to its end.

    gloo's threads end with the last reference to their group. One that outlives Python aborts the process at its very
    end, now and then ("terminate called without an active exception", pytorch issue 190489). fairseq keeps a group of
    its own. torch.distributed.nn.functional keeps the group that there is when it is imported, by torch.compile or a
    custom operator, as a default argument: it is imported above, before there is one.
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
