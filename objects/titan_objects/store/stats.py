"""What one store counts and remembers of its own work, for INFO and SLOWLOG."""

from collections import deque
from itertools import islice

import msgspec

WORDS_MAX, BYTES_MAX = 32, 128
"""Of a command that took long so many words are shown, and so many bytes of each."""


class SlowCommand(msgspec.Struct, frozen=True):
    """One that took long. `at`: unix seconds."""

    id: int
    at: int
    micros: int
    words: list[bytes]
    address: str
    name: bytes


def shortened(args: list[bytes], most: int) -> list[bytes]:
    """A command in so many words at most, each cut short, as Redis shows it."""
    kept = args if len(args) <= most else args[: most - 1]
    words = [
        word if len(word) <= BYTES_MAX else b"%b... (%d more bytes)" % (word[:BYTES_MAX], len(word) - BYTES_MAX)
        for word in kept
    ]
    if len(kept) < len(args):
        words.append(b"... (%d more arguments)" % (len(args) - len(kept)))
    return words


class SlowLog:
    """The latest commands that took long."""

    def __init__(self) -> None:
        self.entries: deque[SlowCommand] = deque()
        self._id = 0

    def note(self, words: list[bytes], micros: int, at: int, address: str, name: bytes, most: int) -> None:
        """Adds one, and lets the oldest go. `words`: as `shortened` gives them."""
        self.entries.appendleft(SlowCommand(self._id, at, micros, words, address, name))
        self._id += 1
        while len(self.entries) > most:
            self.entries.pop()

    def newest(self, count: int) -> list[SlowCommand]:
        """Up to so many, the latest first; below 0: all."""
        return list(self.entries if count < 0 else islice(self.entries, count))


class Latencies:
    """What took long, by event: for each the latest samples, of a second the longest.

    Attributes:
        samples: unix seconds and milliseconds, oldest first.
        worst: milliseconds.
    """

    SAMPLES_MAX = 160

    def __init__(self) -> None:
        self.samples: dict[str, deque[tuple[int, int]]] = {}
        self.worst: dict[str, int] = {}

    def note(self, event: str, at: int, ms: int) -> None:
        """Something took so long. `event`: one of a few names."""
        samples = self.samples.setdefault(event, deque(maxlen=self.SAMPLES_MAX))
        if samples and samples[-1][0] == at:
            ms = max(ms, samples.pop()[1])
        samples.append((at, ms))
        self.worst[event] = max(ms, self.worst.get(event, 0))

    def forget(self, events: list[str]) -> int:
        """Forgets what was noted of these; says of how many there was something."""
        found = [event for event in dict.fromkeys(events) if event in self.samples]
        for event in found:
            del self.samples[event], self.worst[event]
        return len(found)


class Stats:
    """What has happened since the start, or since CONFIG RESETSTAT."""

    def __init__(self) -> None:
        self.slow = SlowLog()
        self.latency = Latencies()
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
        self.expired = self.expired_fields = self.evicted = self.hits = self.misses = 0
        self.read_bytes = self.sent_bytes = 0
