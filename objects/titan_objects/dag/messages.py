"""What is said to a run, and what it answers: by its owner, by workers, and by whoever wants to know how it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

import titan_overlay as titan
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.journal import Adopt, Child, Entry, Failure, Order, Passed, Success, Worker
from titan_objects.dag.views import RunView

LINES_AT_ONCE = 1000
"""That a run takes with one message."""
TASKS_AT_ONCE = 1000
"""That a run tells of with one message."""
PORTION_BYTES = 64 << 10
SAID_BYTES = 384 << 10
"""Of lines, and of results, that go along with one message: together they fit into a frame of 1 MiB."""
ANSWER_BYTES_MAX = 1000 << 10
"""Of the orders in one answer."""

T = TypeVar("T")


def fitting(items: Iterable[T], size: Callable[[T], int], most: int) -> list[T]:
    """The first of them, as many as have so many bytes together; what is larger, alone."""
    found: list[T] = []
    for each in items:
        most -= size(each)
        if found and most < 0:
            break
        found.append(each)
    return found


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
    children: dict[str, list[Child]] = {}
    """Runs that do a task of this one, by that task."""
    parent: Child | None = None
    """The run that this one does a task of: it says when to begin."""
    records: dict[str, int] | None = None
    """Of workers, by owner, as the owner's memory knows them; None: the run tells it nothing."""
    inlets: dict[str, Child] = {}
    """Of a section of a graph: which other one tells it what came of a task that its own wait for."""
    outlets: dict[str, list[Child]] = {}
    """Which others it tells what came of a task."""
    after: int = 0
    """Epochs up to here are not given: those of the sections of a graph differ."""
    found: Adopt | None = None
    """What is known of tasks that other runs do."""


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
    up: dict[int, Any] = {}
    """Services that are there now, by epoch, and where."""
    turn: int = 0
    """Grows from one message of a worker to the next."""


class Go(titan.Message[None], namespace="dag"):
    """A run has another one, started for that, do a task. What had failed goes on, unless something else is given."""

    epoch: int
    params: dict[str, Any]


class Halt(titan.Message[None], namespace="dag"):
    """What it is at under this epoch is not wanted any more."""

    epoch: int


class Ended(titan.Message[None], namespace="dag"):
    """A run says to the one that it does a task of what came of it."""

    epoch: int
    outcome: Success | Failure


class Tell(titan.Message[None], namespace="dag"):
    """A section of a graph says to another one what came of a task."""

    came: Passed


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
    """With those of its tasks, `TASKS_AT_ONCE` at most."""
    start: int = 0
    """From which one on."""
    states: list[str] = []
    """In these states; none: in any."""


class Result(titan.Message[tuple[str, Any, str]], namespace="dag"):
    """Asks for its state, its result, and what failed first."""


class Results(titan.Message[list[Any]], namespace="dag"):
    """Asks for results of a map, from one of them on: as many as fit into a message, in their order."""

    task: str
    start: int = 0


class Ready(titan.Message[int], namespace="dag"):
    """Asks how many instances wait for a worker; -1: the run has ended."""


class Lines(titan.Message[list[Line]], namespace="dag"):
    """Asks for lines of the logs."""

    start: int = 0
    key: str = ""


class AskPlan(titan.Message[Start | None], namespace="dag"):
    """Asks what a run that does a task of another one was started with; of any other: None."""


class TakeOver(titan.Message[None], namespace="dag"):
    """Has the run take over what another one has come to. Only its owner may."""

    found: Adopt


class Export(titan.Message[list[Entry]], namespace="dag"):
    """Asks for the journal from an entry on: as many as fit into an answer. None: there are no more."""

    start: int = 0


class Wake(titan.Message[None], namespace="dag"):
    """The run reminds itself that something is due. From others it changes nothing."""
