"""What happens to a run, as it is written into its journal, and what a worker is told. The journal is the run's state.

A run that is replayed from its journal is the same in every detail: time and chance stand beside each event.
"""

from math import ceil
from typing import Any, Literal

import msgspec

from titan_objects.dag.definition import Count, Definition, Task


class Worker(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker that asks, and what it has free."""

    name: str
    labels: dict[str, str] = {}
    cores: float = 1.0
    memory: int = 1 << 62
    owner: str = ""
    """Whose it is: of one owner, one result of a verified task counts. Of nobody: its own."""


class Success(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A task's result."""

    value: Any = None
    """Builtins; what is large is `{"$data": "sha256:..."}`."""
    digest: bytes = b""
    """Of the result in canonical bytes: what bitwise verification compares."""
    files: dict[str, str] = {}
    """Outputs: name of the file, name of the data."""
    recalled: bool = False
    """It was known from another run."""


class Failure(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Why an attempt failed."""

    kind: str
    """Type of the error."""
    text: str = ""
    retryable: bool = True


class Child(msgspec.Struct, frozen=True, array_like=True):
    """A run that does a task of another one."""

    name: str
    voice: bytes
    """Its id as an object."""


class Begin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The run begins."""

    definition: Definition
    params: dict[str, Any] = {}
    who: str = ""
    workers: tuple[str, ...] = ()
    """Whose results count; of none: anybody's. A result that was believed on the word of others is not taken over."""
    records: dict[str, int] = {}
    """By owner of workers: consecutive valid results in other runs."""
    children: dict[str, list[Child]] = {}
    """By the task that they do."""
    after: int = 0
    """Epochs up to here were given before the run began anew, and are not given again."""
    name: str = ""
    """Of the run, as an object."""
    outlets: tuple[str, ...] = ()
    """Tasks that others wait for in other sections of the same graph."""
    found: "Adopt | None" = None
    """What is known of tasks that other runs do, before these begin."""


class Lease(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A worker asks for tasks."""

    worker: Worker
    count: int = 1
    ahead: int = 0
    """As many more that it will run one after the other, each as soon as it has a core free."""


class Renew(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A worker is alive, and works on these epochs."""

    worker: str
    epochs: tuple[int, ...]
    progress: dict[int, float] = {}


class Silence(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nothing was heard of these epochs for as long as they may be silent: others may have the tasks.

    Only the engine itself says so: that a worker was heard is not in the journal.
    """

    epochs: tuple[int, ...]


class Report(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An attempt has ended."""

    worker: str
    epoch: int
    outcome: Success | Failure


class Up(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A service is there, and what needs it may begin."""

    worker: str
    epoch: int
    value: Any


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A worker goes, or has no use for these leases: others may have the tasks at once."""

    worker: str
    epochs: tuple[int, ...] = ()
    """Of none: all that it has."""


class Tick(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Time has passed."""


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Somebody wants an end of these tasks and what hangs on them; of none: of the run."""

    who: str = ""
    tasks: tuple[str, ...] = ()


class Suspend(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What runs goes on, nothing new begins."""

    who: str = ""


class Resume(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """It goes on."""

    who: str = ""


class Rerun(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """These tasks (`render`, `render[3]`) and all behind them run again; of none: those that failed."""

    who: str = ""
    tasks: tuple[str, ...] = ()


class Decide(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Somebody approves of a task, or rejects it."""

    task: str
    approved: bool
    who: str = ""
    note: str = ""


class Spawn(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A running task adds tasks."""

    worker: str
    epoch: int
    tasks: tuple[Task, ...]


class Adopt(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Takes over what another run has come to: what has a result here is not run again."""

    results: dict[str, Success] = {}
    """By the key of the instance: `render[3]`."""
    approved: tuple[str, ...] = ()
    """Tasks that somebody has approved of."""
    rounds: dict[str, Count] = {}
    """Of loops that have gone round: the round that they are in."""
    epoch: int = 0
    """The last one there: spawned tasks have epochs in their names, and no two are to have the same."""


Ending = Literal["SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED"]
"""How a task may end."""


class Passed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What came of a task that is done in another section of the same graph."""

    task: str
    state: Ending
    result: Success | None = None


FromWorkers = Lease | Renew | Report | Up | Release | Spawn
FromPeople = Begin | Adopt | Cancel | Suspend | Resume | Rerun | Decide
Event = FromWorkers | FromPeople | Passed | Silence | Tick


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An event, when it was, and the chance that it used."""

    time: float
    event: Event
    draws: tuple[float, ...] = ()


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker is to do, under a lease."""

    key: str
    """`render[3]`."""
    epoch: int
    """Unique in the run; what is reported under another is not believed."""
    call: str = ""
    run: list[str] = []
    join: bool = False
    args: list[Any] = []
    inputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    secrets: list[str] = []
    outputs: list[str] = []
    code: str = ""
    store: str = ""
    timeout: float = 0.0
    """Seconds; 0: none."""
    heartbeat: float = 30.0
    cores: float = 1.0
    memory: int = 0
    port: int = 0
    """Of a service."""
    ready: float = 30.0
    """Seconds until it must answer there."""
    memo: str = ""
    """Under which its result may be known from another run."""

    @property
    def places(self) -> int:
        """That it takes of its worker's: one, or as many as it requires cores."""
        return max(1, ceil(self.cores))


class Errand(msgspec.Struct, frozen=True):
    """What a run that does a task of this one is to do, under a lease that does not run out."""

    child: Child
    epoch: int
    params: dict[str, Any] | None
    """None: nothing more; it is not wanted any longer."""


class Effects(msgspec.Struct):
    """What an event leads to."""

    orders: list[Order] = []
    errands: list[Errand] = []
    passed: list[Passed] = []
    """For other sections."""
    lost: list[int] = []
    """Epochs of the asking worker that are not its own any more: it ends what it does there."""
    accepted: bool = True
    """Whether a report was believed."""
