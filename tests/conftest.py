"""Data and a trained model that several tests share."""

import os
from pathlib import Path

import pytest
import torch

# A graph that was compiled and kept before a gradient's operator changed its arguments is taken again as it was.
# What the C++ compiler made is found by its source, and stays.
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] = "0"
os.environ["TORCH_DYNAMO_AUTOMATIC_DYNAMIC_LOCAL_PGO"] = "0"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import copy
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from command_line import run_forked, train


@pytest.fixture(scope="session", autouse=True)
def quick_hydra() -> None:
    """A quarter of the time in which hydra makes fairseq's configuration, which each command does anew.

    It parses the same three hundred settings, finds and joins the defaults of the same choice of a task, a model and so
    on, and copies all that it knows although nothing here changes that.
    """
    try:
        from hydra._internal import config_loader_impl, config_repository
        from hydra.core.config_store import ConfigStore
        from hydra.core.override_parser.overrides_parser import OverridesParser
    except ImportError:
        return  # where fairseq is not installed
    parse = OverridesParser.parse_rule
    parser = OverridesParser.create()
    parsed = lru_cache(maxsize=None)(lambda text, rule: parse(parser, text, rule))
    OverridesParser.parse_rule = lambda self, text, rule: copy.copy(parsed(text, rule))
    config_repository.copy = SimpleNamespace(deepcopy=copy.copy)

    loader = config_loader_impl.ConfigLoaderImpl
    find, join = config_loader_impl.create_defaults_list, loader._compose_config_from_defaults_list
    found, joined = {}, {}

    def find_once(repo: Any, config_name: str, overrides_list: list[Any], **how: bool) -> Any:
        choices = [override for override in overrides_list if "." not in override.key_or_group]
        settings = [override for override in overrides_list if "." in override.key_or_group]
        sources = [(source.provider, source.path) for source in repo.get_sources()]
        key = str((sources, config_name, [override.input_line for override in choices], how))
        if key not in found:
            found[key] = find(repo=repo, config_name=config_name, overrides_list=choices, **how)
        return replace(found[key], config_overrides=[*found[key].config_overrides, *settings])

    def join_once(self: Any, defaults: list[Any], repo: Any) -> Any:
        if id(defaults) not in joined:  # those that were found stay
            joined[id(defaults)] = join(self, defaults=defaults, repo=repo)
        return copy.deepcopy(joined[id(defaults)])

    def store_and_forget(self: Any, *arguments: Any, **options: Any) -> None:
        store(self, *arguments, **options)  # such as the options of a memory of a user's own
        found.clear()
        joined.clear()

    store = ConfigStore.store
    ConfigStore.store = store_and_forget
    config_loader_impl.create_defaults_list = find_once
    loader._compose_config_from_defaults_list = join_once


@pytest.fixture(scope="session")
def documents(tmp_path_factory) -> Path:
    """Binarised documents: 24 for training and one each for validation and test, of 200 words and two line ends."""
    folder = tmp_path_factory.mktemp("documents")
    generate = ["--dest", folder / "raw", "--documents", 96, "--length", 200]
    run_forked("preprocess.generate_documents", *generate)
    prepare = ["--level", "word", "--documents", "blank-line"]
    run_forked("infformer-prepare", "--raw", folder / "raw", "--dest", folder / "data", *prepare)

    from in_process import training_configuration

    training_configuration(folder / "data", folder / "save")  # what hydra has found is there in forked processes too
    return folder / "data"


@pytest.fixture(scope="session")
def trained(documents, tmp_path_factory) -> tuple[Path, str]:
    """A checkpoint of a few updates at 16 tokens a segment, with its training log."""
    save = tmp_path_factory.mktemp("trained")
    log = train(
        *(documents, save, "--tokens-per-sample", 16, "--document-boundaries", "reset", "--batch-size", 24),
        *("--batch-size-valid", 4, "--max-update", 100, "--lr", "1e-2", "--log-interval", 10, "--no-epoch-checkpoints"),
        *("--tensorboard-logdir", save / "tensorboard"),
    ).stdout
    return save / "checkpoint_last.pt", log
