"""SIGTERM ends a simulation at once, whatever it is doing, and the processes that it waits for.

Never by an exception: in an object's handler, in a hook of `os.fork` or in `__del__` that would be taken for an error
of these, which ends nothing, and the simulation would go on.

SIGKILL leaves no time to pass it on: so each process that was begun asks the system for a SIGTERM when its parent ends.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PARENT = "TITAN_SIM_PARENT"
"""In the environment of a process that another began: which one."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int) -> None:
    """This process ends when its parent does, in whatever way; on Linux only, elsewhere it goes on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def spread(pids: Collection[int]) -> Iterator[None]:
    """Inside, SIGTERM ends these processes first. Which they are is looked up when it comes."""

    def end(number: int, frame: FrameType | None) -> None:
        terminate(pids)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def held() -> Iterator[None]:
    """Inside, SIGTERM waits: for a process that has begun and is not among those of `spread` yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def terminate(pids: Collection[int]) -> None:
    """Tells them to end, those that still run."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
