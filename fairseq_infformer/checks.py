"""Settings of a run that fairseq would find wrong late, in a traceback, or never."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairseq.models import MODEL_REGISTRY
from fairseq.utils import split_paths

from .criterions.ltm_cross_entropy import LOGGED
from .errors import InputError

FROM_THE_START = "checkpoint_last.pt"  # fairseq's default of --restore-file, which need not exist

AT_LEAST = (
    ("optimization", "max_epoch", 0),
    ("optimization", "max_update", 0),
    ("common", "log_interval", 1),
    ("checkpoint", "save_interval", 1),
    ("dataset", "validate_interval", 1),
)


def check_run(cfg: Any) -> None:
    """Look at the configuration of fairseq-train, fairseq-eval-lm or fairseq-validate; InputError before any work."""
    if getattr(cfg.task, "_name", None) != "streaming_language_modeling":
        return
    mistakes = _training_mistakes(cfg) if cfg.model is not None else _evaluation_mistakes(cfg)
    for mistake in (*_common_mistakes(cfg), *mistakes):
        raise InputError(mistake)


def _common_mistakes(cfg: Any) -> Iterator[str]:
    for name in ("batch_size", "batch_size_valid"):
        if (size := cfg.dataset[name]) is not None and size < 1:
            yield f"--{name.replace('_', '-')} must be 1 or more, got {size}"
    if cfg.dataset.num_workers < 0:
        yield f"--num-workers must be 0 or more, got {cfg.dataset.num_workers}"
    if not 0 <= cfg.common.seed < 2**32:
        yield f"--seed must lie in 0..{2**32 - 1}, got {cfg.common.seed}"
    if cfg.common.fp16 and cfg.common.amp:
        yield "--fp16 and --amp exclude each other; leave one out"
    if cfg.common.tpu:
        yield "--tpu is not supported; leave it out"
    if cfg.common.log_file and not Path(cfg.common.log_file).parent.is_dir():
        yield f"--log-file {cfg.common.log_file} cannot be written: its folder does not exist; make it first"


def _training_mistakes(cfg: Any) -> Iterator[str]:
    if cfg.dataset.batch_size is None and cfg.dataset.max_tokens is None:
        yield "give --batch-size, the number of streams that each process reads"
    if min(cfg.optimization.update_freq, default=0) < 1:
        yield f"--update-freq must be 1 or more, got {','.join(map(str, cfg.optimization.update_freq))}"
    for part, name, least in AT_LEAST:
        if (value := cfg[part][name]) < least:
            yield f"--{name.replace('_', '-')} must be {least} or more, got {value}"
    if cfg.distributed_training.cpu_offload:
        yield "--cpu-offload needs FSDP, which is not supported; leave it out"
    if cfg.checkpoint.write_checkpoints_asynchronously:
        yield (
            "--write-checkpoints-asynchronously is not supported: it writes over the last checkpoint, so that a run "
            "killed meanwhile has none; leave it out"
        )
    yield from _start_mistakes(cfg.checkpoint)
    if cfg.model._name == "infinite_former_gpt2" and cfg.model.gpt2 is None and not _goes_on(cfg.checkpoint):
        yield "give --gpt2, the folder of the GPT-2 to start from (only to go on from a checkpoint none is needed)"
    kind = MODEL_REGISTRY.get(cfg.model._name)
    if kind is not None and kind.__module__.startswith("fairseq."):
        yield (
            f"--arch {cfg.model._name} does not read streams; give --arch infinite_former_lm (with --long-term-memory "
            "none for a Transformer-XL), or --task language_modeling"
        )
    yield from _criterion_mistakes(cfg)
    try:
        if cfg.common.tensorboard_logdir:
            Path(cfg.common.tensorboard_logdir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield f"--tensorboard-logdir {cfg.common.tensorboard_logdir} cannot be made ({error.strerror}); give another"


def _start_mistakes(checkpoint: Any) -> Iterator[str]:
    # Of a checkpoint that is missing fairseq says "No existing checkpoint found" and trains from the start.
    if checkpoint.restore_file != FROM_THE_START:
        if checkpoint.finetune_from_model:
            yield "--restore-file and --finetune-from-model exclude each other; leave one out"
        if not Path(checkpoint.restore_file).is_file():
            yield f"--restore-file {checkpoint.restore_file} does not exist; leave it out to train from the start"
    if checkpoint.finetune_from_model:
        if not Path(checkpoint.finetune_from_model).is_file():
            yield f"--finetune-from-model {checkpoint.finetune_from_model} does not exist; give a checkpoint"
        for name in ("optimizer", "lr_scheduler", "meters", "dataloader"):
            if checkpoint[f"reset_{name}"]:
                yield f"--finetune-from-model resets all: leave --reset-{name.replace('_', '-')} out"


def _goes_on(checkpoint: Any) -> bool:
    last = Path(checkpoint.save_dir) / FROM_THE_START
    return bool(checkpoint.finetune_from_model) or checkpoint.restore_file != FROM_THE_START or last.is_file()


def _criterion_mistakes(cfg: Any) -> Iterator[str]:
    name = cfg.criterion._name
    metric = cfg.checkpoint.best_checkpoint_metric
    if name == "ltm_cross_entropy":
        if metric not in LOGGED:
            yield f"--best-checkpoint-metric {metric} is not logged; choose one of {', '.join(LOGGED)}"
    elif name in ("adaptive_loss", "cross_entropy", "label_smoothed_cross_entropy"):
        # The first is for fairseq's own data parallelism alone, the others write into what the backward pass needs.
        adaptive = getattr(cfg.model, "adaptive_softmax_cutoff", None) is not None
        legacy = cfg.distributed_training.ddp_backend == "legacy_ddp"
        if name == "adaptive_loss" and not (adaptive and legacy):
            yield (
                "--criterion adaptive_loss needs --adaptive-softmax-cutoff and --ddp-backend legacy_ddp; "
                "--criterion ltm_cross_entropy needs neither"
            )
        if name != "adaptive_loss" and adaptive:
            yield f"--criterion {name} cannot train an adaptive softmax; give --criterion ltm_cross_entropy"


def _evaluation_mistakes(cfg: Any) -> Iterator[str]:
    path = cfg.common_eval.path
    if path is None:
        yield "give --path, the checkpoint to evaluate"
    elif len(split_paths(path)) > 1:
        yield f"--path {path} has a ':', which joins checkpoints: they are not scored together; give one without it"
    elif not Path(path).is_file():
        yield f"there is no checkpoint {path}; give --path one that exists"
    try:
        overrides = ast.literal_eval(cfg.common_eval.model_overrides)
    except (SyntaxError, ValueError):
        overrides = None
    if not isinstance(overrides, dict):
        yield (
            f"--model-overrides takes a dict such as \"{{'stm_length': 512}}\", got {cfg.common_eval.model_overrides!r}"
        )
