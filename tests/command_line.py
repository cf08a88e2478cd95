"""Running the project's commands as a user does."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
TASK = ["--user-dir", str(ROOT / "fairseq_infformer"), "--task", "streaming_language_modeling"]
TINY = [
    *("--arch", "infinite_former_lm_tiny", "--decoder-embed-dim", "32", "--decoder-ffn-embed-dim", "32"),
    *(
        "--stm-length",
        "8",
        "--ltm-basis",
        "16",
        "--ltm-samples",
        "16",
        "--ltm-widths",
        "0.05,0.2",
        "--criterion",
        "ltm_cross_entropy",
    ),
    *("--optimizer", "adam", "--lr", "3e-3", "--clip-norm", "0.25", "--log-format", "simple", "--cpu"),
]


def run(
    *command: object, check: bool = True, timeout: int = 300, stderr: int = subprocess.STDOUT
) -> subprocess.CompletedProcess:
    """Run a command; its two outputs come back as one text in ``stdout``, unless ``stderr`` says otherwise."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=timeout,
    )
    if check and done.returncode:
        printed = f"{done.stdout[-4000:]}\n{(done.stderr or '')[-4000:]}"
        raise AssertionError(f"{command} exited with {done.returncode}:\n{printed}")
    return done


def run_here(main: Callable[[], Any], *argv: object) -> tuple[int, str]:
    """Run a command's main function in this process, which saves the start of another: exit code and standard error."""
    from fairseq import checkpoint_utils

    # fairseq remembers the best loss between two calls; a process of its own would not.
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    error, code = io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["command", *map(str, argv)]), contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as mistake:
            code = 1
            sys.excepthook(type(mistake), mistake, mistake.__traceback__)
    return code, error.getvalue()


def one_error(text: str) -> str:
    """The line that names the mistake; there must be no traceback beside it."""
    assert "Traceback" not in text, text[-3000:]
    errors = [line for line in text.splitlines() if re.match(r"(\S+: )?error: ", line)]
    assert len(errors) == 1, text[-3000:]
    return errors[0]


def train(data: Path, save: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    return run(BIN / "fairseq-train", data, *TASK, *TINY, "--save-dir", save, *more, check=check)


def eval_lm(data: Path, checkpoint: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    return run(BIN / "fairseq-eval-lm", data, *TASK, "--path", checkpoint, "--cpu", *more, check=check)


def perplexity(text: str) -> float:
    """What fairseq-eval-lm printed."""
    return float(re.findall(r"Perplexity: ([\d.]+)", text)[-1])


def scored(text: str) -> int:
    """How many tokens fairseq-eval-lm said that it scored."""
    return int(re.findall(r"Evaluated ([\d,]+) tokens", text)[-1].replace(",", ""))


def logged(text: str, kind: str, name: str) -> list[float]:
    """The values of a figure in the lines of ``kind`` (train_inner, train or the split's name) of a training log."""
    lines = [line for line in text.splitlines() if f"| {kind} |" in line]
    return [float(value) for line in lines for value in re.findall(rf"\b{name}[= ]([-\d.e]+)", line)]


def infformer_eval(data: Path, checkpoint: Path, *more: object) -> dict[str, Any]:
    """What ``infformer-eval --json`` prints on its standard output; to a file, it says nothing else."""
    command = [BIN / "infformer-eval", data, "--path", checkpoint, "--json", "--cpu", *more]
    done = run(*command, stderr=subprocess.PIPE)
    assert done.stderr == ""
    return json.loads(done.stdout)
