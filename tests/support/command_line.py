"""Running the project's commands as a user does."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from forking import ROOT, start_command

BIN = Path(sys.executable).parent
# One thread per process, unless threads are what is tried.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONWARNINGS": "ignore", "PYTHON": sys.executable}
TASK = ["--user-dir", str(ROOT / "fairseq_infformer"), "--task", "streaming_language_modeling"]


def as_flags(**values: object) -> list[str]:
    """Options of a command line: ``stm_length=8`` is ``--stm-length 8``, and ``cpu=True`` is ``--cpu``."""
    flags = []
    for name, value in values.items():
        flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return flags


TINY = as_flags(
    arch="infinite_former_lm_tiny",
    decoder_embed_dim=32,
    decoder_ffn_embed_dim=32,
    stm_length=8,
    ltm_basis=16,
    ltm_samples=16,
    ltm_widths="0.05,0.2",
    criterion="ltm_cross_entropy",
    optimizer="adam",
    lr="3e-3",
    clip_norm=0.25,
    log_format="simple",
    num_workers=0,  # fairseq waits up to five seconds for the end of a worker
    cpu=True,
)


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
    return checked(done) if check else done


def checked(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """A process that has ended; AssertionError with what it printed if it failed."""
    printed = f"{done.stdout[-4000:]}\n{(done.stderr or '')[-4000:]}"
    assert not done.returncode, f"{done.args} exited with {done.returncode}:\n{printed}"
    return done


def run_forked(*command: object, check: bool = True, stderr: int = subprocess.STDOUT) -> subprocess.CompletedProcess:
    """``run`` for a console script, by its name, a file of Python or a module of recipes, without a new interpreter.

    A test of its own holds each of the console scripts of fairseq and this project as a shell starts it.
    """
    done = start_command(*command, stderr=stderr).wait()
    return checked(done) if check else done


def run_here(main: Callable[[], Any], *argv: object) -> tuple[int, str]:
    """Run a command's main function in this process, where nothing it prints matters: exit code and standard error."""
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
    return run_forked("fairseq-train", data, *TASK, *TINY, "--save-dir", save, *more, check=check)


def eval_lm(data: Path, checkpoint: Path, *more: object, check: bool = True) -> subprocess.CompletedProcess:
    return run_forked(
        "fairseq-eval-lm", data, *TASK, "--path", checkpoint, "--cpu", "--num-workers", 0, *more, check=check
    )


def perplexity(text: str) -> float:
    """What fairseq-eval-lm printed."""
    return float(re.findall(r"Perplexity: ([\d.]+)", text)[-1])


def scored(text: str) -> int:
    """How many tokens fairseq-eval-lm said that it scored."""
    return int(re.findall(r"Evaluated ([\d,]+) tokens", text)[-1].replace(",", ""))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def logged(text: str, part: str, name: str) -> list[float]:
    """The values of a figure in the lines of ``part`` (train_inner, train or the split's name) of a training log."""
    lines = [line for line in text.splitlines() if f"| {part} |" in line]
    return [float(value) for line in lines for value in re.findall(rf"\b{name}[= ]([-\d.e]+)", line)]


def infformer_eval(data: Path, checkpoint: Path, *more: object) -> dict[str, Any]:
    """What ``infformer-eval --json`` prints on its standard output; to a file, it says nothing else."""
    command = ["infformer-eval", data, "--path", checkpoint, "--json", "--cpu", *more]
    done = run_forked(*command, stderr=subprocess.PIPE)
    assert done.stderr == ""
    return json.loads(done.stdout)
