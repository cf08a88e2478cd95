"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import builtins
import collections
import enum
import functools
import logging
import os
import typing

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass import constants
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from omegaconf import base, dictconfig, listconfig, nodes

from . import checkpoints
from .checks import check_run
from .errors import InputError

logger = logging.getLogger(__name__)


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
    torch.serialization.add_safe_globals(plain + configuration + choices + [distributed_utils._TensorPlaceholder])


def check_runs_before_they_start() -> None:
    """Refuse settings in one line that fairseq finds wrong in a traceback, after hours, or never."""
    call_main = distributed_utils.call_main

    @functools.wraps(call_main)
    def checked(cfg, main, **kwargs):
        check_run(cfg)
        return call_main(cfg, main, **kwargs)

    distributed_utils.call_main = checked


def replace_checkpoints_whole() -> None:
    """Let a checkpoint appear whole or not at all.

    fairseq copies a new checkpoint over checkpoint_last.pt and checkpoint_best.pt, so that a kill leaves half of one
    in the place of the old; when a write fails it writes again behind what it has written, and leaves that behind. It
    tries a save directory by writing and removing a file named dummy, which may be the user's.
    """
    save, copy = checkpoint_utils.torch_persistent_save, PathManager.copy

    @functools.wraps(save)
    def saved(obj, filename, async_write=False):
        if async_write or not PathManager.supports_rename(filename):
            return save(obj, filename, async_write)
        try:
            checkpoints.save(obj, filename)
        except InputError as error:
            if os.path.basename(filename) != "crash.pt":
                raise
            logger.warning(error)  # what the run has crashed of is told next, and matters more

    def copied(src_path, dst_path, overwrite=False):
        if not (overwrite and PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
            return copy(src_path, dst_path, overwrite)
        checkpoints.copy(src_path, dst_path)
        return True

    checkpoint_utils.torch_persistent_save = saved
    PathManager.copy = staticmethod(copied)
    checkpoint_utils.verify_checkpoint_directory = checkpoints.open_directory


def name_the_checkpoint_that_does_not_fit() -> None:
    """Tell in one line that a checkpoint is damaged, or of another run: fairseq shows where in its code that hurt.

    Bits that have flipped go unseen: torch.load does not compare the checksums that torch.save has written.
    """
    read, resume = checkpoint_utils.load_checkpoint_to_cpu, Trainer.load_checkpoint

    @functools.wraps(read)
    def checked(path, arg_overrides=None, load_on_all_ranks=False):
        checkpoints.refuse_damaged(PathManager.get_local_path(path))
        try:
            state = read(path, arg_overrides, load_on_all_ranks)
        except Exception as error:
            raise InputError(checkpoints.unreadable(path, error)) from error
        checkpoints.check_content(path, state, arg_overrides or {})
        return state

    @functools.wraps(resume)
    def resumed(self, filename, *args, **kwargs):
        try:
            return resume(self, filename, *args, **kwargs)
        except (AssertionError, KeyError) as error:  # of the optimizer, criterion, scheduler and scaler
            raise InputError(
                f"{filename} was saved with another optimizer, criterion or schedule ({type(error).__name__}: {error})"
                "; give those of its run, or --reset-optimizer --reset-lr-scheduler --reset-meters"
            ) from error

    checkpoint_utils.load_checkpoint_to_cpu = checked
    Trainer.load_checkpoint = resumed


allow_configurations_in_broadcasts()
check_runs_before_they_start()
replace_checkpoints_whole()
name_the_checkpoint_that_does_not_fit()
