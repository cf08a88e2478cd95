"""Running commands one after the other or side by side, and showing them as a shell takes them."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple, Optional

from recipes.launches import from_root


class Command(NamedTuple):
    """A command, and what is to be seen of it."""

    words: Sequence[str]
    note: str = ""  # printed when it starts
    output: Optional[Path] = None  # its standard output goes to this file, all or nothing
    log: Optional[Path] = None  # of a training, to show which update it is at

    def __str__(self) -> str:
        """The command as a shell at the repository's root takes it."""
        text = from_root(shlex.join(map(str, self.words)))
        if self.output is None:
            return text
        output, partial = (shlex.quote(from_root(str(file))) for file in (self.output, self.partial))
        return f"{text} > {partial} && mv {partial} {output}"

    @property
    def partial(self) -> Path:
        return self.output.with_name(f"{self.output.name}.partial")


class Running:
    """A command at work, in a process group of its own, which can be ended as a whole."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.file: Optional[BinaryIO] = command.partial.open("wb") if command.output else None
        self.process = subprocess.Popen(
            list(map(str, command.words)),
            stdin=subprocess.DEVNULL,
            stdout=self.file,
            # What a training has to say would stand in the line of progress.
            stderr=subprocess.PIPE if command.log else None,
            process_group=0,
        )

    def close(self) -> int:
        """The exit code of a command that has ended."""
        if self.process.stderr:
            sys.stderr.write(self.process.stderr.read().decode(errors="replace"))
        if self.file:
            self.file.close()
            if not self.process.returncode:
                self.command.partial.rename(self.command.output)
        return self.process.returncode

    def end(self) -> None:
        """End the whole group, by force if it does not follow."""
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(seconds)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def run(commands: Sequence[Command], side_by_side: Optional[int] = None) -> int:
    """Run commands, and end them all where this program gets SIGINT or SIGTERM.

    Args:
        side_by_side: how many at once; then all are run, whichever fails. Absent: one after the other, to the first
            that fails.

    Returns:
        0, or the exit code of the first that has failed.
    """
    waiting, running, done, failed, shown = list(commands), [], 0, 0, 0.0
    with signals_noted() as noted:
        while running or (waiting and (side_by_side or not failed)):
            while waiting and len(running) < (side_by_side or 1):
                command = waiting.pop(0)
                say(command.note)
                running.append(Running(command))
            time.sleep(0.05)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                say("")
                code = one.close()
                failed, done = failed or code, done + 1
            if noted:
                for one in running:
                    one.end()
                say("")
                sys.exit(128 + noted[0])
            if time.monotonic() - shown > 1:
                show([one.command for one in running], done, len(commands))
                shown = time.monotonic()
    return failed


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """A list of the signals to end that come."""
    noted: list[int] = []

    def handler(number: int, frame: Optional[FrameType]) -> None:
        noted.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def say(text: str) -> None:
    """Print a line in place of the line of progress."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    if text:
        print(text, file=sys.stderr, flush=True)


def show(running: Sequence[Command], done: int, total: int) -> None:
    """On a terminal, one line: how many trainings have ended, and which update the others are at."""
    trainings = [progress(command) for command in running if command.log]
    if trainings and sys.stderr.isatty():
        text = f"{done} of {total} trained; " + ", ".join(trainings)
        sys.stderr.write(f"\r\033[K{text[: shutil.get_terminal_size().columns - 1]}")
        sys.stderr.flush()


def progress(command: Command) -> str:
    """A training's name and update, such as ``continuous-seed1 340/600``."""
    try:
        with command.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 100_000))
            updates = re.findall(rb'"num_updates": "(\d+)"', log.read())
    except OSError:
        updates = []
    *_, limit = [None, *(value for option, value in zip(command.words, command.words[1:]) if option == "--max-update")]
    return f"{command.log.parent.name} {int(updates[-1]) if updates else 0}" + (f"/{limit}" if limit else "")
