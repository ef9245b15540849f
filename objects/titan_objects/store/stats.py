"""What one store counts and remembers of its own work, for INFO and SLOWLOG."""

from collections import deque
from itertools import islice

import msgspec

WORDS_MAX, BYTES_MAX = 32, 128
"""Of a command that took long so many words are shown, and so many bytes of each."""


def human(size: int) -> str:
    """Bytes as Redis shows them to people."""
    if size < 1024:
        return f"{size}B"
    shown, unit = size / 1024, "K"
    for larger in "MGTP":
        if shown < 1024:
            break
        shown, unit = shown / 1024, larger
    return f"{shown:.2f}{unit}"


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


class Rate:
    """How much of something there is in a second: the mean of the latest samples, as Redis takes them."""

    SAMPLES = 16

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=self.SAMPLES)
        self._last: tuple[float, int] | None = None

    def sample(self, seconds: float, total: int) -> None:
        """At that moment of a clock there had been so many in all."""
        if self._last is not None and seconds > self._last[0]:
            self._rates.append(max(0, total - self._last[1]) / (seconds - self._last[0]))
        self._last = seconds, total

    @property
    def per_second(self) -> float:
        """The mean."""
        return sum(self._rates) / max(1, len(self._rates))


class Stats:
    """What has happened since the start, or since CONFIG RESETSTAT.

    Attributes:
        errors, error_codes: replies that were errors, in all and by their first word.
        changes: commands that were logged since the last rewrite.
    """

    ERROR_CODES_MAX = 128
    """Scripts can make up any; those beyond are counted in `errors` alone."""

    def __init__(self) -> None:
        self.slow = SlowLog()
        self.latency = Latencies()
        self.started_ms = 0
        self.last_rewrite_ms = 0
        self.last_rewrite = "ok"
        self.rewriting = False
        self.log_bytes = 0
        self.log_base_bytes = 0
        self.changes = 0
        self.reset()

    def reset(self) -> None:
        """Begins at 0."""
        self.connections = self.errors = self.rejected = 0
        self.error_codes: dict[str, int] = {}
        self.full_syncs = self.partial_syncs = 0
        self.expired = self.expired_fields = self.evicted = self.hits = self.misses = 0
        self.read_bytes = self.sent_bytes = 0
        self.commands_rate, self.read_rate, self.sent_rate = Rate(), Rate(), Rate()

    def note_error(self, text: bytes) -> None:
        """A reply is an error; its code is the first word of the text."""
        self.errors += 1
        code = text.partition(b" ")[0].decode("latin-1")
        if code in self.error_codes or len(self.error_codes) < self.ERROR_CODES_MAX:
            self.error_codes[code] = self.error_codes.get(code, 0) + 1

    def sample(self, seconds: float, commands: int) -> None:
        """Takes samples of what is counted; `seconds`: of any clock that runs evenly."""
        self.commands_rate.sample(seconds, commands)
        self.read_rate.sample(seconds, self.read_bytes)
        self.sent_rate.sample(seconds, self.sent_bytes)
