"""What a task says to its worker while it runs, from inside its process: over the pipes that its calls come by."""

from threading import Lock
from typing import Any, BinaryIO

import msgspec

PROGRESS_STEP = 0.01
"""Less is not passed on: whoever loops a million times may say so each time."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """What to call."""

    function: str
    args: list[Any]
    inputs: dict[str, Any]
    epoch: int = 0


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What came of it."""

    value: bytes = b""
    """msgpack."""
    kind: str = ""
    """Type of the error, where there was one."""
    text: str = ""


class Progress(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """How much of it is done, 0 to 1."""

    done: float


class Spawn(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """More tasks for the run, in builtins. Answered with a text: what is wrong with them, or nothing."""

    tasks: list[Any]


Said = Answer | Progress | Spawn


class Running:
    """The call that a process is at."""

    def __init__(self, epoch: int, requests: BinaryIO, answers: BinaryIO) -> None:
        self.epoch = epoch
        self.used: dict[str, int] = {}
        """How many tasks it has spawned, by their functions."""
        self._requests = requests
        self._answers = answers
        self._lock = Lock()  # a task may have threads
        self._over = False
        self._told = 0.0

    def progress(self, done: float) -> None:
        """Says how much is done."""
        with self._lock:
            if not self._over and abs(done - self._told) >= PROGRESS_STEP:
                self._told = done
                write_frame(self._answers, msgspec.msgpack.encode(Progress(done)))

    def spawn(self, tasks: list[Any]) -> None:
        """Adds tasks to the run, and waits until it has taken them. Raises RuntimeError: it has not."""
        with self._lock:
            if self._over:
                raise RuntimeError("the task has ended, and spawns no others")
            write_frame(self._answers, msgspec.msgpack.encode(Spawn(tasks)))
            body = read_frame(self._requests)
        why = "its worker is gone" if body is None else msgspec.msgpack.decode(body, type=str)
        if why:
            raise RuntimeError(f"the run takes no tasks of this one: {why}")

    def end(self, answer: Answer) -> None:
        """Answers; from then on nothing more is said."""
        with self._lock:
            self._over = True
            write_frame(self._answers, msgspec.msgpack.encode(answer))


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
