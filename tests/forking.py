"""Work in a process of its own, without the start of another interpreter."""

import os
from collections.abc import Callable

from fairseq_infformer.errors import InputError


def fork(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process, whose exit code is 3 if it was told an InputError and 1 if it failed else."""
    child = os.fork()
    if not child:
        code = 1
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
