"""Work in a process of its own, without the start of another interpreter."""

import gc
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional, TextIO

import torch
from tqdm import tqdm

from fairseq_infformer.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process, whose exit code is 3 after an InputError and 1 after any other failure."""
    child = os.fork()
    if not child:
        code = 1
        # Whatever it waits for: a copy of a process has none of its other threads.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(300)
        gc.freeze()  # a collection would touch, and so copy, all that it shares with this process
        # Processes share tqdm's own lock, and one that is killed while it holds it keeps it for ever.
        tqdm.set_lock(threading.RLock())
        try:
            work()
            code = 0
        except InputError:
            code = 3
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a process; its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Command(NamedTuple):
    """A command in a forked process, with the files that it prints to: ``stderr`` is None where both are one."""

    words: list[str]
    child: int
    stdout: TextIO
    stderr: Optional[TextIO]

    def wait(self) -> subprocess.CompletedProcess:
        """Wait for its end; what it printed comes back as text."""
        code = ended(self.child)
        printed = []
        for file in filter(None, (self.stdout, self.stderr)):
            file.seek(0)
            printed.append(file.read())
            file.close()
        return subprocess.CompletedProcess(self.words, code, *printed)


def start_command(
    *command: object,
    stderr: int = subprocess.STDOUT,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], object] = lambda: None,
) -> Command:
    """Start a console script, by its name, a file of Python, by its path, or a module, in a forked process.

    It has all that this process has imported, which is most of what a start costs, and otherwise what a process of its
    own would have. ``before`` is called in it first.
    """
    import torch._dynamo  # noqa: F401 (which each would import anew)

    # By --user-dir, a copy of a process that has imported the package would get no plugin.
    import fairseq_infformer.plugin  # noqa: F401

    words = [str(word) for word in command]
    main = _main(words[0])
    out = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by wait)
    error = tempfile.TemporaryFile("w+") if stderr == subprocess.PIPE else None  # noqa: SIM115

    def work() -> None:
        os.chdir(ROOT)
        os.environ.update(environment or {})
        run_command(words, main, out.fileno(), (error or out).fileno(), before)

    return Command(words, fork(work), out, error)


def run_command(
    words: Sequence[str],
    main: Callable[[], Any],
    out: int,
    error: int,
    before: Callable[[], object] = lambda: None,
) -> NoReturn:
    """Run the main function of a command in this forked process, which prints to these open files and then ends."""
    os.dup2(out, 1)
    os.dup2(error, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = list(words)
    logging.root.handlers.clear()
    if Path(words[0]).name.startswith("fairseq-"):
        form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
        logging.basicConfig(format=form, level="INFO", stream=sys.stdout)
    torch.set_num_threads(1)  # those of this process's pool are not in the copy, which would wait for them
    before()
    try:
        sys.exit(main())
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        code = 1
        sys.excepthook(*sys.exc_info())
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _main(name: str) -> Callable[[], Any]:
    if name.endswith(".py") or name.startswith(("recipes.", "preprocess.")):
        return partial(_run_as_main, name)
    (script,) = entry_points(group="console_scripts", name=name)
    return script.load()


def _run_as_main(name: str) -> None:
    if name.endswith(".py"):
        runpy.run_path(name, run_name="__main__")
    else:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
