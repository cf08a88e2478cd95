"""∞-former (Infinite Memory Transformer): ``fairseq_infformer.modules`` for PyTorch, ``--user-dir`` for fairseq.

Importing this package changes nothing: what touches fairseq is in ``plugin``, which fairseq imports with the tasks and
models.
"""

from pathlib import Path

__version__ = "0.1.0"

# By a link or a copy of another name; fairseq would go on to import all of it once more, by the name in its imports.
if __name__ != "fairseq_infformer":
    from .errors import InputError, install_one_line_messages

    _folder = Path(__file__).resolve().parent
    install_one_line_messages()
    raise InputError(
        f"the plugin must be imported as fairseq_infformer, not as {__name__}: give --user-dir "
        f"{_folder if _folder.name == 'fairseq_infformer' else 'a folder of that name'}"
    )
