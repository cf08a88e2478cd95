"""fairseq's trainings on a GPU: every precision with a resume, ranks over NCCL, and the paper's sorting task."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch

from recipes import runs
from recipes.gpu.agreement import Row, deviation, failed

ROOT = Path(__file__).resolve().parents[2]
STREAMS = ["--task", "streaming_language_modeling", "--tokens-per-sample", "16", "--document-boundaries", "reset"]
PRECISIONS = {
    "float32": [],
    "bf16": ["--bf16"],
    "fp16": ["--fp16"],
    "amp": ["--amp"],
    "ltm_adam": ["--optimizer", "ltm_adam"],
    "fp16, ltm_adam": ["--fp16", "--fp16-no-flatten-grads", "--optimizer", "ltm_adam"],
}
NEED_A_GPU = ("--fp16", "--amp")
# A loss is logged with three digits behind the point.
ROUNDING = 2e-3
# How far weights may be after a resume from those of a whole run, in parts of their norm; or in those of what separates
# two whole runs.
RESUME, TIMES_THE_NOISE = 1e-6, 4
# How far the loss of a half precision may be from float32's after as many updates, in parts of it.
PRECISION = 0.03


def check_precisions(device: torch.device, small: bool, work: Path) -> Iterator[Row]:
    """Train in each precision, and once more from the checkpoint in the middle."""
    updates = 4 if small else 50
    data = documents(work, 64 if small else 512)
    exact: dict[bool, float] = {}  # the last loss in float32, without and with rates of the memory's own
    for name, flags in PRECISIONS.items():
        own_rate = "ltm_adam" in flags
        if (device.type == "cpu" and set(flags) & set(NEED_A_GPU)) or (small and own_rate):
            continue
        try:
            training = trained_and_resumed(data, work / name.replace(", ", "-"), device, updates, flags)
        except Exception as failure:
            yield failed(f"training, {name}", failure)
            continue
        last = exact.setdefault(own_rate, training.losses[-1])
        error = abs(training.losses[-1] - last) / last
        yield {
            "what": f"training, {name}: loss after {updates} updates beside float32's",
            "error": error,
            "allowed": PRECISION,
            "ok": error <= PRECISION and training.losses[-1] < training.losses[0],
        }
        allowed = max(RESUME, TIMES_THE_NOISE * training.noise)
        yield {
            "what": f"training, {name}: weights after a resume beside those of a whole run",
            "error": training.resumed,
            "allowed": allowed,
            "ok": training.resumed <= allowed,
        }


class Training(NamedTuple):
    """What a training, and the second half of it from its checkpoint, came to."""

    losses: list[float]  # of the whole
    resumed: float  # how far the weights are from the whole's, in parts of their norm
    noise: float  # how far those of the same training again are; 0 where nobody had to ask


def trained_and_resumed(data: Path, save: Path, device: torch.device, updates: int, flags: list[str]) -> Training:
    """Train, and train the second half once more from the checkpoint in the middle."""
    shutil.rmtree(save, ignore_errors=True)
    losses = train(data, save / "whole", device, updates, [*flags, "--save-interval-updates", str(updates // 2)])
    (save / "resumed").mkdir()
    middle = next((save / "whole").glob(f"checkpoint_*_{updates // 2}.pt"))
    shutil.copyfile(middle, save / "resumed/checkpoint_last.pt")
    train(data, save / "resumed", device, updates, flags)
    resumed = deviation(weights(save / "resumed"), weights(save / "whole"))
    noise = 0.0
    if resumed > RESUME:  # some of a GPU's sums come in another order each time
        train(data, save / "again", device, updates, flags)
        noise = deviation(weights(save / "again"), weights(save / "whole"))
    shutil.rmtree(save)
    return Training(losses, resumed, noise)


def weights(save: Path) -> list[torch.Tensor]:
    """All weights of the last checkpoint, as one."""
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(str(save / "checkpoint_last.pt"))["model"]
    return [torch.cat([state[name].double().flatten() for name in sorted(state) if state[name].is_floating_point()])]


def documents(work: Path, count: int) -> Path:
    """Binarised documents, made once."""
    data = work / f"documents-{count}"
    raw = work / f"raw-{count}"
    if not (data / "dict.txt").exists():
        shutil.rmtree(raw, ignore_errors=True)
        call("-m", "preprocess.generate_documents", "--dest", raw, "--documents", count)
        prepare = ["--raw", raw, "--dest", data, "--level", "word", "--documents", "blank-line"]
        call("-m", "fairseq_infformer.cli.prepare", *prepare)
    return data


def call(*command: object) -> None:
    """Run Python with these arguments; RuntimeError with the last line that it printed, if it fails."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, text=True, capture_output=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        named = [line for line in lines if "rror: " in line and "ChildFailedError" not in line] or lines
        raise RuntimeError(named[-1] if named else f"exit code {done.returncode}")


def arguments(data: Path, save: Path, updates: int, batch: int) -> list[str]:
    """Those of fairseq-train for the quickstart's model."""
    return [
        *(str(data), "--user-dir", str(ROOT / "fairseq_infformer"), *STREAMS, "--arch", "infinite_former_lm_tiny"),
        *("--criterion", "ltm_cross_entropy", "--optimizer", "adam", "--lr", "1e-3", "--clip-norm", "0.25"),
        *("--batch-size", str(batch), "--max-update", str(updates), "--seed", "1", "--num-workers", "0"),
        *("--save-dir", str(save), "--disable-validation", "--no-epoch-checkpoints"),
        *("--log-format", "json", "--log-interval", "1", "--log-file", str(save / "train.log")),
    ]


def train(data: Path, save: Path, device: torch.device, updates: int, flags: list[str], batch: int = 16) -> list[float]:
    """Train in this process; the losses of the updates that this call has made."""
    from fairseq import checkpoint_utils
    from fairseq_cli import train as fairseq_train

    save.mkdir(parents=True, exist_ok=True)
    (save / "train.log").unlink(missing_ok=True)
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps it from one call to the next
    given = [*arguments(data, save, updates, batch), *flags, "--distributed-world-size", "1"]
    given += ["--cpu"] if device.type == "cpu" else []
    quiet = (contextlib.redirect_stdout(sys.stderr), mock.patch.object(sys, "argv", ["fairseq-train", *given]))
    with quiet[0], quiet[1]:
        fairseq_train.cli_main()
    return losses(save / "train.log")


def losses(log: Path) -> list[float]:
    """The loss of each update in a file that ``--log-file`` has named: JSON, without the names of what logged it."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"')]
    return [float(entry["loss"]) for entry in entries if "loss" in entry and "num_updates" in entry]


def check_ranks(device: torch.device, small: bool, work: Path) -> Iterator[Row]:
    """One process against as many as there are cards, over NCCL; on the CPU two, over gloo."""
    updates, batch = (2, 16) if small else (20, 64)
    ranks = torch.cuda.device_count() if device.type == "cuda" else 1
    batch -= batch % ranks
    data = documents(work, 64 if small else 512)
    one, several = work / "ranks-one", work / "ranks-several"
    for save in (one, several):
        shutil.rmtree(save, ignore_errors=True)
        save.mkdir(parents=True)
    what = f"training in {ranks} process{'es' * (ranks > 1)} of torchrun beside one without it"
    try:
        alone = train(data, one, device, updates, ["--no-save"], batch)
        given = [*arguments(data, several, updates, batch // ranks), "--no-save"]
        given += ["--cpu"] if device.type == "cpu" else []
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m", "fairseq_cli.train"]
        call(*launcher, *given)
        together = losses(several / "train.log")
    except Exception as failure:
        yield failed(what, failure)
        return
    error = max(abs(a - b) for a, b in zip(alone, together))
    allowed = ROUNDING + 0.01 * alone[-1]
    yield {"what": what, "error": error, "allowed": allowed, "ok": len(together) == updates and error <= allowed}


def sort(device: torch.device, small: bool, work: Path, seconds: float) -> Iterator[Row]:
    """Train on the sorting task for as long as there is time, by its recipe, which resumes; how far it came."""
    folder = work / "sorting"
    size = ["--size", "tiny", "--length", "60"] if small else ["--size", "paper"]
    command = [ROOT / "recipes/sorting/run.sh", *size, "--memory", "continuous", "--seeds", "1", "--dir", folder]
    command += ["--stage", "1", "--stop-stage", "2", "--", *(["--cpu", "--max-update", "10"] if small else [])]
    deadline = time.monotonic() + seconds
    process = subprocess.Popen([str(word) for word in command], stdout=sys.stderr, start_new_session=True)
    try:
        process.wait(max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    saves = list(folder.glob("*/continuous-seed1/train.log"))
    found = runs.training(saves[0].parent) if saves else {"updates": 0}
    what = "sorting, size paper, continuous memory"
    if not found["updates"]:
        yield {"what": what, "failed": f"no update in {seconds:.0f} s; see {folder}", "ok": False}
        return
    curve = found["curve"]
    each = found["seconds"] / found["updates"]
    yield {
        "what": f"{what}: {found['updates']} updates, {each:.3f} s each, {curve['accuracy'][-1]:.1f} % correct",
        "ok": True,
        "updates": found["updates"],
        "seconds_per_update": each,
        "curve": curve,
    }
