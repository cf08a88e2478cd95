"""What happens before a run and before a checkpoint: checks, and what ranks have to do together."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import plasma_utils
from fairseq.dataclass import utils as dataclass_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from fairseq_cli import generate
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException

from fairseq_infformer.errors import InputError
from fairseq_infformer.protocols import CollectsMemory

from . import collectives, launch
from .run_checks import check_run, refuse_generation


def choose_precision(cfg: Any, command: str) -> None:
    """Make ``--bf16`` work without a TPU, and refuse ``--fp16`` where it cannot train.

    fairseq's ``--bf16`` and ``--memory-efficient-bf16`` turn ``--tpu`` on, which ends in an AttributeError where
    torch_xla is not installed. Its ``--fp16`` asks CUDA for a device, at the latest when gradients overflow.
    """
    if cfg.common.bf16 and utils.xm is None:
        cfg.common.tpu = cfg.distributed_training.tpu = False
    on_cpu = cfg.common.cpu or not torch.cuda.is_available()
    if command == "train" and cfg.common.fp16 and not cfg.common.amp and on_cpu:
        given = "--memory-efficient-fp16" if cfg.common.memory_efficient_fp16 else "--fp16"
        raise InputError(f"{given} trains on GPUs only; on a CPU give {given.replace('fp16', 'bf16')}, or neither")


def collect_memory_before_saving() -> None:
    """Let a task gather what its ranks remember.

    A checkpoint is put together on the first rank alone, and fairseq asks the task for its part there, where a
    collective would wait for ever. Every rank does call the function that decides whether to save.
    """
    save = checkpoint_utils.save_checkpoint

    @functools.wraps(save)
    def collect_and_save(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        if not cfg.no_save and isinstance(trainer.task, CollectsMemory):
            trainer.task.collect_memory(trainer.data_parallel_process_group, trainer.device)
        return save(cfg, trainer, epoch_itr, val_loss)

    checkpoint_utils.save_checkpoint = collect_and_save


def check_before_run() -> None:
    """Let torchrun and srun start fairseq's commands; refuse what cannot be before anything is written.

    fairseq's commands pass ``call_main`` once, after the plugin was imported. Its own look at the environment comes
    behind conditions that ``launch`` describes; of some settings it finds in a traceback, after hours, or never,
    that they are wrong.
    """
    call_main = distributed_utils.call_main

    def look_and_call(cfg: Any, main: Callable, **more: Any) -> None:
        command = Path(main.__code__.co_filename).stem
        choose_precision(cfg, command)
        launch.configure(cfg, command)
        check_run(cfg, command)
        call_main(cfg, functools.partial(collectives.run_together, main), **more)
        collectives.leave()

    distributed_utils.call_main = look_and_call


def check_before_hydra_run() -> None:
    """Look at the run, and print mistakes in one line, where ``call_main`` came before the plugin.

    That is fairseq-hydra-train, which imports plugins when it trains; what it does next is to add defaults.
    """
    train = sys.modules.get("fairseq_cli.train")
    if train is None or not HydraConfig.initialized():
        return
    add_defaults = train.add_defaults

    def look_and_add(cfg: Any) -> None:
        launch.refuse_a_race()
        for path in utils.split_paths(cfg.task.get("data") or ""):
            if not os.path.isabs(path):
                raise InputError(
                    f"task.data {path} is sought in {os.getcwd()}, where hydra runs; give an absolute path"
                )
        choose_precision(cfg, "train")
        check_run(cfg, "train")
        add_defaults(cfg)

    train.add_defaults = look_and_add
    hydra_utils.CompactHydraException = (hydra_utils.CompactHydraException, InputError)


def explain_missing_values() -> None:
    """Tell in one line which option has to be given, such as --total-num-update, or has a wrong value."""
    compose = dataclass_utils.compose

    @functools.wraps(compose)
    def composed(*args, **kwargs):
        try:
            return compose(*args, **kwargs)
        except ConfigCompositionException as error:
            found = re.search(r"override \w+\.(\w+)=(.*)", str(error))
            if found is None:
                raise
            name, value = f"--{found[1].replace('_', '-')}", found[2]
            message = f"give {name}, which has no default" if value == "null" else f"{name} cannot be {value}"
            raise InputError(message) from error

    dataclass_utils.compose = composed


def refuse_generation_command() -> None:
    """Say of fairseq-generate what ``check_before_run`` says of fairseq-interactive; it never passes ``call_main``."""
    main = generate.main

    @functools.wraps(main)
    def refuse_and_generate(cfg):
        refuse_generation(
            dataclass_utils.convert_namespace_to_omegaconf(cfg) if isinstance(cfg, argparse.Namespace) else cfg
        )
        return main(cfg)

    generate.main = refuse_and_generate


def explain_optimizer_errors() -> None:
    """Tell in one line what an optimizer or a schedule lacks, such as a package, a GPU or --max-update."""
    build = Trainer._build_optimizer

    @functools.wraps(build)
    def built(self):
        try:
            build(self)
            for group in self.optimizer.param_groups:
                _, _ = group.get("betas", (0, 0))  # which Adam looks at in its first step
        except InputError:
            raise
        except Exception as error:
            names = f"--optimizer {self.cfg.optimizer._name} with --lr-scheduler {self.cfg.lr_scheduler._name}"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{names} cannot be set up ({reason}); change their options, or give others") from error

    Trainer._build_optimizer = built


def refuse_early_options() -> None:
    """Tell in one line what is missing for two options that fairseq-train acts on before anything else."""

    def refuse(message: str) -> Callable:
        def refused(*args: Any, **kwargs: Any) -> None:
            raise InputError(message)

        return refused

    if not torch.cuda.is_available():
        torch.cuda.profiler.profile = refuse("--profile needs a GPU; leave it out")
    if not plasma_utils.PYARROW_AVAILABLE:
        plasma_utils.PlasmaStore.__new__ = refuse("--use-plasma-view needs pyarrow with plasma; leave it out")
