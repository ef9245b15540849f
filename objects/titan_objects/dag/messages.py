"""What is said to a run, and what it answers: by its owner, by workers, and by whoever wants to know how it is."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.journal import Adopt, Entry, Failure, Order, Success, Worker

LINES_AT_ONCE = 1000
"""That a run takes with one message."""
PORTION_BYTES = 64 << 10


def portions(items: Iterable[Any]) -> Iterator[list[Any]]:
    """The items in their order, already encoded: as many at a time as have 64 KiB together; what is larger, alone."""
    portion: list[Any] = []
    size = 0
    for each in items:
        encoded = msgspec.msgpack.encode(each)
        if portion and size + len(encoded) > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(msgspec.Raw(encoded))
        size += len(encoded)
    if portion:
        yield portion


class Line(msgspec.Struct, frozen=True, array_like=True):
    """A line that a task wrote."""

    number: int
    key: str
    text: str
    time: float = 0.0


class Done(msgspec.Struct, frozen=True, array_like=True):
    """What came of a lease."""

    epoch: int
    outcome: Success | Failure


class Synced(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker is told."""

    orders: list[Order] = []
    lost: list[int] = []
    """Epochs that are not its own any more."""
    state: str = ""
    turn: int = 0
    """The highest that it has said: what comes under a lower one, comes too late to be given anything."""


class TaskView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An instance of a task as people see it."""

    key: str
    state: str
    worker: str = ""
    attempts: int = 0
    since: float = 0.0
    until: float = 0.0
    error: str = ""
    progress: float = 0.0


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run as people see it."""

    name: str
    state: str
    owner: str
    began: float = 0.0
    ended: float = 0.0
    counts: dict[str, int] = {}
    tasks: list[TaskView] = []
    executions: int = 0
    lines: int = 0
    voice: bytes = b""
    """Id of the run as an object."""


class Started(msgspec.Struct, frozen=True, array_like=True):
    """How a run began."""

    state: str
    voice: bytes
    """Id of the run as an object."""


class Start(titan.Message[Started], namespace="dag"):
    """Begins the run. Who sends it first is its owner; under a name `~KEY/...`, that key alone may."""

    definition: Definition
    params: dict[str, Any] = {}
    workers: list[str] = []
    """Fingerprints of those whose workers may take its tasks; none: anybody's."""
    queue: str = ""
    """That is told when the run ends, or is open again."""


class Sync(titan.Message[Synced], namespace="dag"):
    """A worker says what it has done, and asks for more."""

    worker: Worker
    count: int = 0
    done: list[Done] = []
    holds: list[int] = []
    """Epochs of all that it has. What else it was given, it gives back, or has never heard of: others may have it."""
    progress: dict[int, float] = {}
    lines: list[tuple[int, int, str]] = []
    """Epoch, number among the lines under that epoch (from 0 on), and text. Only under a lease are they kept."""
    ahead: int = 0
    """Beyond `count`, as many that it would run one after the other."""
    turn: int = 0
    """Grows from one message of a worker to the next."""


class Spawned(titan.Message[None], namespace="dag"):
    """A running task adds tasks. On workers of the owner, and of those that `Start` names, it may."""

    worker: str
    epoch: int
    tasks: list[Task]


class Act(titan.Message[str], namespace="dag"):
    """What its owner wants of the run; answered with its state."""

    what: str
    """cancel, suspend, resume, rerun, approve or reject."""
    tasks: list[str] = []
    note: str = ""


class Look(titan.Message[RunView], namespace="dag"):
    """Asks how the run is."""

    tasks: bool = False


class Result(titan.Message[tuple[str, Any, str]], namespace="dag"):
    """Asks for its state, its result, and what failed first."""


class Ready(titan.Message[int], namespace="dag"):
    """Asks how many instances wait for a worker; -1: the run has ended."""


class Lines(titan.Message[list[Line]], namespace="dag"):
    """Asks for lines of the logs."""

    start: int = 0
    key: str = ""


class TakeOver(titan.Message[None], namespace="dag"):
    """Has the run take over what another one has come to. Only its owner may."""

    found: Adopt


class Export(titan.Message[list[Entry]], namespace="dag"):
    """Asks for the journal from an entry on: as many as fit into an answer. None: there are no more."""

    start: int = 0


class Wake(titan.Message[None], namespace="dag"):
    """The run reminds itself that something is due. From others it changes nothing."""
