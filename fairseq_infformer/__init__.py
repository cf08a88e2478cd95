"""∞-former (Infinite Memory Transformer): ``fairseq_infformer.modules`` for PyTorch, ``--user-dir`` for fairseq.

Importing this package changes nothing: everything that changes fairseq is in ``plugin``, which fairseq imports with the
tasks and models.
"""

from pathlib import Path

__version__ = "0.1.0"

# Imported by another name, through a link or a copy; the imports inside would import all of it a second time.
if __name__ != "fairseq_infformer":
    from .errors import InputError, install_one_line_messages

    _folder = Path(__file__).resolve().parent
    install_one_line_messages()
    raise InputError(
        f"the plugin must be imported as fairseq_infformer, not as {__name__}; give --user-dir "
        f"{_folder if _folder.name == 'fairseq_infformer' else 'a folder of that name'}"
    )
