"""∞-former (Infinite Memory Transformer) for fairseq: ``--user-dir fairseq_infformer`` registers it.

Where fairseq is not installed, ``fairseq_infformer.modules`` works all the same.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Some modules of fairseq configure the root logger as they are imported; that is up to the program."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers[:]
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


# By a link or a copy of another name; fairseq would go on to import all of it once more, by the name in its imports.
if __name__ != "fairseq_infformer":
    from .errors import InputError, print_in_one_line

    _folder = Path(__file__).resolve().parent
    print_in_one_line()
    raise InputError(
        f"the plugin must be imported as fairseq_infformer, not as {__name__}: give --user-dir "
        f"{_folder if _folder.name == 'fairseq_infformer' else 'a folder of that name'}"
    )

if find_spec("fairseq") is not None:
    with _quiet_import():
        from . import compat, criterions, errors, optim  # noqa: F401  (each registers what it defines)
        from .models import architectures  # noqa: F401
        from .tasks import streaming_language_modeling  # noqa: F401

    errors.print_in_one_line()
