"""Real nodes for tests: all are gone after the test."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.commands import NodeProcess

Start = Callable[..., NodeProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts nodes, each by its name in a directory of that name; all are gone after the test."""
    running: list[NodeProcess] = []

    def begin(name: str, *flags: str, **more: Any) -> NodeProcess:
        node = NodeProcess(tmp_path / name, *flags, **more)
        running.append(node)
        return node

    yield begin
    for node in running:
        node.stop(signal.SIGKILL)
