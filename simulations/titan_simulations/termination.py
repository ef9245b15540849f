"""SIGTERM ends a simulation at once, whatever it is doing; who waits for other processes ends these first."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raised() -> Iterator[None]:
    """Inside, SIGTERM is a SystemExit.

    Not for a process that simulates: in the middle of an object's handler it would be taken for the object's own error,
    which stops no node, and the simulation would go on.
    """
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
