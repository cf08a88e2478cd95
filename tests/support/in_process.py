"""Running fairseq's own code inside the test's process, where a process of its own would show no more."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from command_line import TASK, TINY
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from fairseq_infformer.plugin.hooks import choose_precision


def training_configuration(data: Path, save: Path, *more: object) -> DictConfig:
    """What ``fairseq-train`` makes of the flags of ``command_line.train``."""
    flags = [data, *TASK, *TINY, "--save-dir", save, *more]
    args = options.parse_args_and_arch(options.get_training_parser(), [str(flag) for flag in flags])
    return convert_namespace_to_omegaconf(args)


def start(cfg: DictConfig, check_precision: bool = True) -> tuple[Trainer, Iterable[dict[str, Any]]]:
    """fairseq's trainer, as ``fairseq-train`` sets it up, and the batches of the first epoch."""
    if check_precision:
        choose_precision(cfg, "train")
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    task.load_dataset("valid")
    trainer = Trainer(cfg, task, task.build_model(cfg.model), task.build_criterion(cfg.criterion))
    batches = trainer.get_train_iterator(1)
    trainer.begin_epoch(1)
    return trainer, batches.next_epoch_itr(shuffle=False)


def memory_of(trainer: Trainer, training: bool = True) -> Any:
    """The states of all layers after the last segment, as tensors and numbers in one order."""
    return trainer.get_model().decoder.streams[training].after
