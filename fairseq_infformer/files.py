"""Files and folders that appear whole or not at all."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError

MADE_FROM = "made_from.json"


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The name of a file to write, which replaces ``file`` in one step; if anything fails, ``file`` stays as it was."""
    partial = file.with_name(file.name + ".tmp")
    partial.unlink(missing_ok=True)  # a link left under this name would lead the writing elsewhere
    try:
        yield partial
        partial.replace(file)
    finally:
        with suppress(OSError):
            partial.unlink()


class AtomicFolder:
    """A folder DEST that is made in stages and appears when the last one is done; one process at a time.

    The stages are made in the folder ``DEST.partial`` beside it, each of them whole or not at all. A process that is
    killed leaves that folder behind, and the next one continues with it. While a new DEST replaces an earlier one, the
    earlier one is in there too.
    """

    def __init__(self, dest: Path, stages: tuple[str, ...]) -> None:
        self.dest, self.stages = dest, stages
        self.folder = dest.with_name(dest.name + ".partial")
        self._rubbish, self._earlier = self.folder / "rubbish", self.folder / "earlier"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold ``DEST.partial``; it is removed if nothing is left in it."""
        own = {*self.stages, *(f"{stage}.tmp" for stage in self.stages), self._rubbish.name, self._earlier.name}
        content = list(self.folder.iterdir()) if self.folder.exists() else []
        if link := next((path for path in (self.folder, *content) if path.is_symlink()), None):
            raise InputError(f"{link} is a link, through which this program would write elsewhere; remove it")
        if not {path.name for path in content} <= own:
            raise InputError(
                f"{self.folder} contains files that this program did not create; move them or give another --dest"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is making {self.dest}; wait until it has finished") from None
            try:
                self._check_dest()
                yield
            finally:
                if self.folder.exists() and not any(self.folder.iterdir()):
                    self.folder.rmdir()
        finally:
            os.close(handle)

    def _check_dest(self) -> None:
        """InputError, before there is work to lose, if DEST could not be replaced, as a mount point cannot."""
        if not self.dest.exists():
            if self._earlier.exists():  # a process was killed in the middle of a replacement
                self._earlier.rename(self.dest)
            return
        self._remove(self._earlier)
        try:
            self.dest.rename(self._earlier)
        except OSError as error:
            raise InputError(
                f"--dest {self.dest} cannot be replaced ({error.strerror}), perhaps because a disk is mounted there; "
                f"give a folder inside it, such as {self.dest / 'data'}"
            ) from error
        self._earlier.rename(self.dest)

    @contextmanager
    def stage(self, name: str, made_from: dict[str, Any]) -> Iterator[Path]:
        """An empty folder to fill, which replaces the stage's earlier one if nothing fails."""
        begun, done = self.folder / f"{name}.tmp", self.folder / name
        self._remove(begun)
        begun.mkdir()
        try:
            yield begun
        except BaseException:
            self._remove(begun)
            raise
        (begun / MADE_FROM).write_text(json.dumps(made_from, ensure_ascii=False, allow_nan=False))
        self._remove(done)
        begun.rename(done)

    def require(self, name: str, made_from: dict[str, Any]) -> Path:
        """The folder of a finished stage; InputError if it is missing or was made from something else."""
        done = self.folder / name
        number = self.stages.index(name) + 1
        if not done.exists():
            raise InputError(f"stage {number} ({name}) of {self.dest} has not been run; give --stage {number} or less")
        if json.loads((done / MADE_FROM).read_text()) != made_from:
            raise InputError(
                f"stage {number} ({name}) of {self.dest} was made from other text or arguments; "
                f"give --stage {number} or less"
            )
        return done

    def clear(self) -> None:
        """Remove all stages."""
        for path in self.folder.iterdir():
            self._remove(path)

    def publish(self) -> None:
        """Turn the last stage into DEST, replacing an earlier one, and remove the other stages."""
        last = self.folder / self.stages[-1]
        (last / MADE_FROM).unlink(missing_ok=True)
        if self.dest.exists():
            self._remove(self._earlier)
            self.dest.rename(self._earlier)
        last.rename(self.dest)
        self.clear()

    def _remove(self, path: Path) -> None:
        # Renamed first: a folder that is half removed must not pass for a finished stage.
        shutil.rmtree(self._rubbish, ignore_errors=True)
        if path.exists():
            path.rename(self._rubbish)
            shutil.rmtree(self._rubbish, ignore_errors=True)


def make_once(dest: Path, made_from: dict[str, Any], notes: str, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill a folder that appears as ``dest`` when it is whole; do nothing if the same was made before.

    Args:
        made_from: all that the result depends on.
        notes: the JSON file in which ``make`` leaves ``made_from``, under that name.

    Raises:
        InputError: if ``dest`` holds anything else.
    """
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        try:
            noted = json.loads((dest / notes).read_text()).get("made_from")
        except (OSError, ValueError, AttributeError):
            noted = None
        if noted != made_from:
            raise InputError(f"--dest {dest} holds something else; give another --dest or remove it")
        print(f"{dest} exists, made with the same arguments: nothing to do")
        return
    atomic = AtomicFolder(dest, ("made",))
    with atomic.opened():
        with atomic.stage("made", made_from) as folder:
            make(folder)
        atomic.publish()
    print(f"{dest} is complete")
