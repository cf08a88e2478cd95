"""Shims for fairseq 0.12 on today's torch; each names its cause."""

import argparse
import builtins
import collections
import enum
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils, plasma_utils
from fairseq.dataclass import constants
from fairseq.dataclass import utils as dataclass_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.optim import fp16_optimizer
from fairseq.trainer import Trainer
from fairseq_cli import generate
from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import base, dictconfig, listconfig, nodes
from torch import Tensor, nn

from . import checkpoints, distributed
from .checks import check_run, refuse_generation
from .errors import InputError

logger = logging.getLogger(__name__)


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


def keep_quiet_about_pinned_memory() -> None:
    """Without a GPU, torch warns at every loader that fairseq asks for pinned memory, which nobody chose."""
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")


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
        if not cfg.no_save and hasattr(trainer.task, "collect_memory"):
            trainer.task.collect_memory(trainer.data_parallel_process_group, trainer.device)
        return save(cfg, trainer, epoch_itr, val_loss)

    checkpoint_utils.save_checkpoint = collect_and_save


def look_before_a_run() -> None:
    """Let torchrun and srun start fairseq's commands; refuse what cannot be before anything is written.

    fairseq's commands pass ``call_main`` once, after the plugin was imported. Its own look at the environment comes
    behind conditions that ``distributed`` describes; of some settings it finds in a traceback, after hours, or never,
    that they are wrong.
    """
    call_main = distributed_utils.call_main

    def look_and_call(cfg: Any, main: Callable, **more: Any) -> None:
        command = Path(main.__code__.co_filename).stem
        choose_precision(cfg, command)
        distributed.configure(cfg, command)
        check_run(cfg, command)
        call_main(cfg, functools.partial(distributed.run_together, main), **more)
        distributed.leave()

    distributed_utils.call_main = look_and_call


def look_at_a_run_of_hydra() -> None:
    """Look at the run, and print mistakes in one line, where ``call_main`` came before the plugin.

    That is fairseq-hydra-train, which imports plugins when it trains; what it does next is to add defaults.
    """
    train = sys.modules.get("fairseq_cli.train")
    if train is None or not HydraConfig.initialized():
        return
    add_defaults = train.add_defaults

    def look_and_add(cfg: Any) -> None:
        distributed.refuse_a_race()
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


def name_the_option_without_a_value() -> None:
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
        checkpoints.refuse_pickles(path)
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
        except InputError:
            raise
        except (AssertionError, KeyError, ValueError) as error:  # of the optimizer, criterion, scheduler and scaler
            raise InputError(
                f"{filename} was saved with another optimizer, criterion or schedule ({type(error).__name__}: {error})"
                "; give those of its run, or --reset-optimizer --reset-lr-scheduler --reset-meters"
            ) from error

    checkpoint_utils.load_checkpoint_to_cpu = checked
    Trainer.load_checkpoint = resumed


def find_ignored_splits() -> None:
    """Refuse in one line to train where a validation split would be ignored, and take no other file for a split.

    fairseq takes every file valid….… with a digit for one, such as valid1.documents.npy, and ends in a traceback.
    """
    find, check = data_utils._find_extra_valid_paths, data_utils.raise_if_valid_subsets_unintentionally_ignored

    @functools.wraps(find)
    def find_splits(dataset_path):
        return {name for name in find(dataset_path) if not name.endswith(".documents")}

    @functools.wraps(check)
    def checked(train_cfg):
        try:
            check(train_cfg)
        except ValueError as error:
            raise InputError(str(error)) from error

    data_utils._find_extra_valid_paths = find_splits
    data_utils.raise_if_valid_subsets_unintentionally_ignored = checked


def keep_what_half_precision_rounds() -> None:
    """Let a training with ``--fp16`` or ``--bf16`` go on exactly.

    Of such a training fairseq saves the weights as its model has them, rounded; those that its optimizer changes are
    float32. Of the scaler of losses it saves the scale, not when that was changed last.
    """
    for kind in (fp16_optimizer._FP16OptimizerMixin, fp16_optimizer._MemoryEfficientFP16OptimizerMixin):
        _keep_in_checkpoints(kind)


def _keep_in_checkpoints(kind: type) -> None:
    save, load = kind.state_dict, kind.load_state_dict
    counters = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")

    def weights(self: Any) -> list[Tensor]:
        kept = getattr(self, "fp32_params", [])  # with flat gradients one tensor for each device, else as the model's
        return list(kept.values()) if isinstance(kept, dict) else kept

    @functools.wraps(save)
    def state_dict(self):
        scaler = {} if self.scaler is None else {name: getattr(self.scaler, name) for name in counters}
        return save(self) | {"fp32_weights": [weight.data for weight in weights(self)], "scaler": scaler}

    @functools.wraps(load)
    def load_state_dict(self, state_dict, optimizer_overrides=None):
        state_dict = dict(state_dict)
        kept, scaler = state_dict.pop("fp32_weights", None), state_dict.pop("scaler", {})
        load(self, state_dict, optimizer_overrides)
        for name in scaler if self.scaler is not None else ():
            setattr(self.scaler, name, scaler[name])
        if kept is None and weights(self):
            logger.warning("the checkpoint has no float32 weights: training goes on from those of its half precision")
        for weight, value in zip(weights(self), kept or ()):
            weight.data.copy_(value)

    kind.state_dict, kind.load_state_dict = state_dict, load_state_dict


def average_every_weight_once() -> None:
    """Let ``--store-ema`` average the weights, each of them once an update.

    fairseq averages all that is in a model's state: buffers too, where whole numbers end in an error, and weights with
    two names, as tied embeddings have, twice. It counts the updates for ``--ema-update-freq`` from the start of its
    process.
    """

    @torch.no_grad()
    def step(self, new_model, updates=None):
        if updates is not None:
            self._set_decay(0 if updates < self.config.ema_start_update else self.config.ema_decay)
            if updates % self.config.ema_update_freq:
                return
        average = self.fp32_params if self.config.ema_fp32 else self.model.state_dict()
        state, known = new_model.state_dict(), {}
        for name, weight in new_model.named_parameters(remove_duplicate=False):
            if weight not in known:
                known[weight] = average[name].mul_(self.decay).add_(weight.to(average[name]), alpha=1 - self.decay)
            average[name] = state[name] = known[weight]
        self.restore(state)

    def seed(fpath):
        state = checkpoint_utils.load_checkpoint_to_cpu(fpath)
        return state | {"model": checkpoints.averaged_weights(fpath, state)}

    EMA.step, checkpoint_utils.load_ema_from_checkpoint = step, seed


def refuse_to_generate() -> None:
    """Say of fairseq-generate what ``look_before_a_run`` says of fairseq-interactive; it never passes ``call_main``."""
    main = generate.main

    @functools.wraps(main)
    def refuse_and_generate(cfg):
        refuse_generation(
            dataclass_utils.convert_namespace_to_omegaconf(cfg) if isinstance(cfg, argparse.Namespace) else cfg
        )
        return main(cfg)

    generate.main = refuse_and_generate


def refuse_half_a_resume() -> None:
    """Say what a checkpoint lacks of what is to be resumed.

    Without the state of an optimizer fairseq goes on from the weights alone and counts updates from 0, without a word.
    Without averaged weights, for ``--store-ema``, it crashes instead of averaging from here on.
    """
    resume = Trainer.load_checkpoint

    @functools.wraps(resume)
    def resumed(self, filename, reset_optimizer=False, *args, **kwargs):
        read = checkpoint_utils.load_checkpoint_to_cpu

        def looked_into(*args, **kwargs):
            state = read(*args, **kwargs)
            if not reset_optimizer and state.get("last_optimizer_state") is None:
                raise InputError(
                    f"{filename} has no optimizer state (--no-save-optimizer-state): its training cannot be resumed; "
                    "--reset-optimizer starts another from its weights, at update 0"
                )
            if self.cfg.ema.store_ema and "ema" not in state["extra_state"]:
                logger.warning("the checkpoint has no averaged weights: the average starts from its weights")
                state["extra_state"]["ema"] = state["model"]
            return state

        checkpoint_utils.load_checkpoint_to_cpu = looked_into
        try:
            return resume(self, filename, reset_optimizer, *args, **kwargs)
        finally:
            checkpoint_utils.load_checkpoint_to_cpu = read

    Trainer.load_checkpoint = resumed


def name_the_optimizer_that_cannot_be() -> None:
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


def refuse_what_starts_before_a_run() -> None:
    """Tell in one line what is missing for two options that fairseq-train acts on before anything else."""

    def refuse(message: str) -> Callable:
        def refused(*args: Any, **kwargs: Any) -> None:
            raise InputError(message)

        return refused

    if not torch.cuda.is_available():
        torch.cuda.profiler.profile = refuse("--profile needs a GPU; leave it out")
    if not plasma_utils.PYARROW_AVAILABLE:
        plasma_utils.PlasmaStore.__new__ = refuse("--use-plasma-view needs pyarrow with plasma; leave it out")


allow_configurations()
keep_quiet_about_pinned_memory()
look_before_a_run()
replace_checkpoints_whole()
look_at_a_run_of_hydra()
name_the_option_without_a_value()
let_ddp_run_on_a_cpu()
collect_memory_before_saving()
find_ignored_splits()
name_the_checkpoint_that_does_not_fit()
keep_what_half_precision_rounds()
average_every_weight_once()
refuse_to_generate()
refuse_half_a_resume()
name_the_optimizer_that_cannot_be()
refuse_what_starts_before_a_run()
