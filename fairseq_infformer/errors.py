"""User errors, reported in one line."""

import re
import sys
from types import TracebackType
from typing import Optional

from torch.multiprocessing import ProcessRaisedException


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names it and says what to do."""


def option(name: str) -> str:
    """A setting's name as it is typed: ``stm_length`` is ``--stm-length``."""
    return f"--{name.replace('_', '-')}"


def one_line(error: BaseException, with_type: bool = False) -> str:
    """The message of an error that others have raised, for use within a message of one line."""
    return " ".join((f"{type(error).__name__}: {error}" if with_type else str(error)).split()).rstrip(": ")


def _cause(error: Optional[BaseException]) -> Optional[InputError]:
    # fairseq wraps some errors in others ("Cannot load model parameters …"): the cause is what helps.
    while error is not None:
        if isinstance(error, InputError):
            return error
        if isinstance(error, ProcessRaisedException):  # of fairseq's process for one GPU; its traceback comes as text
            line = re.search(rf"^{re.escape(__name__)}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE)
            return InputError(line[1]) if line else None
        error = error.__cause__ or error.__context__
    return None


def install_one_line_messages() -> None:
    """Make an InputError that nobody catches end the program with its message instead of a traceback."""
    previous = sys.excepthook

    def hook(error_type: type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        user_error = _cause(error)
        if user_error is None:
            previous(error_type, error, traceback)
        else:
            print(f"error: {user_error}", file=sys.stderr)

    sys.excepthook = hook
