"""What one store counts and remembers of its own work, for INFO and SLOWLOG."""

from collections import deque
from itertools import islice

import msgspec


class SlowCommand(msgspec.Struct, frozen=True):
    """One that took long. `at`: unix seconds."""

    id: int
    at: int
    micros: int
    words: list[bytes]
    address: str
    name: bytes


class SlowLog:
    """The latest commands that took long."""

    def __init__(self) -> None:
        self.entries: deque[SlowCommand] = deque()
        self._id = 0

    def note(self, args: list[bytes], micros: int, at: int, address: str, name: bytes, most: int) -> None:
        """Adds one, its words cut short, and lets the oldest go."""
        words = [word[:128] for word in args[:31]]
        if len(args) > 31:
            words.append(b"... (%d more arguments)" % (len(args) - 31))
        self.entries.appendleft(SlowCommand(self._id, at, micros, words, address, name))
        self._id += 1
        while len(self.entries) > most:
            self.entries.pop()

    def newest(self, count: int) -> list[SlowCommand]:
        """Up to so many, the latest first; below 0: all."""
        return list(self.entries if count < 0 else islice(self.entries, count))


class Stats:
    """What has happened since the start, or since CONFIG RESETSTAT."""

    def __init__(self) -> None:
        self.slow = SlowLog()
        self.started_ms = 0
        self.last_rewrite_ms = 0
        self.last_rewrite = "ok"
        self.rewriting = False
        self.log_bytes = 0
        self.log_base_bytes = 0
        self.reset()

    def reset(self) -> None:
        """Begins at 0."""
        self.commands = self.connections = self.errors = self.rejected = 0
        self.full_syncs = self.partial_syncs = 0
        self.expired = self.evicted = self.hits = self.misses = 0
        self.read_bytes = self.sent_bytes = 0
