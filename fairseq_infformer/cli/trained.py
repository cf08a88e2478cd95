"""Checkpoints of this plugin, for the commands that read them."""

from argparse import Namespace
from pathlib import Path
from typing import Any, Optional

from fairseq import checkpoint_utils, utils
from omegaconf import DictConfig, OmegaConf

import fairseq_infformer
from fairseq_infformer.errors import InputError
from fairseq_infformer.models import pretrained
from fairseq_infformer.plugin import checkpoint_files
from fairseq_infformer.tasks.streaming_language_modeling import StreamingLanguageModelingConfig

TASK = "streaming_language_modeling"


def import_plugin(user_dir: Optional[str]) -> None:
    """Import a user's plugin, as fairseq-train does; InputError if there is none."""
    if user_dir is None:
        return
    if not Path(user_dir).is_dir():
        raise InputError(f"there is no folder {user_dir}; give --user-dir the plugin that the model was trained with")
    if Path(user_dir).absolute().name == "fairseq_infformer":
        here = fairseq_infformer.__path__[0]
        if Path(user_dir).samefile(here):
            return
        raise InputError(
            f"--user-dir {user_dir} is another copy of this plugin than {here}, whose command this is; leave it out"
        )
    try:
        utils.import_user_module(Namespace(user_dir=user_dir))
    except ImportError as error:
        raise InputError(f"--user-dir {user_dir} cannot be imported ({' '.join(str(error).split())})") from error


def read(path: str, average: bool = False) -> dict[str, Any]:
    """A checkpoint on the CPU, its ``cfg`` in plain values; InputError if there is none that was trained on streams.

    With ``average`` its ``model`` has the weights as ``--store-ema`` has averaged them.
    """
    if not Path(path).is_file():
        joined = "; several joined by ':' are not scored together" if len(utils.split_paths(path)) > 1 else ""
        raise InputError(f"there is no checkpoint {path}{joined}")
    saved = checkpoint_utils.load_checkpoint_to_cpu(path)
    cfg = saved.get("cfg")
    # Unresolved: a value that refers to another, or to the environment, is none that fairseq has written.
    saved["cfg"] = cfg = OmegaConf.to_container(cfg, resolve=False) if isinstance(cfg, DictConfig) else {}
    if not all(isinstance(part, dict) for part in (cfg.get("task"), cfg.get("model"), saved.get("model"))):
        raise InputError(f"checkpoint {path} has no settings or no model; take one that this plugin has written")
    if (task := cfg["task"].get("_name")) != TASK:
        raise InputError(f"{path} was trained with --task {task}, not on streams")
    if average:
        saved["model"] = checkpoint_files.averaged_weights(path, saved)
    return saved


def task_settings(saved: dict[str, Any], source: object) -> dict[str, Any]:
    """Of a task's settings those with which a model's text is to be read; InputError if ``source`` has others."""
    kept = {name: saved.get(name) for name in ("tokens_per_sample", "document_boundaries")}
    kept["score"] = saved.get("score", "all")  # which 0.1 did not have
    pretrained.configuration(StreamingLanguageModelingConfig, kept, source)
    return kept
