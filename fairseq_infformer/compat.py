"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import builtins
import collections
import enum
import functools
import typing

import torch
from fairseq import utils
from fairseq.dataclass import constants
from fairseq.distributed import utils as distributed_utils
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import base, dictconfig, listconfig, nodes

from fairseq_infformer.errors import InputError


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


def choose_precision(cfg: dictconfig.DictConfig) -> None:
    """Make ``--bf16`` work without a TPU, and refuse ``--fp16`` where it cannot train.

    fairseq's ``--bf16`` and ``--memory-efficient-bf16`` turn ``--tpu`` on, which ends in an AttributeError where
    torch_xla is not installed. Its ``--fp16`` asks CUDA for a device, at the latest when gradients overflow.
    """
    if cfg.common.bf16 and utils.xm is None:
        cfg.common.tpu = cfg.distributed_training.tpu = False
    training = cfg.optimizer is not None
    if training and cfg.common.fp16 and (cfg.common.cpu or not torch.cuda.is_available()):
        given = "--memory-efficient-fp16" if cfg.common.memory_efficient_fp16 else "--fp16"
        raise InputError(f"{given} trains on GPUs only; on a CPU give {given.replace('fp16', 'bf16')}, or neither")


def choose_precision_before_anything_starts() -> None:
    """Let ``choose_precision`` see the configuration of every command that starts fairseq's processes."""
    call_main = distributed_utils.call_main

    @functools.wraps(call_main)
    def wrapped(cfg: dictconfig.DictConfig, main: typing.Callable, **kwargs: typing.Any) -> None:
        choose_precision(cfg)
        call_main(cfg, main, **kwargs)

    distributed_utils.call_main = wrapped


allow_configurations_in_broadcasts()
choose_precision_before_anything_starts()
