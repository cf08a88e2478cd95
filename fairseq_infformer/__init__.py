"""∞-former (Infinite Memory Transformer) for fairseq: ``--user-dir fairseq_infformer`` registers it."""

from . import compat, criterions, errors, models, tasks  # noqa: F401  (each registers what it defines)

errors.print_in_one_line()
