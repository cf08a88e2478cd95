"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import argparse
import builtins
import collections
import enum
import functools
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.dataclass import constants
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from omegaconf import base, dictconfig, listconfig, nodes
from torch import nn

from fairseq_infformer import distributed
from fairseq_infformer.errors import InputError

RUNS_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # a switch of torch's


def allow_configurations() -> None:
    """Let ranks other than the first resume, and checkpoints of any optimizer be read.

    Since torch 2.6, torch.load refuses the configuration that is in fairseq's checkpoints and in what the first rank
    sends of them to the others: of OmegaConf's types, or a Namespace for an optimizer of fairseq's older kind, such
    as sgd. What it holds beside tensors runs no code when it is read, so it is named as safe, instead of loading
    everything as unsafe pickles.
    """
    plain = [Any, collections.defaultdict, *(getattr(builtins, name) for name in ("dict", "list", "int", "set"))]
    configuration = [
        argparse.Namespace,
        dictconfig.DictConfig,
        listconfig.ListConfig,
        base.ContainerMetadata,
        base.Metadata,
        *(kind for kind in vars(nodes).values() if isinstance(kind, type) and issubclass(kind, base.Node)),
    ]
    choices = [kind for kind in vars(constants).values() if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    torch.serialization.add_safe_globals(plain + configuration + choices + [distributed_utils._TensorPlaceholder])


def choose_precision(cfg: Any, command: str) -> None:
    """Make ``--bf16`` work without a TPU, and refuse ``--fp16`` where it cannot train.

    fairseq's ``--bf16`` and ``--memory-efficient-bf16`` turn ``--tpu`` on, which ends in an AttributeError where
    torch_xla is not installed. Its ``--fp16`` asks CUDA for a device, at the latest when gradients overflow.
    """
    if cfg.common.bf16 and utils.xm is None:
        cfg.common.tpu = cfg.distributed_training.tpu = False
    if command == "train" and cfg.common.fp16 and (cfg.common.cpu or not torch.cuda.is_available()):
        given = "--memory-efficient-fp16" if cfg.common.memory_efficient_fp16 else "--fp16"
        raise InputError(f"{given} trains on GPUs only; on a CPU give {given.replace('fp16', 'bf16')}, or neither")


def load_checkpoints_as_data() -> None:
    """Let no checkpoint run anything, and tell in one line which one cannot be read.

    fairseq leaves torch.load's ``weights_only`` at its default, which the environment can turn off; and where torch
    refuses a file, its message of many lines begins with how to load it all the same.
    """
    load = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(load)
    def load_checkpoint_to_cpu(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if os.environ.get(RUNS_PICKLES, "0").lower() in ("1", "y", "yes", "true"):  # as torch reads it
            raise InputError(f"{RUNS_PICKLES} is set, so that {path} could run anything when it is read; unset it")
        try:
            return load(path, *args, **kwargs)
        except OSError as error:
            raise InputError(f"checkpoint {path} cannot be read: {error.strerror}") from error
        except Exception as error:
            found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
            reason = (
                f"holds {found[1]}, and reading that could run anything: only tensors and plain values are read"
                if found
                else "cannot be read: it is damaged, or something else"
            )
            raise InputError(f"checkpoint {path} {reason}; take one that this plugin has written") from error

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


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


def take_ranks_from_the_environment() -> None:
    """Let torchrun and srun start fairseq's commands; refuse what cannot be before anything is written.

    fairseq's commands pass ``call_main`` once, after the plugin was imported. Its own look at the environment comes
    behind conditions that ``distributed`` describes.
    """
    call_main = distributed_utils.call_main

    def configure_and_call(cfg: Any, main: Callable, **more: Any) -> None:
        command = Path(main.__code__.co_filename).stem
        choose_precision(cfg, command)
        distributed.configure(cfg, command)
        call_main(cfg, main, **more)

    distributed_utils.call_main = configure_and_call


def keep_checkpoints_from_a_race() -> None:
    """Look at the environment before anything is written where ``call_main`` came before the plugin.

    That is fairseq-hydra-train, which imports plugins when it trains.
    """
    verify = checkpoint_utils.verify_checkpoint_directory

    def look_and_verify(save_dir: str) -> None:
        distributed.refuse_a_race()
        verify(save_dir)

    checkpoint_utils.verify_checkpoint_directory = look_and_verify


def let_ddp_run_on_a_cpu() -> None:
    """Let ``--ddp-backend pytorch_ddp``, fairseq's default, and its other name c10d wrap a model on a CPU.

    fairseq names a GPU in any case, which torch refuses for such a model.
    """
    wrap = distributed_fairseq_model.DistributedDataParallel

    def wrap_where_it_is(module: nn.Module, **options: Any) -> nn.Module:
        if next(module.parameters()).device.type == "cpu":
            options |= {"device_ids": None, "output_device": None}
        return wrap(module, **options)

    distributed_fairseq_model.DistributedDataParallel = wrap_where_it_is


allow_configurations()
take_ranks_from_the_environment()
keep_checkpoints_from_a_race()
let_ddp_run_on_a_cpu()
collect_memory_before_saving()
load_checkpoints_as_data()
