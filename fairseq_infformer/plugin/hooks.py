"""Hooks in fairseq's commands: checks before a run, and what ranks have to do together before a checkpoint."""

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
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from fairseq_cli import generate
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException

from fairseq_infformer.errors import InputError, one_line, option
from fairseq_infformer.protocols import CollectsMemory, CompletesSettings

from . import collectives, launch
from .run_checks import check_run


def choose_precision(cfg: Any, command: str) -> None:
    """Make ``--bf16`` work without a TPU, and refuse ``--fp16`` where it cannot train.

    fairseq's ``--bf16`` and ``--memory-efficient-bf16`` turn on ``--tpu``, which fails with an AttributeError unless
    torch_xla is installed. Its ``--fp16`` needs a CUDA device, at the latest when gradients overflow.
    """
    if cfg.common.bf16 and utils.xm is None:
        cfg.common.tpu = cfg.distributed_training.tpu = False
    on_cpu = cfg.common.cpu or not torch.cuda.is_available()
    if command == "train" and cfg.common.fp16 and not cfg.common.amp and on_cpu:
        given = "--memory-efficient-fp16" if cfg.common.memory_efficient_fp16 else "--fp16"
        bf16 = given.replace("fp16", "bf16")
        raise InputError(f"{given} trains on GPUs only; on a CPU give {bf16}, or leave it out for float32")


def complete_settings(cfg: Any) -> None:
    """Let the model to be trained read files that its settings name, before fairseq builds it from copies of them."""
    model = None if cfg.model is None else ARCH_MODEL_REGISTRY.get(cfg.model._name)
    if isinstance(model, CompletesSettings):
        model.complete(cfg.model)


def collect_memory_before_saving() -> None:
    """Let a task gather the memory of its ranks.

    fairseq builds a checkpoint on the first rank alone, and asks the task for its part there, where a collective would
    wait forever. Every rank does call the function that decides whether to save.
    """
    save = checkpoint_utils.save_checkpoint

    @functools.wraps(save)
    def collect_and_save(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        if not cfg.no_save and isinstance(trainer.task, CollectsMemory):
            trainer.task.collect_memory(trainer.data_parallel_process_group, trainer.device)
        return save(cfg, trainer, epoch_itr, val_loss)

    checkpoint_utils.save_checkpoint = collect_and_save


def check_before_run() -> None:
    """Let torchrun and srun start fairseq's commands, and refuse wrong settings before anything is written.

    Each command calls ``call_main`` once, after the plugin was imported. fairseq detects the launcher only under some
    conditions (see ``launch``), and reports some wrong settings late, as a traceback, or not at all.
    """
    call_main = distributed_utils.call_main

    def check_and_call(cfg: Any, main: Callable, **more: Any) -> None:
        command = Path(main.__code__.co_filename).stem
        choose_precision(cfg, command)
        launch.configure(cfg, command)
        check_run(cfg, command)
        complete_settings(cfg)
        call_main(cfg, functools.partial(collectives.run_main, main), **more)
        collectives.shutdown()

    distributed_utils.call_main = check_and_call


def check_before_hydra_run() -> None:
    """Check the run, and print user errors in one line, in a command that imports plugins after ``call_main``.

    That command is fairseq-hydra-train; right after it has imported the plugins, it adds defaults.
    """
    train = sys.modules.get("fairseq_cli.train")
    if train is None or not HydraConfig.initialized():
        return
    add_defaults = train.add_defaults

    def check_and_add(cfg: Any) -> None:
        launch.refuse_race()
        for path in utils.split_paths(cfg.task.get("data") or ""):
            if not os.path.isabs(path):
                raise InputError(
                    f"task.data {path} is not an absolute path, and hydra runs in {os.getcwd()}; give an absolute path"
                )
        choose_precision(cfg, "train")
        check_run(cfg, "train")
        complete_settings(cfg)
        add_defaults(cfg)

    train.add_defaults = check_and_add
    hydra_utils.CompactHydraException = (hydra_utils.CompactHydraException, InputError)


def explain_missing_values() -> None:
    """Report in one line which option must be given, such as --total-num-update, or has a wrong value."""
    compose = dataclass_utils.compose

    @functools.wraps(compose)
    def composed(*args, **kwargs):
        try:
            return compose(*args, **kwargs)
        except ConfigCompositionException as error:
            override = re.search(r"override \w+\.(\w+)=(.*)", str(error))
            if override is None:
                raise
            name, value = option(override[1]), override[2]
            missing = f"{name} has no default; give it a value"
            raise InputError(missing if value == "null" else f"{name} cannot be {value}; give another value") from error

    dataclass_utils.compose = composed


def check_before_generate() -> None:
    """Check the settings of fairseq-generate, which never calls ``call_main``."""
    main = generate.main

    @functools.wraps(main)
    def check_and_generate(cfg):
        if isinstance(cfg, argparse.Namespace):
            cfg = dataclass_utils.convert_namespace_to_omegaconf(cfg)
        check_run(cfg, "generate")
        return main(cfg)

    generate.main = check_and_generate


def explain_optimizer_errors() -> None:
    """Report in one line what an optimizer or a schedule lacks, such as a package, a GPU or --max-update."""
    build = Trainer._build_optimizer

    @functools.wraps(build)
    def built(self):
        try:
            build(self)
            for group in self.optimizer.param_groups:
                _, _ = group.get("betas", (0, 0))  # which Adam unpacks in its first step
        except InputError:
            raise
        except Exception as error:
            names = f"--optimizer {self.cfg.optimizer._name} with --lr-scheduler {self.cfg.lr_scheduler._name}"
            raise InputError(
                f"{names} cannot be set up ({one_line(error, with_type=True)}); change their options, or give others"
            ) from error

    Trainer._build_optimizer = built


def explain_long_sentences() -> None:
    """Report in one line that sentences are longer than the model takes."""
    keep = FairseqTask.filter_indices_by_size

    @functools.wraps(keep)
    def filter_indices_by_size(*args, **kwargs):
        try:
            return keep(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            raise InputError(one_line(error)) from error

    FairseqTask.filter_indices_by_size = filter_indices_by_size


def refuse_early_options() -> None:
    """Report in one line what is missing for two options that fairseq-train acts on before any other."""

    def refuse(message: str) -> Callable:
        def refused(*args: Any, **kwargs: Any) -> None:
            raise InputError(message)

        return refused

    if not torch.cuda.is_available():
        torch.cuda.profiler.profile = refuse("--profile needs a GPU; leave it out")
    if not plasma_utils.PYARROW_AVAILABLE:
        plasma_utils.PlasmaStore.__new__ = refuse("--use-plasma-view needs pyarrow with plasma; leave it out")
