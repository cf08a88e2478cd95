"""Console scripts; each reports in one line if a package that it needs is not installed."""

import sys
from importlib import import_module
from importlib.util import find_spec

from fairseq_infformer.errors import install_one_line_messages

if find_spec("fairseq") is not None:
    import fairseq_infformer.plugin  # noqa: F401  (before anything else imports fairseq, which would log otherwise)


def infformer_prepare() -> None:
    _run("infformer-prepare", "prepare")


def infformer_eval() -> None:
    _run("infformer-eval", "evaluate")


def infformer_export() -> None:
    _run("infformer-export", "export")


def infformer_read() -> None:
    _run("infformer-read", "read")


def infformer_generate() -> None:
    _run("infformer-generate", "generate")


def infformer_inspect() -> None:
    _run("infformer-inspect", "inspection")


def infformer_architecture() -> None:
    _run("infformer-architecture", "architecture")


def infformer_lm_eval() -> None:
    _run("infformer-lm-eval", "harness", needs="lm_eval", extra="eval")


def infformer_simultaneous() -> None:
    _run("infformer-simultaneous", "simultaneous")


def _run(script: str, module: str, needs: str = "fairseq", extra: str = "fairseq") -> None:
    if find_spec(needs) is None:
        sys.exit(
            f"error: {script} needs {needs}, which is not installed; run recipes/setup.sh"
            f"{'' if extra == 'fairseq' else f' --extras {extra}'}, or pip install fairseq-infformer[{extra}]"
        )
    install_one_line_messages()
    import_module(f"{__name__}.{module}").main()
