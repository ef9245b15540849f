"""What the object of a run keeps, and how it gets into snapshots: its journal, its logs, and what stands beside."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Adopt, Entry, Passed, Success
from titan_objects.dag.messages import LINES_AT_ONCE, SAID_BYTES, Line, Start, fitting, portions
from titan_objects.dag.verifying import Judged


class _Rest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A run's state, but for its journal and its logs: the first chunk of a snapshot."""

    owner: bytes
    voice: bytes
    started_by: bytes
    workers: list[str]
    next_line: int
    lines_of: dict[int, int]
    alarm: float
    queue: str
    told: str
    turns: dict[str, int] = {}
    plan: Start | None = None
    errand: int = 0
    remembers: bool = False
    learned: dict[str, Success] = {}
    judged: dict[str, Judged] = {}
    alarms: list[float] = []


class _Logged(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chunk of its logs."""

    lines: list[Line]


class _Happened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chunk of its journal."""

    entries: list[Entry]


class _Leased(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What its journal does not have of its leases: see `Engine.leases_kept`. The last chunk."""

    leases: dict[int, tuple[float, float]]


class _Awaits(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A chunk of what it was told before it began."""

    events: list[Adopt | Passed]


class Kept:
    """The state of one run."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.owner = b""
        self.voice = b""
        """Id of this object: under it, the run itself speaks to its queue."""
        self._started_by = b""
        """Digest of what began it."""
        self.workers: frozenset[str] = frozenset()
        self.lines: deque[Line] = deque()
        self.next_line = 0
        self._lines_of: dict[int, int] = {}
        """How many lines were taken under each epoch: what comes twice is kept once."""
        self._turns: dict[str, int] = {}
        """Of each worker that has something: the turn of what it said last."""
        self.plan: Start | None = None
        """Of a run that does a task of another: what it does, once it is told to."""
        self.waiting: list[Adopt | Passed] = []
        """What it was told before it has begun."""
        self.errand = 0
        """The epoch under which it was told last."""
        self.queue = ""
        self.remembers = False
        """Whether the memory of its owner hears of what it learns."""
        self._told = ""
        """The state that the queue knows."""
        self._news: tuple[dict[str, Success], dict[str, Judged]] = {}, {}
        """While it is restored: what its owner's memory does not know yet."""
        self._log_bytes = 0
        self._alarms: list[float] = []
        """When it wakes, the next time last."""

    @property
    def _alarm(self) -> float:
        """When it wakes next."""
        return self._alarms[-1] if self._alarms else float("inf")

    def _lines_from(self, start: int, key: str) -> list[Line]:
        """Of its logs, or of what one task has written, as many lines from a number on as fit into a message."""
        skipped = max(0, start - self.lines[0].number) if self.lines else 0
        wanted = (
            line
            for line in islice(self.lines, skipped, None)
            if not key or line.key == key or line.key.startswith(key + "[")
        )
        return fitting(islice(wanted, LINES_AT_ONCE // 4), lambda line: len(line.text.encode()), SAID_BYTES)

    def snapshot(self) -> Iterator[bytes]:
        """The journal, in chunks, and what else there is."""
        lines, journal, leases = list(self.lines), list(self.engine.journal), self.engine.leases_kept()
        yield msgspec.msgpack.encode(
            _Rest(
                self.owner,
                self.voice,
                self._started_by,
                sorted(self.workers),
                self.next_line,
                self._lines_of,
                self._alarm,
                self.queue,
                self._told,
                self._turns,
                self.plan,
                self.errand,
                self.remembers,
                self.engine.learned,
                self.engine.records.news,
                self._alarms,
            )
        )
        for kind, items in ((_Awaits, list(self.waiting)), (_Logged, lines), (_Happened, journal)):
            for chunk in portions(items):
                yield msgspec.msgpack.encode(kind(chunk))
        yield msgspec.msgpack.encode(_Leased(leases))

    def restore(self, chunk: bytes) -> None:
        """Takes the next chunk."""
        part = msgspec.msgpack.decode(chunk, type=_Rest | _Awaits | _Logged | _Happened | _Leased)
        match part:
            case _Rest():
                self.plan, self.errand = part.plan, part.errand
                self.remembers, self._news = part.remembers, (part.learned, part.judged)
                self.owner, self.voice, self._started_by = part.owner, part.voice, part.started_by
                self.workers, self.next_line = frozenset(part.workers), part.next_line
                self._alarms = part.alarms or [each for each in (part.alarm,) if each < float("inf")]
                self._lines_of = part.lines_of
                self.queue, self._told, self._turns = part.queue, part.told, part.turns
            case _Awaits(events):
                self.waiting.extend(events)
            case _Logged(lines):
                self.lines.extend(lines)
                self._log_bytes += sum(len(each.text) + 64 for each in lines)
            case _Leased(leases):
                self.engine.take_leases(leases)
            case _Happened(entries):
                self.engine.retake(entries)
                self.engine.learned, self.engine.records.news = dict(self._news[0]), dict(self._news[1])
