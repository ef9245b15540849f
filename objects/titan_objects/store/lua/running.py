"""A script that runs: what others may know of it, and what it has been told."""

from collections.abc import Iterator
from typing import Protocol

from titan_objects.store.resp import CommandError
from titan_objects.store.table import Args

KEPT_BYTES_MAX = 16 << 20
"""Of replies that it would find again."""

CALL_BYTES = 100
"""What a reply takes, beside its bytes."""


class Supervisor(Protocol):
    """Who looks after other clients while a script runs."""

    def begin(self) -> None:
        """A script begins."""

    def look(self) -> None:
        """Serves others, if it has been long."""

    def end(self) -> None:
        """It has ended."""

    @property
    def ms(self) -> int:
        """Milliseconds since it began."""


class Running:
    """A script that runs, or a function, or a library that is loaded.

    Attributes:
        name: of the function; of a script its hash.
        command: that has it run.
        killed: it is to end.
        dropped: so is the store, and nobody is to know that it has begun.
    """

    def __init__(self, name: bytes, command: Args, function: bool, supervisor: Supervisor | None) -> None:
        self.name = name
        self.command = command
        self.function = function
        self.killed = self.dropped = False
        self._supervisor = supervisor

    @property
    def ms(self) -> int:
        """Milliseconds since it began."""
        return self._supervisor.ms if self._supervisor is not None else 0

    def drop(self) -> None:
        """It is to end, and the store with it: what it has written never was."""
        self.killed = self.dropped = True


class Replies:
    """What a script has been told so far, and what that cost: it finds the same again when it runs anew."""

    def __init__(self) -> None:
        self._kept: list[tuple[bytes | CommandError, float]] = []
        self._again: Iterator[tuple[bytes | CommandError, float]] = iter(())
        self._bytes = 0

    def begin(self) -> None:
        """For another script."""
        self._kept, self._again, self._bytes = [], iter(()), 0

    def rewind(self) -> None:
        """The script begins once more."""
        self._kept, self._again = [], iter(self._kept)

    def add(self, reply: bytes | CommandError, cost: float) -> None:
        """Keeps what a command that was executed has answered."""
        self._kept.append((reply, cost))
        self._bytes += CALL_BYTES + (len(reply) if isinstance(reply, bytes) else 0)

    @property
    def full(self) -> bool:
        """No more should be kept."""
        return self._bytes > KEPT_BYTES_MAX

    def again(self) -> tuple[bytes | CommandError, float] | None:
        """What the next command has answered the first time; None: it was not executed yet."""
        return next(self._again, None)
