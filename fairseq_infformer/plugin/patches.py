"""Repairs of fairseq 0.12 and of its use of today's torch: each patch names its cause, and can go when that goes."""

import argparse
import builtins
import collections
import enum
import functools
import logging
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.dataclass import constants
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.optim import fp16_optimizer
from omegaconf import base, dictconfig, listconfig, nodes
from torch import Tensor, nn

from fairseq_infformer.errors import InputError

from . import checkpoint_files

logger = logging.getLogger(__name__)


def allow_configurations() -> None:
    """Let every rank resume, and read the checkpoints of every optimizer.

    Since torch 2.6, torch.load refuses the configuration in fairseq's checkpoints, and in what the first rank sends of
    them to the others. It consists of OmegaConf's types, or of a Namespace if the optimizer is one of fairseq's older
    ones, such as sgd. Reading these types executes no code, so they are declared safe, and nothing else is.
    """
    plain = [Any, collections.defaultdict, *(getattr(builtins, name) for name in ("dict", "list", "int", "set"))]
    configuration = [
        argparse.Namespace,
        dictconfig.DictConfig,
        listconfig.ListConfig,
        base.ContainerMetadata,
        base.Metadata,
        *_subclasses(nodes, base.Node),
    ]
    choices = _subclasses(constants, enum.Enum)
    torch.serialization.add_safe_globals(plain + configuration + choices + [distributed_utils._TensorPlaceholder])


def _subclasses(module: ModuleType, base_class: type) -> list[type]:
    return [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base_class)]


def silence_pinned_memory() -> None:
    """Silence a warning about a setting that no user chose: fairseq asks for pinned memory even without a GPU."""
    if not torch.cuda.is_available():
        warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")


def allow_cpu_ddp() -> None:
    """Let ``--ddp-backend pytorch_ddp``, fairseq's default, and its other name c10d wrap a model on a CPU.

    fairseq always names a GPU, which torch refuses for such a model.
    """
    wrap = distributed_fairseq_model.DistributedDataParallel

    def wrap_on_its_device(module: nn.Module, **options: Any) -> nn.Module:
        if next(module.parameters()).device.type == "cpu":
            options |= {"device_ids": None, "output_device": None}
        return wrap(module, **options)

    distributed_fairseq_model.DistributedDataParallel = wrap_on_its_device


def find_validation_splits() -> None:
    """Refuse in one line to ignore a validation split, and take no other file for a split.

    fairseq takes every file named valid….… with a digit for a split, even valid1.documents.npy, and ends in a
    traceback.
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


def keep_last_batch() -> None:
    """Translate, score and train on every sentence.

    Unless ``--required-batch-size-multiple`` is 1, fairseq drops the last batch if its size is no multiple of that:
    up to 7 sentences of a test set by default, without a word.
    """
    batch = data_utils.batch_by_size

    @functools.wraps(batch)
    def batch_all(indices, *args, **kwargs):
        indices = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, dtype=np.int64)
        batches = list(batch(indices, *args, **kwargs))
        rest = indices[sum(map(len, batches)) :]  # batches are consecutive parts
        # With fixed shapes nothing is dropped.
        return [*batches, rest] if len(rest) and kwargs.get("fixed_shapes") is None else batches

    data_utils.batch_by_size = batch_all


def keep_float32_weights() -> None:
    """Let training with ``--fp16`` or ``--bf16`` resume exactly.

    fairseq saves the rounded weights of the model, not the float32 weights that its optimizer updates. Of the loss
    scaler it saves the scale, not when the scale was last changed.
    """
    for optimizer in (fp16_optimizer._FP16OptimizerMixin, fp16_optimizer._MemoryEfficientFP16OptimizerMixin):
        _keep_in_checkpoints(optimizer)


def _keep_in_checkpoints(optimizer: type) -> None:
    save, load = optimizer.state_dict, optimizer.load_state_dict
    counters = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")

    def weights(self: Any) -> list[Tensor]:
        kept = getattr(self, "fp32_params", [])  # with flat gradients one tensor per device, else as the model's
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
            logger.warning("the checkpoint has no float32 weights: training continues from its half-precision weights")
        for weight, value in zip(weights(self), kept or ()):
            weight.data.copy_(value)

    optimizer.state_dict, optimizer.load_state_dict = state_dict, load_state_dict


def average_weights_once() -> None:
    """Let ``--store-ema`` average the weights, each of them once per update.

    fairseq averages everything in a model's state: buffers too, which fails for integers, and weights with two names,
    such as tied embeddings, twice. It counts the updates for ``--ema-update-freq`` from the start of the process.
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
        return state | {"model": checkpoint_files.averaged_weights(fpath, state)}

    EMA.step, checkpoint_utils.load_ema_from_checkpoint = step, seed
