"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import builtins
import collections
import enum
import typing

import torch
from fairseq.dataclass import constants
from fairseq.distributed.utils import _TensorPlaceholder
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


allow_configurations_in_broadcasts()
