"""Everything that changes fairseq's behaviour, installed once when this package is imported.

fairseq imports it with ``fairseq_infformer``'s tasks and models. A user's own plugin must begin with
``import fairseq_infformer.plugin``.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Leave the root logger to the program; some modules of fairseq configure it when they are imported."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers[:]
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


with _quiet_import():
    from fairseq_infformer import criterions, errors, optim  # noqa: F401  (each registers what it defines)

    from . import checkpoint_files, hooks, patches


def install() -> None:
    """Patch and hook fairseq, in this order; importing this package calls it."""
    patches.allow_configurations()
    patches.silence_pinned_memory()
    patches.allow_cpu_ddp()
    patches.find_validation_splits()
    patches.keep_last_batch()
    patches.keep_float32_weights()
    patches.average_weights_once()
    checkpoint_files.replace_checkpoints_whole()
    checkpoint_files.explain_unreadable_checkpoints()
    checkpoint_files.refuse_partial_resume()  # must follow the line above, which would explain its errors once more
    hooks.check_before_run()
    hooks.check_before_hydra_run()
    hooks.explain_missing_values()
    hooks.collect_memory_before_saving()
    hooks.check_before_generate()
    hooks.explain_optimizer_errors()
    hooks.explain_long_sentences()
    hooks.refuse_early_options()
    errors.install_one_line_messages()


install()
with _quiet_import():
    from fairseq_infformer.models import (  # noqa: F401
        architectures,
        dartsformer,
        memformer_lm,
        pretrained_lm,
        streaming_translation,
    )
    from fairseq_infformer.tasks import (  # noqa: F401
        streaming_language_modeling,
        streaming_speech_translation,
        translation_search,
    )
