"""What a task says to its worker while it runs, from inside its process: over the socket that its calls come by."""

from threading import Condition
from typing import Any, BinaryIO

import msgspec

import titan_overlay as titan

PROGRESS_STEP = 0.01
"""Less is not passed on: whoever loops a million times may say so each time."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """What to call."""

    function: str
    args: list[Any]
    inputs: dict[str, Any]
    epoch: int = 0
    store: str = ""
    """Name of the store that the run has; empty: none."""


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a question is answered with."""

    number: int
    value: Any = None
    kind: str = ""
    """Class of the error, where there was one."""
    text: str = ""
    maybe_executed: bool = False


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What came of a call."""

    value: bytes = b""
    """msgpack."""
    kind: str = ""
    """Type of the error, where there was one."""
    text: str = ""
    more: bool = False
    """More of what the call has printed is yet to be read, and then the line that ends it."""


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How much of it is done, 0 to 1."""

    done: float


class Spawn(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """More tasks for the run, in builtins."""

    tasks: list[Any]


class Send(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A message to an object of the pool, answered with its reply in builtins."""

    name: str
    kind: str
    """Of the message, as it is called on the wire."""
    body: bytes
    """msgpack."""
    timeout: float


class Put(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Data for the pool, answered with its name."""

    data: bytes


class Get(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Asks for data of the pool."""

    name: str


class Listen(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Asks to hear what is published to channels of a store, answered with a number to ask under."""

    name: str
    channels: list[str]


class Hear(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Asks for what was heard under a number: pairs of channel and message, soon none where nothing comes."""

    number: int


class Hush(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nothing more need be heard under a number."""

    number: int


Question = Spawn | Send | Put | Get | Listen | Hear | Hush


class Asked(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A question, which is answered under its number, before others or after them."""

    number: int
    what: Question


Said = Answer | Progress | Asked


class Running:
    """The call that a process is at."""

    def __init__(self, epoch: int, requests: BinaryIO, answers: BinaryIO, store: str = "") -> None:
        self.epoch = epoch
        self.store = store
        self.used: dict[str, int] = {}
        """How many tasks it has spawned, by their functions."""
        self._requests = requests
        self._answers = answers
        self._changed = Condition()  # a task may have threads
        self._over = False
        self._progress = 0.0
        self._asked = 0
        self._waiting = 0
        """Threads that wait for an answer. One of them reads, for all."""
        self._reading = False
        self._told: dict[int, Told] = {}

    def progress(self, done: float) -> None:
        """Says how much is done."""
        with self._changed:
            if not self._over and abs(done - self._progress) >= PROGRESS_STEP:
                self._progress = done
                self._say(Progress(done))

    def ask(self, what: Question) -> Any:
        """Waits for the answer to a question; other threads may ask meanwhile.

        Raises:
            TitanError: as the worker was told. Gone: the task has ended.
        """
        with self._changed:
            if self._over:
                raise titan.Gone("the task has ended, and asks for nothing more")
            self._asked += 1
            number = self._asked
            self._waiting += 1
            try:
                self._say(Asked(number, what))
                while number not in self._told:
                    self._read_or_wait()
                told = self._told.pop(number)
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        if told.kind:
            raise _error(told)
        return told.value

    def end(self, answer: Answer) -> None:
        """Answers, after all that threads of the task have asked for; from then on nothing more is said."""
        with self._changed:
            self._over = True
            while self._waiting:  # else their answers would be read as the next call
                self._changed.wait()
            self._say(answer)

    def _say(self, what: Said) -> None:
        write_frame(self._answers, msgspec.msgpack.encode(what))

    def _read_or_wait(self) -> None:
        if self._reading:
            self._changed.wait()
            return
        self._reading = True
        self._changed.release()
        try:
            body = read_frame(self._requests)
        finally:
            self._changed.acquire()
            self._reading = False
            self._changed.notify_all()
        if body is None:
            raise titan.Unavailable("the worker of this task is gone")
        told = msgspec.msgpack.decode(body, type=Told)
        self._told[told.number] = told


def _error(told: Told) -> titan.TitanError:
    found = getattr(titan, told.kind, None)
    if isinstance(found, type) and issubclass(found, titan.RemotableError):
        return found(told.text, maybe_executed=told.maybe_executed)
    return titan.RemoteError(told.text, type=told.kind, maybe_executed=told.maybe_executed)


here: Running | None = None
"""The call that this process is at; None: it is none that runs tasks, or between two."""


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """A length of four bytes, big-endian, and the body."""
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next body; None: there is none."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(int.from_bytes(head, "big"))
    return body if len(body) == int.from_bytes(head, "big") else None
