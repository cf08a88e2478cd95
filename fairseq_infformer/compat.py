"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import builtins
import collections
import enum
import functools
import typing

import torch
from fairseq.dataclass import constants
from fairseq.distributed.utils import _TensorPlaceholder
from fairseq.trainer import Trainer
from omegaconf import base, dictconfig, listconfig, nodes


def allow_configurations_in_broadcasts() -> None:
    """Let ranks other than the first resume.

    fairseq sends the checkpoint that the first rank has read to the other ranks with torch.save and torch.load. Since
    torch 2.6, torch.load refuses the configuration in it. What it holds beside tensors runs no code when it is
    read, so it is named as safe, instead of loading everything as unsafe pickles.
    """
    plain = [typing.Any, collections.defaultdict, *(getattr(builtins, name) for name in ("dict", "list", "int", "set"))]
    configuration = [
        dictconfig.DictConfig,
        listconfig.ListConfig,
        base.ContainerMetadata,
        base.Metadata,
        *(kind for kind in vars(nodes).values() if isinstance(kind, type) and issubclass(kind, base.Node)),
    ]
    choices = [kind for kind in vars(constants).values() if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    torch.serialization.add_safe_globals(plain + configuration + choices + [_TensorPlaceholder])


def collect_memory_before_saving() -> None:
    """Let a task gather what its ranks remember.

    A checkpoint is put together on the first rank alone, and fairseq asks the task for its part there, where a
    collective would wait for ever. The last thing that every rank does before is to consolidate the optimizer.
    """
    consolidate = Trainer.consolidate_optimizer

    @functools.wraps(consolidate)
    def consolidate_and_collect(trainer: Trainer) -> None:
        consolidate(trainer)
        if hasattr(trainer.task, "collect_memory"):
            trainer.task.collect_memory(trainer.data_parallel_process_group, trainer.device)

    Trainer.consolidate_optimizer = consolidate_and_collect


allow_configurations_in_broadcasts()
collect_memory_before_saving()
