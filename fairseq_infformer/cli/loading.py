"""Reading the checkpoints of this plugin, for the commands that use them."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Optional

from fairseq import checkpoint_utils, utils
from omegaconf import DictConfig, OmegaConf

import fairseq_infformer
from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.models import export_format
from fairseq_infformer.plugin import checkpoint_files
from fairseq_infformer.tasks.streaming_language_modeling import StreamingLanguageModelingConfig

TASK = "streaming_language_modeling"


def import_plugin(user_dir: Optional[str]) -> None:
    """Import a user's plugin, as fairseq-train does; InputError if that fails."""
    if user_dir is None:
        return
    if not Path(user_dir).is_dir():
        raise InputError(f"--user-dir {user_dir} is not a folder; give the plugin that the model was trained with")
    if Path(user_dir).absolute().name == "fairseq_infformer":
        installed = fairseq_infformer.__path__[0]
        if Path(user_dir).samefile(installed):
            return
        raise InputError(
            f"--user-dir {user_dir} is a copy of this plugin, but this command belongs to {installed}; leave it out"
        )
    try:
        utils.import_user_module(Namespace(user_dir=user_dir))
    except ImportError as error:
        raise InputError(f"--user-dir {user_dir} cannot be imported ({one_line(error)}); correct it") from error


def read(path: str, average: bool = False) -> dict[str, Any]:
    """A checkpoint on the CPU, its ``cfg`` in plain values; InputError unless it is one of this plugin's task.

    With ``average``, its ``model`` has the weights that ``--store-ema`` averaged.
    """
    if not Path(path).is_file():
        joined = "several joined by ':' cannot be used together" if len(utils.split_paths(path)) > 1 else ""
        raise InputError(f"--path {path} does not exist; {joined or 'give a checkpoint that does'}")
    saved = checkpoint_utils.load_checkpoint_to_cpu(path)
    cfg = saved.get("cfg")
    # Unresolved: fairseq writes no value that refers to another one or to the environment.
    saved["cfg"] = cfg = OmegaConf.to_container(cfg, resolve=False) if isinstance(cfg, DictConfig) else {}
    if not all(isinstance(part, dict) for part in (cfg.get("task"), cfg.get("model"), saved.get("model"))):
        raise InputError(f"checkpoint {path} has no settings or no model; give one that this plugin wrote")
    if (task := cfg["task"].get("_name")) != TASK:
        raise InputError(f"{path} was trained with --task {task}; give a checkpoint of --task {TASK}")
    if average:
        saved["model"] = checkpoint_files.averaged_weights(path, saved)
    return saved


def task_settings(saved: dict[str, Any], source: object) -> dict[str, Any]:
    """The task settings that say how a model's text is read; InputError names a wrong value in ``source``."""
    kept = {name: saved.get(name) for name in ("tokens_per_sample", "document_boundaries")}
    kept["score"] = saved.get("score", "all")  # missing in checkpoints of version 0.1
    export_format.configuration(StreamingLanguageModelingConfig, kept, source)
    return kept
