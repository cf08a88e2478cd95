"""Mistakes of a user, told in one line."""

import re
import sys
from types import TracebackType
from typing import Optional

from torch.multiprocessing import ProcessRaisedException


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names it and says what to do."""


def _find(error: Optional[BaseException]) -> Optional[InputError]:
    # fairseq wraps some errors in others ("Cannot load model parameters …"): the cause is what helps.
    while error is not None:
        if isinstance(error, InputError):
            return error
        if isinstance(error, ProcessRaisedException):  # fairseq's process for one GPU; its traceback comes as text
            named = re.search(rf"^{re.escape(__name__)}\.{InputError.__name__}: (.*)$", str(error), re.MULTILINE)
            return InputError(named[1]) if named else None
        error = error.__cause__ or error.__context__
    return None


def install_one_line_messages() -> None:
    """Make an InputError that nobody catches end the program with its message instead of a traceback."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Optional[TracebackType]) -> None:
        mistake = _find(error)
        if mistake is None:
            previous(kind, error, traceback)
        else:
            print(f"error: {mistake}", file=sys.stderr)

    sys.excepthook = hook
