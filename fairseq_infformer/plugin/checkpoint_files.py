"""Checkpoint files: written whole or not at all, and looked at before they are used."""

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

from fairseq_infformer.errors import InputError

logger = logging.getLogger(__name__)

RUNS_PICKLES = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # a switch of torch's


def save(state: Any, path: str) -> None:
    """``torch.save`` to ``path``, whose old content stays if that fails; InputError if the file cannot be written."""
    with _beside(path, lambda: _size(state)) as new, open(new, "wb") as stream:
        torch.save(state, stream)
        _flush(stream)


def copy(source: str, path: str) -> None:
    """Copy a file to ``path``, whose old content stays if that fails; InputError if the copy cannot be written."""
    with _beside(path, lambda: os.path.getsize(source)) as new, open(source, "rb") as old, open(new, "wb") as stream:
        shutil.copyfileobj(old, stream, 1 << 20)
        _flush(stream)


@contextlib.contextmanager
def _beside(path: str, size: Callable[[], int]) -> Iterator[str]:
    # The name of a file to write, which takes the place of ``path`` in one step.
    new = f"{path}.tmp"
    try:
        yield new
        os.replace(new, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(new)
        if reason := _os_error(error):
            folder = os.path.dirname(path) or "."
            raise InputError(
                f"cannot save {path}: {reason.strerror} ({size():,} bytes needed, {shutil.disk_usage(folder).free:,} "
                "free); earlier checkpoints are whole: make room and give the same command to go on from the last"
            ) from error
        raise


def _flush(stream: io.BufferedWriter) -> None:
    # Some file systems say only now that they are full, and a machine that stops must not leave an empty file.
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
    """Make a save directory, or see that it can be written, and remove what a killed run was writing there."""
    try:
        os.makedirs(save_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=save_dir).close()
        for unfinished in Path(save_dir).glob("*.pt.tmp"):
            unfinished.unlink()
    except OSError as error:
        raise InputError(f"--save-dir {save_dir} cannot be written ({error.strerror}); give another") from error


def refuse_damaged(path: str) -> None:
    """InputError if a file is not there, or its content is not what was written to it."""
    if not os.path.isfile(path):
        raise InputError(f"there is no checkpoint {path}; give a file that exists")
    if not zipfile.is_zipfile(path):
        return  # truncated, or in the old format that is no zip archive: torch.load will say
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise InputError(unreadable(path, error)) from error
    if damaged:
        raise InputError(f"checkpoint {path} is damaged (checksum of {damaged}); use another one")


def refuse_pickles(path: str) -> None:
    """InputError if the environment makes torch run what is in a checkpoint."""
    # fairseq leaves torch.load's weights_only at its default; the values are those that torch takes for true.
    if os.environ.get(RUNS_PICKLES, "0").lower() in ("1", "y", "yes", "true"):
        raise InputError(f"{RUNS_PICKLES} is set, so that {path} could run anything when it is read; unset it")


def unreadable(path: str, error: BaseException) -> str:
    """What to tell of a checkpoint that ``error`` says cannot be read."""
    # torch's own message begins with how to load it all the same.
    found = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found:
        return (
            f"checkpoint {path} holds {found[1]}, and reading that could run anything: only tensors and plain values "
            "are read; take one that this plugin has written"
        )
    reason = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0].rstrip(": ")
    return (
        f"{path} is truncated or is not a fairseq checkpoint ({reason}); use another one, or move it away to start over"
    )


def check_content(path: str, state: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """InputError if a checkpoint has no model, or if no part of its settings has a name of ``--model-overrides``."""
    settings = state.get("cfg")
    if not (state.get("model") and settings):
        raise InputError(f"{path} holds no model with its settings; use another checkpoint")
    known: set[str] = set()
    for name, part in settings.items():
        known |= {name, *(vars(part) if isinstance(part, Namespace) else part if isinstance(part, Mapping) else ())}
    if unknown := sorted(set(overrides) - known):
        raise InputError(f"--model-overrides has {unknown[0]!r}, which the settings in {path} do not have")


def averaged_weights(path: str, state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint as ``--store-ema`` has averaged them; InputError if there are none."""
    extra = state.get("extra_state") or {}
    if found := extra.get("ema_fp32_params") or extra.get("ema"):
        return found
    raise InputError(f"{path} has no averaged weights: a training keeps them with --store-ema")


# ---- In fairseq


def replace_checkpoints_whole() -> None:
    """Let a checkpoint appear whole or not at all.

    fairseq copies a new checkpoint over checkpoint_last.pt and checkpoint_best.pt, so that a kill leaves half of one
    in the place of the old; when a write fails it writes again behind what it has written, and leaves that behind. It
    tries a save directory by writing and removing a file named dummy, which may be the user's.
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
            logger.warning(error)  # what the run has crashed of is told next, and matters more

    def copied(src_path, dst_path, overwrite=False):
        if not (overwrite and PathManager.supports_rename(src_path) and PathManager.supports_rename(dst_path)):
            return copy_over(src_path, dst_path, overwrite)
        copy(src_path, dst_path)
        return True

    checkpoint_utils.torch_persistent_save = saved
    PathManager.copy = staticmethod(copied)
    checkpoint_utils.verify_checkpoint_directory = open_directory


def explain_unreadable_checkpoints() -> None:
    """Tell in one line that a checkpoint is damaged, or of another run: fairseq shows where in its code that hurt.

    Bits that have flipped go unseen: torch.load does not compare the checksums that torch.save has written.
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
                f"{filename} was saved with another optimizer, criterion or schedule ({type(error).__name__}: {error})"
                "; give those of its run, or --reset-optimizer --reset-lr-scheduler --reset-meters"
            ) from error

    checkpoint_utils.load_checkpoint_to_cpu = checked
    Trainer.load_checkpoint = resumed


def refuse_partial_resume() -> None:
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
