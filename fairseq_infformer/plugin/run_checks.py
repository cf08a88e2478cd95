"""Run settings that fairseq would report late, as a traceback, or not at all."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Optional

from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.utils import split_paths

from fairseq_infformer.criterions.ltm_cross_entropy import LOGGED
from fairseq_infformer.errors import InputError, option
from fairseq_infformer.modules.memories import MEMORIES
from fairseq_infformer.protocols import Searches
from fairseq_infformer.vocabulary_files import SENTENCEPIECE, TOKENIZER

FROM_THE_START = "checkpoint_last.pt"  # fairseq's default of --restore-file, which need not exist

AT_LEAST = (
    ("optimization", "max_epoch", 0),
    ("optimization", "max_update", 0),
    ("common", "log_interval", 1),
    ("checkpoint", "save_interval", 1),
    ("dataset", "validate_interval", 1),
    ("ema", "ema_update_freq", 1),
)

TRANSLATION = ("translation", "translation_search")

STREAMS = "streaming_language_modeling"
GENERATION = ("generate", "interactive")
# They need attention to a source, the whole text at each word, or a score of what was not generated.
NOT_GENERATED = ("constraints", "lm_path", "print_alignment", "replace_unk", "retain_dropout", "score_reference")

# Each skips a part of the text, although every token must be a target once.
SKIP_TEXT = (("optimization", "skip_remainder_batch"), ("dataset", "max_valid_steps"))


def check_run(cfg: Any, command: str) -> None:
    """Check the configuration of one of fairseq's commands; InputError before any work.

    Args:
        cfg: the whole configuration, as fairseq gives it to ``call_main``.
        command: the module of the command, such as ``train`` or ``eval_lm``.
    """
    task = getattr(cfg.task, "_name", None)
    if command in GENERATION:
        for mistake in _generation_mistakes(cfg, command):
            raise InputError(mistake)
        return
    if task in TRANSLATION and command == "train":
        for mistake in chain(_count_mistakes(cfg), _search_mistakes(cfg), _pair_mistakes(cfg)):
            raise InputError(mistake)
    if task != STREAMS:
        return
    mistakes = _training_mistakes(cfg) if cfg.model is not None else _evaluation_mistakes(cfg, command)
    for mistake in (*_common_mistakes(cfg), *mistakes):
        raise InputError(mistake)


def _count_mistakes(cfg: Any) -> Iterator[str]:
    if min(cfg.optimization.update_freq, default=0) < 1:
        yield f"--update-freq must be 1 or more, got {','.join(map(str, cfg.optimization.update_freq))}"
    for part, name, least in AT_LEAST:
        if (value := cfg[part][name]) < least:
            yield f"{option(name)} must be {least} or more, got {value}"


def _search_mistakes(cfg: Any) -> Iterator[str]:
    searched = isinstance(ARCH_MODEL_REGISTRY.get(cfg.model._name), Searches)
    searching = cfg.task._name == "translation_search"
    if searched and not searching:
        yield f"--task {cfg.task._name} does not search; give --task translation_search for --arch {cfg.model._name}"
    if searching and not searched:
        yield (
            f"--task translation_search cannot search --arch {cfg.model._name}; give --arch dartsformer_search, or "
            "--task translation"
        )
    if searching and (optimizer := cfg.optimizer._name) != "search_adam":
        yield f"--task translation_search needs --optimizer search_adam, got {optimizer}"


def _pair_mistakes(cfg: Any) -> Iterator[str]:
    """What is missing of the data that fairseq's translation reads; fairseq itself ends in a traceback."""
    for later, path in enumerate(map(Path, split_paths(cfg.task.data or ""))):
        advice = "give a folder that fairseq-preprocess wrote"
        if not path.is_dir():
            yield f"{path} is not a folder; {advice}"
        pair = cfg.task.source_lang, cfg.task.target_lang
        source, target = pair if all(pair) else data_utils.infer_language_pair(path)
        if not (source and target):
            yield f"{path} has no pairs of sentences; {advice}, or name the languages with -s and -t"
        for language in (source, target):
            if not (path / f"dict.{language}.txt").is_file():
                yield f"{path} has no dict.{language}.txt; {advice}"
        validated = [] if later or cfg.dataset.disable_validation else cfg.dataset.valid_subset.split(",")
        for name in (cfg.dataset.train_subset, *validated):
            both = [f"{name}.{one}-{other}.{source}" for one, other in ((source, target), (target, source))]
            if not any((path / f"{each}{ending}").is_file() for each in both for ending in (".bin", "")):
                yield f"{path} has no split {name!r} of {source} and {target}; {advice}"


def _generation_mistakes(cfg: Any, command: str) -> Iterator[str]:
    of_streams = cfg.task._name == STREAMS
    if of_streams:
        yield from _common_mistakes(cfg)
        if cfg.common_eval.path is None:
            yield "--path is missing; give the checkpoint of a model"
    for path in split_paths(cfg.common_eval.path or ""):
        if Path(path).is_file():
            trained = checkpoint_utils.load_checkpoint_to_cpu(path)["cfg"]
            if trained.task._name == STREAMS and not of_streams:
                yield f"{path} reads streams of text; give --task {STREAMS}"
            segment = trained.task.get("tokens_per_sample")
            if of_streams and trained.task._name == STREAMS and segment != cfg.task.tokens_per_sample:
                yield (
                    f"{path} was trained in segments of {segment} tokens, not of {cfg.task.tokens_per_sample}; give "
                    f"--tokens-per-sample {segment}"
                )
        elif of_streams:
            yield f"--path {path} does not exist; give a checkpoint that does"
    if not of_streams:
        return
    if command == "generate":
        if cfg.generation.prefix_size < 1:
            yield (
                "--prefix-size is missing; give the number of tokens of each document that the model reads before it "
                "continues"
            )
        if len(paths := split_paths(cfg.task.data)) > 1:
            yield f"fairseq-generate would read only {paths[0]} of {cfg.task.data}; give one folder"
    else:
        if (cfg.dataset.batch_size or 1) > max(1, cfg.interactive.buffer_size):
            yield f"--batch-size {cfg.dataset.batch_size} needs --buffer-size {cfg.dataset.batch_size} or more"
        if (file := cfg.interactive.input) != "-" and not Path(file).is_file():
            yield f"--input {file} does not exist; give a text file, or leave it out to type prompts"
    generation = cfg.generation
    if generation.sampling and generation.nbest != generation.beam:
        yield f"--sampling needs --nbest as large as --beam, {generation.beam}, got {generation.nbest}"
    for name, least in (("beam", 1), ("nbest", 1), ("max_len_b", 1), ("max_len_a", 0), ("min_len", 0)):
        if generation[name] < least:
            yield f"{option(name)} must be {least} or more, got {generation[name]}"
    if not generation.max_len_a and generation.min_len > generation.max_len_b:
        yield f"--min-len must be --max-len-b, {generation.max_len_b}, or less, got {generation.min_len}"
    pieces = [name for name in (SENTENCEPIECE, TOKENIZER) if (Path(cfg.task.data) / name).is_file()]
    if pieces and (given := cfg.common_eval.post_process):
        yield f"--post-process {given} does not apply, because {pieces[0]} of {cfg.task.data} does it; leave it out"
    for name in NOT_GENERATED:
        if generation[name]:
            yield f"{option(name)} is not supported for models of streams; leave it out"


def _common_mistakes(cfg: Any) -> Iterator[str]:
    for name in ("batch_size", "batch_size_valid"):
        if (size := cfg.dataset[name]) is not None and size < 1:
            yield f"{option(name)} must be 1 or more, got {size}"
    if cfg.dataset.num_workers < 0:
        yield f"--num-workers must be 0 or more, got {cfg.dataset.num_workers}"
    if not 0 <= cfg.common.seed < 2**32:
        yield f"--seed must lie in 0..{2**32 - 1}, got {cfg.common.seed}"
    if cfg.common.fp16 and cfg.common.amp:
        yield "--fp16 and --amp cannot be combined; leave one out"
    if cfg.common.tpu:
        yield "--tpu is not supported; leave it out"
    if cfg.common.log_file and not Path(cfg.common.log_file).parent.is_dir():
        yield f"--log-file {cfg.common.log_file} cannot be written, because its folder does not exist; make it first"


def _training_mistakes(cfg: Any) -> Iterator[str]:
    if cfg.dataset.batch_size is None and cfg.dataset.max_tokens is None:
        yield "--batch-size is missing; give the number of streams that each process reads"
    yield from _count_mistakes(cfg)
    for part, name in SKIP_TEXT:
        if cfg[part][name]:
            yield f"{option(name)} would skip a part of the text, which must be read whole; leave it out"
    if cfg.distributed_training.cpu_offload:
        yield "--cpu-offload needs FSDP, which is not supported; leave it out"
    if cfg.checkpoint.write_checkpoints_asynchronously:
        yield (
            "--write-checkpoints-asynchronously is not supported, because a run killed while it overwrites the last "
            "checkpoint would have none; leave it out"
        )
    if not 0 <= cfg.ema.ema_decay <= 1:
        yield f"--ema-decay must lie in [0, 1], got {cfg.ema.ema_decay}"
    if (seed := cfg.ema.ema_seed_model) and not Path(seed).is_file():
        yield f"--ema-seed-model {seed} does not exist; leave it out to start from the model's weights"
    if cfg.common.quantization_config_path:
        yield "--quantization-config-path is not supported; leave it out"
    if _dict(cfg.checkpoint.optimizer_overrides) is None:
        given = cfg.checkpoint.optimizer_overrides
        yield f"--optimizer-overrides takes a dict such as \"{{'lr': [0.001]}}\", got {given!r}"
    yield from _start_mistakes(cfg.checkpoint)
    if cfg.model._name == "infinite_former_gpt2":
        yield (
            "--arch infinite_former_gpt2 is of earlier versions, whose checkpoints are scored but not trained; give "
            "--arch infinite_former_pretrained --pretrained with the folder of the GPT-2"
        )
    if cfg.model._name == "infinite_former_pretrained" and cfg.model.pretrained is None:
        yield "--pretrained is missing; give the folder of the model to start from"
    model_class = MODEL_REGISTRY.get(cfg.model._name)
    if model_class is not None and model_class.__module__.startswith("fairseq."):
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
    # Where a checkpoint is missing, fairseq logs "No existing checkpoint found" and trains from the start.
    if checkpoint.continue_once and not Path(checkpoint.continue_once).is_file():
        yield f"--continue-once {checkpoint.continue_once} does not exist; leave it out to train from the start"
    if checkpoint.restore_file != FROM_THE_START:
        if checkpoint.finetune_from_model:
            yield "--restore-file and --finetune-from-model cannot be combined; leave one out"
        if not Path(checkpoint.restore_file).is_file():
            yield f"--restore-file {checkpoint.restore_file} does not exist; leave it out to train from the start"
        elif (last := _last(checkpoint)).is_file() and not last.samefile(checkpoint.restore_file):
            yield (
                f"--restore-file {checkpoint.restore_file} would start over although {last} exists; leave "
                "--restore-file out to resume, or give another --save-dir"
            )
    if checkpoint.finetune_from_model:
        if not Path(checkpoint.finetune_from_model).is_file():
            yield f"--finetune-from-model {checkpoint.finetune_from_model} does not exist; give a checkpoint"
        for name in ("optimizer", "lr_scheduler", "meters", "dataloader"):
            if checkpoint[f"reset_{name}"]:
                yield f"--finetune-from-model resets everything; leave {option(f'reset_{name}')} out"


def _last(checkpoint: Any) -> Path:
    return Path(checkpoint.save_dir) / f"checkpoint_last{checkpoint.checkpoint_suffix or ''}.pt"


def _has_start(checkpoint: Any) -> bool:
    """Whether training starts from a checkpoint."""
    given = checkpoint.finetune_from_model or checkpoint.continue_once or checkpoint.restore_file != FROM_THE_START
    return bool(given) or _last(checkpoint).is_file()


def _criterion_mistakes(cfg: Any) -> Iterator[str]:
    name = cfg.criterion._name
    metric = cfg.checkpoint.best_checkpoint_metric
    if name == "ltm_cross_entropy":
        logged = [*LOGGED, *(name for known in MEMORIES.values() for name in known.memory.logged)]
        if metric not in logged:
            yield f"--best-checkpoint-metric {metric} is not logged; choose one of {', '.join(logged)}"
    elif name in ("adaptive_loss", "cross_entropy", "label_smoothed_cross_entropy"):
        # adaptive_loss works with fairseq's own data parallelism only; under an adaptive softmax, the others change
        # tensors in place that the backward pass needs.
        adaptive = getattr(cfg.model, "adaptive_softmax_cutoff", None) is not None
        legacy = cfg.distributed_training.ddp_backend == "legacy_ddp"
        if name == "adaptive_loss" and not (adaptive and legacy):
            yield (
                "--criterion adaptive_loss needs --adaptive-softmax-cutoff and --ddp-backend legacy_ddp; "
                "--criterion ltm_cross_entropy needs neither"
            )
        if name != "adaptive_loss" and adaptive:
            yield f"--criterion {name} cannot train an adaptive softmax; give --criterion ltm_cross_entropy"


def _evaluation_mistakes(cfg: Any, command: str) -> Iterator[str]:
    path = cfg.common_eval.path
    if path is None:
        yield "--path is missing; give the checkpoint to evaluate"
    elif len(split_paths(path)) > 1:
        yield f"--path {path} contains ':', which joins several checkpoints; give one checkpoint"
    elif not Path(path).is_file():
        yield f"--path {path} does not exist; give a checkpoint that does"
    if command == "validate" and cfg.dataset.batch_size is None:
        yield "--batch-size is missing; give the number of streams to read in parallel"
    given = cfg.common_eval.model_overrides
    overrides = _dict(given)
    if overrides is None:
        yield f"--model-overrides takes a dict such as \"{{'stm_length': 512}}\", got {given!r}"
    for name in overrides or ():
        # fairseq lets it change settings of every part, but only the model's are used in evaluation.
        parts = [part for part in cfg if cfg[part] is not None and name in cfg[part]]
        if parts or name in cfg:
            flag = f"give {option(name)}" if parts == ["task"] and name != "data" else "leave it out"
            yield f"--model-overrides has {name!r}, which is no setting of the model; {flag}"


def _dict(text: str) -> Optional[dict]:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None
    return value if isinstance(value, dict) else None
