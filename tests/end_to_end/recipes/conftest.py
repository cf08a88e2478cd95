"""Interpreters that a recipe starts are forked from one that has imported fairseq."""

from collections.abc import Iterator

import pytest
from command_line import ENVIRONMENT
from fork_server import fork_server


@pytest.fixture(scope="module", autouse=True)
def quick_start(tmp_path_factory) -> Iterator[None]:
    with fork_server(tmp_path_factory.mktemp("server")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setitem(ENVIRONMENT, name, value)
        yield
