"""The time in which hydra makes fairseq's configuration, cut to a third; each command does so anew.

Of some three hundred settings that each command passes on, almost all are the same from command to command. Each is
parsed once here, and the configuration of the same choice of a task, a model and so on is composed once and copied.
"""

import copy
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from hydra._internal import config_loader_impl, config_repository
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict


def install() -> None:
    """Replace what is slow in hydra, for good."""
    parse = OverridesParser.parse_rule
    parser = OverridesParser.create()
    parsed = lru_cache(maxsize=None)(lambda text, rule: parse(parser, text, rule))
    OverridesParser.parse_rule = lambda self, text, rule: copy.copy(parsed(text, rule))
    config_repository.copy = SimpleNamespace(deepcopy=copy.copy)  # nothing here changes what hydra has loaded

    loader = config_loader_impl.ConfigLoaderImpl
    compose, store = loader._load_configuration_impl, ConfigStore.store
    composed: dict[str, DictConfig] = {}

    def compose_once(self: Any, config_name: str, overrides: list[str], run_mode: RunMode, **how: bool) -> DictConfig:
        if how.get("from_shell", True):  # fairseq asks for less: it drops what hydra says of itself
            return compose(self, config_name, overrides, run_mode, **how)
        every, repository = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        choices = [override.input_line for override in every if "." not in override.key_or_group]
        sources = [(source.provider, source.path) for source in repository.get_sources()]
        key = str((sources, config_name, choices, run_mode, how))
        if key not in composed:
            composed[key] = compose(self, config_name, choices, run_mode, **how)
            with open_dict(composed[key]):
                del composed[key]["hydra"]
        config = copy.deepcopy(composed[key])
        self._apply_overrides_to_config([override for override in every if "." in override.key_or_group], config)
        return config

    def store_and_forget(self: Any, *arguments: Any, **options: Any) -> None:
        store(self, *arguments, **options)  # such as the options of a memory of a user's own
        composed.clear()

    loader._load_configuration_impl = compose_once
    ConfigStore.store = store_and_forget
