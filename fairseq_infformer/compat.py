"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import builtins
import collections
import enum
import functools
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass import constants
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import base, dictconfig, listconfig, nodes


def allow_configurations_in_broadcasts() -> None:
    """Let ranks other than the first resume.

    fairseq sends the checkpoint that the first rank has read to the other ranks with torch.save and torch.load. Since
    torch 2.6, torch.load refuses the configuration in it. What it holds beside tensors runs no code when it is
    read, so it is named as safe, instead of loading everything as unsafe pickles.
    """
    plain = [Any, collections.defaultdict, *(getattr(builtins, name) for name in ("dict", "list", "int", "set"))]
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
    collective would wait for ever. Every rank does call the function that decides whether to save.
    """
    save = checkpoint_utils.save_checkpoint

    @functools.wraps(save)
    def collect_and_save(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        if not cfg.no_save and hasattr(trainer.task, "collect_memory"):
            trainer.task.collect_memory(trainer.data_parallel_process_group, trainer.device)
        return save(cfg, trainer, epoch_itr, val_loss)

    checkpoint_utils.save_checkpoint = collect_and_save


allow_configurations_in_broadcasts()
collect_memory_before_saving()
