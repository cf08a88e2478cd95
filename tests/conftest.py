"""Data and a trained model that several tests share."""

import os
from pathlib import Path
from typing import Optional

import pytest
import torch

# A graph that was compiled and kept before a gradient's operator changed its arguments is taken again as it was.
# What the C++ compiler made is found by its source, and stays.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
os.environ["TORCH_DYNAMO_AUTOMATIC_DYNAMIC_LOCAL_PGO"] = "0"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


from command_line import as_flags, run_forked, train


def pytest_make_parametrize_id(val: object, argname: str) -> Optional[str]:
    """Settings and flags as they are typed, types and functions by their names; pytest names all else."""
    if isinstance(val, (dict, list, tuple)):
        return readable(val) or f"no {argname}"
    return readable(val) if isinstance(val, torch.dtype) or hasattr(val, "__name__") else None


def readable(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={readable(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(readable, value))
    if isinstance(value, torch.Tensor):
        return f"tensor{tuple(value.shape)}"
    return getattr(value, "__name__", str(value).removeprefix("torch."))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)


@pytest.fixture(scope="session", autouse=True)
def quick_configuration() -> None:
    """Let fairseq's commands start in a third of the time."""
    try:
        import quick_hydra
    except ImportError:
        return  # where fairseq is not installed
    quick_hydra.install()


@pytest.fixture(scope="session")
def documents(tmp_path_factory) -> Path:
    """Binarised documents: 96 for training and 4 each for validation and test, of 200 words and two line ends."""
    folder = tmp_path_factory.mktemp("documents")
    generate = ["--dest", folder / "raw", "--documents", 96, "--length", 200]
    run_forked("preprocess.generate_documents", *generate)
    prepare = ["--level", "word", "--documents", "blank-line"]
    run_forked("infformer-prepare", "--raw", folder / "raw", "--dest", folder / "data", *prepare)

    from in_process import training_configuration

    training_configuration(folder / "data", folder / "save")  # forked processes have what hydra has loaded
    return folder / "data"


@pytest.fixture(scope="session")
def trained(documents, tmp_path_factory) -> tuple[Path, str]:
    """A checkpoint of a few updates of 16 tokens per segment, with its training log."""
    save = tmp_path_factory.mktemp("trained")
    log = train(
        documents,
        save,
        *as_flags(
            tokens_per_sample=16,
            document_boundaries="reset",
            batch_size=24,
            batch_size_valid=4,
            max_update=100,
            lr="1e-2",
            log_interval=10,
            no_epoch_checkpoints=True,
            tensorboard_logdir=save / "tensorboard",
        ),
    ).stdout
    return save / "checkpoint_last.pt", log
