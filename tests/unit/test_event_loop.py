"""The loop of a node with doors."""

import asyncio
import sys
import time

import pytest

from titan_overlay.cli import event_loop


@pytest.mark.loops("node")
async def test_its_clock_goes_on_while_a_callback_runs() -> None:
    loop = asyncio.get_running_loop()
    assert type(loop).__module__ != "asyncio.unix_events"
    begun = time.monotonic()
    assert begun < loop.time() < time.monotonic()


def test_without_uvloop_it_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = event_loop.create()
    loop.close()
    assert type(loop).__module__.startswith("asyncio.")
