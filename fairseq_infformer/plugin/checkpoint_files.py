"""Checkpoint files: written whole or not at all, and checked before they are used."""

import contextlib
import functools
import io
import logging
import os
import pickle
import re
import shutil
import tempfile
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer

from fairseq_infformer.errors import InputError, one_line
from fairseq_infformer.files import replacing

logger = logging.getLogger(__name__)

LOADS_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch's name for it


def save(state: Any, path: str) -> None:
    """``torch.save`` to ``path``, whose old content stays if that fails; InputError if the file cannot be written."""
    with _written(path, lambda: _size(state)) as new, new.open("wb") as stream:
        torch.save(state, stream)
        _flush(stream)


def copy(source: str, path: str) -> None:
    """Copy a file to ``path``, whose old content stays if that fails; InputError if the copy cannot be written."""
    with _written(path, lambda: os.path.getsize(source)) as new, open(source, "rb") as old, new.open("wb") as stream:
        shutil.copyfileobj(old, stream, 1 << 20)
        _flush(stream)


@contextlib.contextmanager
def _written(path: str, size: Callable[[], int]) -> Iterator[Path]:
    """``replacing`` a checkpoint of ``size()`` bytes; InputError if it cannot be written."""
    try:
        with replacing(Path(path)) as new:
            yield new
    except Exception as error:
        if reason := _os_error(error):
            folder = os.path.dirname(path) or "."
            raise InputError(
                f"cannot save {path}: {reason.strerror} ({size():,} bytes needed, {shutil.disk_usage(folder).free:,} "
                "free); earlier checkpoints are intact: free some space and repeat the command to resume from the last"
            ) from error
        raise


def _flush(stream: io.BufferedWriter) -> None:
    # Some file systems report only now that they are full, and a machine that stops must not leave an empty file.
    stream.flush()
    os.fsync(stream.fileno())


def _os_error(error: Optional[BaseException]) -> Optional[OSError]:
    # torch.save hides what failed behind an error of its archive.
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _size(state: Any) -> int:
    class Counter(io.RawIOBase):
        total = 0

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.total += len(data)
            return len(data)

    counter = Counter()
    torch.save(state, counter)
    return counter.total


def open_directory(save_dir: str) -> None:
    """Make a save directory, or check that it can be written, and remove what a killed run left unfinished in it."""
    try:
        os.makedirs(save_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=save_dir).close()
        for unfinished in Path(save_dir).glob("*.pt.tmp"):
            unfinished.unlink()
    except OSError as error:
        raise InputError(f"--save-dir {save_dir} cannot be written ({error.strerror}); give another folder") from error


def refuse_damaged(path: str) -> None:
    """InputError if a file does not exist, or its content is not what was written to it."""
    if not os.path.isfile(path):
        raise InputError(f"checkpoint {path} does not exist; give one that does")
    if not zipfile.is_zipfile(path):
        return  # truncated, or in the old format that is no zip archive: torch.load will say
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError(unreadable(path, error)) from error
    if damaged:
        raise InputError(f"checkpoint {path} is damaged (wrong checksum of {damaged}); use another one")


def refuse_pickles(path: str) -> None:
    """InputError if the environment makes torch execute code in a checkpoint."""
    # fairseq leaves torch.load's weights_only at its default; the values are those that torch takes for true.
    if os.environ.get(LOADS_PICKLES, "0").lower() in ("1", "y", "yes", "true"):
        raise InputError(f"{LOADS_PICKLES} is set, which lets a file such as {path} execute code when read; unset it")


def unreadable(path: str, error: BaseException) -> str:
    """The message for a checkpoint that could not be read because of ``error``."""
    # torch's own message begins with how to load it all the same.
    name = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if name:
        return (
            f"checkpoint {path} contains {name[1]}, which could execute code when read: only tensors and plain values "
            "are read; use a checkpoint that this plugin wrote"
        )
    reason = one_line(error, with_type=True).split(". ")[0]
    return (
        f"{path} is truncated or is not a fairseq checkpoint ({reason}); use another one, or move it away to start over"
    )


def check_content(path: str, state: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """InputError if a checkpoint has no model, or if no part of its settings has a name of ``--model-overrides``."""
    settings = state.get("cfg")
    if not (state.get("model") and settings):
        raise InputError(f"{path} does not hold a model and its settings; use another checkpoint")
    known: set[str] = set()
    for name, part in settings.items():
        known |= {name, *(vars(part) if isinstance(part, Namespace) else part if isinstance(part, Mapping) else ())}
    if unknown := sorted(set(overrides) - known):
        raise InputError(f"--model-overrides has {unknown[0]!r}, which is no setting of {path}; correct the name")


def averaged_weights(path: str, state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint as ``--store-ema`` has averaged them; InputError if there are none."""
    extra = state.get("extra_state") or {}
    if weights := extra.get("ema_fp32_params") or extra.get("ema"):
        return weights
    raise InputError(f"{path} has no averaged weights, which --store-ema saves in training; use another checkpoint")


# ---- In fairseq


def replace_checkpoints_whole() -> None:
    """Let a checkpoint appear whole or not at all.

    fairseq copies a new checkpoint over checkpoint_last.pt and checkpoint_best.pt, so that a kill leaves half a file
    where the old checkpoint was. When a write fails, it writes again after what it has already written, and leaves
    that file behind. It tests a save directory by writing and removing a file named dummy, which may be the user's.
    """
    save_at_once, copy_over = checkpoint_utils.torch_persistent_save, PathManager.copy

    @functools.wraps(save_at_once)
    def saved(obj, filename, async_write=False):
        if async_write or not PathManager.supports_rename(filename):
            return save_at_once(obj, filename, async_write)
        try:
            save(obj, filename)
        except InputError as error:
            if os.path.basename(filename) != "crash.pt":
                raise
            logger.warning(error)  # the crash itself is reported next and matters more

    def copied(src_path, dst_path, overwrite=False):
        if not (overwrite and PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
            return copy_over(src_path, dst_path, overwrite)
        copy(src_path, dst_path)
        return True

    checkpoint_utils.torch_persistent_save = saved
    PathManager.copy = staticmethod(copied)
    checkpoint_utils.verify_checkpoint_directory = open_directory


def explain_unreadable_checkpoints() -> None:
    """Report in one line that a checkpoint is damaged or belongs to another run, where fairseq gives a traceback.

    fairseq does not notice flipped bits: torch.load does not compare the checksums that torch.save wrote.
    """
    read, resume = checkpoint_utils.load_checkpoint_to_cpu, Trainer.load_checkpoint

    @functools.wraps(read)
    def checked(path, arg_overrides=None, load_on_all_ranks=False):
        refuse_pickles(path)
        refuse_damaged(PathManager.get_local_path(path))
        try:
            state = read(path, arg_overrides, load_on_all_ranks)
        except Exception as error:
            raise InputError(unreadable(path, error)) from error
        check_content(path, state, arg_overrides or {})
        return state

    @functools.wraps(resume)
    def resumed(self, filename, *args, **kwargs):
        try:
            return resume(self, filename, *args, **kwargs)
        except InputError:
            raise
        except (AssertionError, KeyError, ValueError) as error:  # of the optimizer, criterion, scheduler and scaler
            raise InputError(
                f"{filename} was saved with another optimizer, criterion or schedule "
                f"({one_line(error, with_type=True)}); give those it was trained with, or --reset-optimizer "
                "--reset-lr-scheduler --reset-meters"
            ) from error

    checkpoint_utils.load_checkpoint_to_cpu = checked
    Trainer.load_checkpoint = resumed


def refuse_partial_resume() -> None:
    """Refuse to resume, or warn, where a checkpoint lacks a part of the training's state.

    Without an optimizer's state, fairseq silently continues from the weights alone and counts updates from 0. Without
    averaged weights, ``--store-ema`` makes it crash, although an average could start from the weights.
    """
    resume = Trainer.load_checkpoint

    @functools.wraps(resume)
    def resumed(self, filename, reset_optimizer=False, *args, **kwargs):
        read = checkpoint_utils.load_checkpoint_to_cpu

        def complete(*args, **kwargs):
            state = read(*args, **kwargs)
            if not reset_optimizer and state.get("last_optimizer_state") is None:
                raise InputError(
                    f"{filename} has no optimizer state (--no-save-optimizer-state), so its training cannot be "
                    "resumed; give --reset-optimizer to start a new training from its weights, at update 0"
                )
            if self.cfg.ema.store_ema and "ema" not in state["extra_state"]:
                logger.warning("the checkpoint has no averaged weights: averaging starts from its weights")
                state["extra_state"]["ema"] = state["model"]
            return state

        checkpoint_utils.load_checkpoint_to_cpu = complete
        try:
            return resume(self, filename, reset_optimizer, *args, **kwargs)
        finally:
            checkpoint_utils.load_checkpoint_to_cpu = read

    Trainer.load_checkpoint = resumed
