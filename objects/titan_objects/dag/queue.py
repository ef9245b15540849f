"""A queue: the name to which runs are submitted, and at which workers find them.

    titan publish dag --name dag

It knows which runs are open and which workers have been seen lately, and nothing of what is inside a run.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TypeVar

import msgspec

import titan_overlay as titan
from titan_objects.dag.messages import SAID_BYTES, fitting

RUNS_MAX = 10_000
WORKERS_MAX = 10_000
RUNS_OF_ONE_MAX = 1_000
"""Of one key: nobody fills the queue alone."""
WORKERS_OF_ONE_MAX = 2_000
NAME_LENGTH_MAX = 200
LABELS_MAX = 64
TRUSTS_MAX = 256
RUNS_AT_ONCE = 256
"""That one answer to a worker names."""
FEW_BYTES = SAID_BYTES // 8
"""An answer with less is the last: whatever came next would have had room."""
SEEN_SECONDS = 90.0
"""A worker that has not been seen for longer is gone."""
LOOKS_PER_SECOND = 500
"""Of all workers together: the more there are, the less often each looks."""
OPEN = ("RUNNING", "PENDING")
"""States of runs that have not ended; those that are pending want no workers yet."""
COMMANDS = "commands"
"""Label of workers that run commands, and not functions alone."""


def owner_of(name: str) -> str:
    """Fingerprint of the key whose run or worker this is: nobody else can publish, or register, under its name."""
    return name.removeprefix("~").partition("/")[0]


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker as it describes itself."""

    name: str
    slots: int = 1
    labels: dict[str, str] = {}
    trusts: list[str] = []
    """Fingerprints of the keys whose code it runs."""
    seen: float = 0.0
    memory: int = 1 << 62
    """Bytes that its machine has."""


class RunInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that was submitted."""

    name: str
    title: str
    owner: str
    submitted: float
    state: str = "RUNNING"
    voice: bytes = b""
    """Id of the run as an object: under it the run itself speaks."""
    changed: int = 0
    """The queue's version since which it is as it is."""


class Open(msgspec.Struct, frozen=True, array_like=True):
    """Runs that want workers, the one that has changed first before all others."""

    version: int
    """To ask on from."""
    runs: list[RunInfo] = []
    pause: float = 0.0
    """Seconds to wait before the next look."""


class Register(titan.Message[None], namespace="dagqueue"):
    """A worker is there."""

    worker: WorkerInfo
    leaving: bool = False


class Submit(titan.Message[None], namespace="dagqueue"):
    """A run wants workers. Only the key in whose space its name lies (`~KEY/...`) may say so."""

    run: str
    title: str
    state: str = "RUNNING"
    voice: bytes = b""


class Close(titan.Message[None], namespace="dagqueue"):
    """A run has ended, or is open again. Only the run itself and who submitted it may say so."""

    run: str
    state: str


class Runs(titan.Message[list[RunInfo]], namespace="dagqueue"):
    """Asks for all runs that are known, ended ones too, from one of them on: as many as fit into a message."""

    start: int = 0


class AskOpen(titan.Message[Open], namespace="dagqueue"):
    """Asks for runs of these keys that want workers, as far as they do so since a version of the queue."""

    owners: list[str]
    since: int = 0


class Workers(titan.Message[list[WorkerInfo]], namespace="dagqueue"):
    """Asks for workers that were seen lately, from one of them on: as many as fit into a message."""

    start: int = 0


@titan.mutable("*", policy=titan.Policy(faults=1))
class Queue:
    """See the module."""

    runs: dict[str, RunInfo] = {}
    workers: dict[str, WorkerInfo] = {}
    now: float = 0.0
    version: int = 0
    """Counts what was said of runs."""

    def register(self, m: Register, ctx: titan.Context) -> None:
        """Remembers a worker for a while. Raises Overloaded: there are too many. BadMessage: it says too much."""
        _check(m.worker)
        self.now = ctx.now
        who = _who(ctx)
        name = f"{who}/{m.worker.name}"
        self.workers = {key: each for key, each in self.workers.items() if each.seen > ctx.now - SEEN_SECONDS}
        if m.leaving:
            self.workers.pop(name, None)
            return
        if name not in self.workers:
            theirs = sum(key.startswith(f"{who}/") for key in self.workers)
            if theirs >= WORKERS_OF_ONE_MAX:
                raise titan.Overloaded(
                    f"{who} has {theirs} workers at {ctx.name!r}, and no key may have more; give one worker more slots"
                )
            if len(self.workers) >= WORKERS_MAX:
                raise titan.Overloaded(f"{ctx.name!r} has {WORKERS_MAX} workers, and takes no more")
        self.workers[name] = msgspec.structs.replace(m.worker, name=name, seen=ctx.now)

    def submit(self, m: Submit, ctx: titan.Context) -> None:
        """Makes a run known. Raises Forbidden: its name is another's. Overloaded: there are too many open ones."""
        owner = _who(ctx)
        if not m.run.startswith(f"~{owner}/"):
            raise titan.Forbidden(f"{owner} submits runs that are named ~{owner}/..., and {m.run[:200]!r} is not")
        if len(m.run) > NAME_LENGTH_MAX:
            raise titan.BadMessage(f"the name of a run has at most {NAME_LENGTH_MAX} characters, not {len(m.run)}")
        self.now = ctx.now
        if m.run not in self.runs:
            theirs = [each for each in self.runs.values() if each.owner == owner]
            if len(theirs) >= RUNS_OF_ONE_MAX:
                self._forget_one(theirs, f"{owner} has {len(theirs)} open runs at {ctx.name!r}; cancel some")
            elif len(self.runs) >= RUNS_MAX:
                self._forget_one(self.runs.values(), f"{ctx.name!r} has {RUNS_MAX} open runs, and takes no more")
        self.version += 1
        self.runs[m.run] = RunInfo(m.run, m.title[:200], owner, ctx.now, m.state[:20], m.voice[:64], self.version)

    def _forget_one(self, runs: Iterable[RunInfo], otherwise: str) -> None:
        """Makes room: of these, the one that has ended and was submitted first goes. Raises Overloaded: none has."""
        ended = next((each.name for each in runs if each.state not in OPEN), None)
        if ended is None:
            raise titan.Overloaded(otherwise)
        del self.runs[ended]

    def close(self, m: Close, ctx: titan.Context) -> None:
        """A run wants no workers any more, or some again. Raises Forbidden: it is another's."""
        known = self.runs.get(m.run)
        if known is None:
            return
        if ctx.sender.public != known.voice and _who(ctx) != known.owner:
            raise titan.Forbidden(f"only {m.run!r} itself, and {known.owner}, who submitted it, may say how it is")
        self.now = ctx.now
        self.version += 1
        self.runs[m.run] = msgspec.structs.replace(known, state=m.state[:20], changed=self.version)

    @titan.readonly
    def list_runs(self, m: Runs) -> list[RunInfo]:
        """Those that are known."""
        return fitting(islice(self.runs.values(), max(0, m.start), None), _size, SAID_BYTES)

    @titan.readonly
    def list_open(self, m: AskOpen) -> Open:
        """What is new for a worker. One that knows more than there is (the queue began anew) is told all."""
        pause = len(self.workers) / LOOKS_PER_SECOND
        if m.since == self.version:
            return Open(self.version, pause=pause)
        since, owners = m.since * (m.since < self.version), set(m.owners)
        found = [
            each
            for each in self.runs.values()
            if each.changed > since and each.state == "RUNNING" and each.owner in owners
        ]
        found.sort(key=lambda each: each.changed)
        if len(found) <= RUNS_AT_ONCE:
            return Open(self.version, found, pause)
        return Open(found[RUNS_AT_ONCE - 1].changed, found[:RUNS_AT_ONCE], pause)

    @titan.readonly
    def list_workers(self, m: Workers) -> list[WorkerInfo]:
        """Those that were seen lately."""
        seen = (each for each in self.workers.values() if each.seen > self.now - SEEN_SECONDS)
        return fitting(islice(seen, max(0, m.start), None), _size, SAID_BYTES)


Told = TypeVar("Told", RunInfo, WorkerInfo)


async def listed(pool: titan.Pool, queue: str, ask: Callable[[int], titan.Message[list[Told]]]) -> list[Told]:
    """All runs (`Runs`), or workers (`Workers`), that a queue knows, in as many answers as it takes."""
    found: dict[str, Told] = {}
    while True:
        told = await pool.read(queue, ask(len(found)))
        new = {each.name: each for each in told if each.name not in found}
        found |= new
        if not new or _size(told) < FEW_BYTES:
            return list(found.values())


def _size(told: object) -> int:
    return len(msgspec.msgpack.encode(told))


def _who(ctx: titan.Context) -> str:
    return ctx.sender.id.hex()[:32]


def _check(worker: WorkerInfo) -> None:
    """Raises BadMessage: a description that would fill the queue by itself."""
    if len(worker.labels) > LABELS_MAX or len(worker.trusts) > TRUSTS_MAX:
        raise titan.BadMessage(f"a worker has at most {LABELS_MAX} labels, and names {TRUSTS_MAX} keys that it trusts")
    texts = [worker.name, *worker.labels, *worker.labels.values(), *worker.trusts]
    if any(len(each) > NAME_LENGTH_MAX for each in texts):
        raise titan.BadMessage(f"names and labels of a worker have at most {NAME_LENGTH_MAX} characters")
