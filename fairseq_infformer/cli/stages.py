"""Work in stages, each of which leaves a whole folder or none, and a result that appears at once when all is done."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq_infformer.errors import InputError

MADE_FROM = "made_from.json"


class Workplace:
    """The folder ``DEST.partial`` beside DEST, in which its stages are made; one process at a time.

    A process that is killed leaves it behind; the next one takes it over. An earlier DEST is in it for as long as it
    takes to move a new one into its place.
    """

    def __init__(self, dest: Path, stages: tuple[str, ...]) -> None:
        self.dest, self.stages = dest, stages
        self.folder = dest.with_name(dest.name + ".partial")
        self._rubbish, self._earlier = self.folder / "rubbish", self.folder / "earlier"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the folder; it goes if nothing is left in it."""
        own = {*self.stages, *(f"{stage}.tmp" for stage in self.stages), self._rubbish.name, self._earlier.name}
        found = list(self.folder.iterdir()) if self.folder.exists() else []
        if link := next((path for path in (self.folder, *found) if path.is_symlink()), None):
            raise InputError(f"{link} is a link, so that work in it would write elsewhere; remove it")
        if not {path.name for path in found} <= own:
            raise InputError(
                f"{self.folder} contains files that this program did not create; move them or give another --dest"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.dest} is being made by another process; wait for it") from None
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
            if self._earlier.exists():  # a process was killed here, or when it published
                self._earlier.rename(self.dest)
            return
        self._remove(self._earlier)
        try:
            self.dest.rename(self._earlier)
        except OSError as error:
            raise InputError(
                f"--dest {self.dest} cannot be replaced ({error.strerror}), as where a disk is mounted; give a folder "
                f"in it, such as {self.dest / 'data'}"
            ) from error
        self._earlier.rename(self.dest)

    @contextmanager
    def stage(self, name: str, made_from: dict[str, Any]) -> Iterator[Path]:
        """An empty folder to fill, which takes the place of the stage's earlier one when all went well."""
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
        """The folder of a finished stage; InputError if there is none, or one made from something else."""
        done = self.folder / name
        number = self.stages.index(name) + 1
        if not done.exists():
            raise InputError(f"stage {number} ({name}) of {self.dest} has not been done; give --stage {number} or less")
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
        """Turn the last stage into DEST, in the place of an earlier one, and remove the others."""
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
    """Let ``make`` fill a folder that appears as ``dest`` when it is whole; nothing, if the same was made before.

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
            raise InputError(f"{dest} holds something else; give another --dest or remove it")
        print(f"{dest} is there, made with the same arguments: nothing to do")
        return
    place = Workplace(dest, ("made",))
    with place.opened():
        with place.stage("made", made_from) as made:
            make(made)
        place.publish()
    print(f"{dest} is complete")
