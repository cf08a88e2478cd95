"""Checkpoint files: written whole or not at all, and looked at before they are used."""

import contextlib
import io
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

from .errors import InputError

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
        return  # cut short, or of long ago: torch.load tells
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
    return f"{path} is cut short or no checkpoint of fairseq ({reason}); use another one, or move it away to start anew"


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
