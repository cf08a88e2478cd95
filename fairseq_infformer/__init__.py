"""∞-former (Infinite Memory Transformer) for fairseq: ``--user-dir fairseq_infformer`` registers it.

Where fairseq is not installed, ``fairseq_infformer.modules`` works all the same.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("fairseq") is not None:
    from . import compat, criterions, errors, optim  # noqa: F401  (each registers what it defines)
    from .models import architectures  # noqa: F401
    from .tasks import streaming_language_modeling  # noqa: F401

    errors.print_in_one_line()
