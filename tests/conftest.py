"""What all tests share: the choice of event loop.

Tests run on the real loop. One that says so runs on the virtual loop, or that of a node with doors, as well or only:

    @pytest.mark.loops("real", "virtual")
    async def test_an_echo_comes_back(): ...
"""

import asyncio
from collections.abc import Callable

import pytest

from titan_overlay.cli import event_loop
from titan_overlay.testing import VirtualLoop

_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "real": asyncio.new_event_loop,
    "node": event_loop.create,
    "virtual": lambda: VirtualLoop(seed=7),
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", 'loops(*names): the event loops to run an async test on, of "real" (default), "virtual" and "node"'
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    marker = item.get_closest_marker("loops")
    return {name: _LOOPS[name] for name in (marker.args if marker else ("real",))}
