"""The check of everything that users register under a name."""

import sys


def check_plugin(addition: type) -> None:
    """End a command of fairseq with one line if the user's plugin that registers ``addition`` lacks the project's own.

    fairseq imports one plugin. Without ``import fairseq_infformer.plugin`` in it, fairseq knows neither task nor model,
    and says only that they are no choices.
    """
    own = addition.__module__.partition(".")[0] == __name__.partition(".")[0]
    if not own and "fairseq_cli" in sys.modules and "fairseq_infformer.plugin" not in sys.modules:
        sys.exit(
            f"error: the plugin that registers {addition.__qualname__} must begin with `import "
            "fairseq_infformer.plugin`; add that line to it"
        )
