"""Work in a process of its own, without the start of another interpreter."""

import os
import signal
import threading
from collections.abc import Callable

from tqdm import tqdm

from fairseq_infformer.errors import InputError


def fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process, whose exit code is 3 if it was told an InputError and 1 if it failed else."""
    child = os.fork()
    if not child:
        code = 1
        # Whatever it waits for: a copy of a process has none of its other threads.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(300)
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
