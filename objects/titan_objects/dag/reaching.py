"""`task.pool` and `task.store`: the pool, and a store in it, as a task has them. `errands.py` is the worker's side."""

from collections.abc import Iterator
from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag import inside
from titan_objects.dag.inside import Get, Hear, Hush, Listen, Put, Send

SECONDS = 10.0
"""For a message and its answer, where the task does not say."""
_NAMES: dict[type, str] = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    bytearray: "bytes",
    list: "list",
    tuple: "list",
    dict: "dict",
}
"""Builtins that are messages, and what they are called on the wire."""


def running() -> inside.Running:
    """The task that this is. Raises RuntimeError: it is none that runs."""
    if inside.here is None:
        raise RuntimeError("task.pool, task.store and task.spawn are of use inside a task that runs on a worker")
    return inside.here


class TaskPool:
    """The pool, under the worker's right to call and while the task runs. Any thread of the task may use it.

    Everything raises RuntimeError outside of a task, and errors of `titan_overlay` as `titan.Pool` does.
    """

    def send(self, name: str, message: Any, *, timeout: float = SECONDS) -> Any:
        """Sends a message to the object with this name; gives its reply as builtins.

        Args:
            message: a builtin, or a `titan.Message`; 1 MiB at most.
            timeout: seconds, 60 at most.

        Raises:
            BadMessage: that cannot be sent. Forbidden: tasks may not send that, or the worker's key may not.
        """
        kind = type(message)
        name_of_type = message.wire_type if isinstance(message, titan.Message) else _NAMES.get(kind, "")
        if not name_of_type:
            raise titan.BadMessage(f"a {kind.__name__} cannot be sent; send a builtin or a titan.Message")
        try:
            body = msgspec.msgpack.encode(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as why:
            raise titan.BadMessage(f"this {kind.__name__} cannot be encoded: {why}") from None
        return running().ask(Send(name, name_of_type, body, float(timeout)))

    def put(self, data: bytes) -> str:
        """Stores data, 64 MiB at most; its name is made of its content (`sha256:...`)."""
        return str(running().ask(Put(bytes(data))))

    def get(self, name: str) -> bytes:
        """The data with this name, verified; 64 MiB at most."""
        return bytes(running().ask(Get(name)))


class TaskStore:
    """The store that the run was submitted with (`submit(..., store="NAME")`). Texts are kept as UTF-8.

    Everything raises RuntimeError outside of a task and where the run has no store; BadMessage with the store's text
    where it refuses; and other errors of `titan_overlay` as `TaskPool.send`.
    """

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool

    @property
    def name(self) -> str:
        """Of the store. For commands that have no method here: `task.pool.send(task.store.name, ["INCR", "n"])`."""
        name = running().store
        if not name:
            raise RuntimeError('this run has no store: submit(..., store="NAME"), or `store:` in its file')
        return name

    def _command(self, *words: str | bytes | int | float) -> Any:
        return self._pool.send(self.name, list(words))

    def get(self, key: str) -> bytes | None:
        """The value of a key; None: there is none."""
        value: bytes | None = self._command("GET", key)
        return value

    def set(self, key: str, value: str | bytes | int | float, *, expires: float | None = None) -> None:
        """Sets a key; `expires`: seconds until it is gone."""
        end = () if expires is None else ("PX", max(1, round(expires * 1000)))
        self._command("SET", key, value, *end)

    def sadd(self, key: str, *members: str | bytes | int) -> int:
        """Adds members to a set; how many were new."""
        return int(self._command("SADD", key, *members))

    def srem(self, key: str, *members: str | bytes | int) -> int:
        """Removes members of a set; how many there were."""
        return int(self._command("SREM", key, *members))

    def smembers(self, key: str) -> frozenset[bytes]:
        """The members of a set."""
        return frozenset(self._command("SMEMBERS", key))

    def publish(self, channel: str, message: str | bytes) -> int:
        """Publishes a message; how many are known to listen: of a store that a group keeps, that is 0."""
        return int(self._command("PUBLISH", channel, message))

    def subscribe(self, *channels: str) -> "Subscription":
        """Hears what is published to these channels from now on, in a `with` block or until the task ends."""
        this = running()
        return Subscription(this, int(this.ask(Listen(self.name, list(channels)))))


class Subscription:
    """What is published, as pairs of channel and message: iterating waits for the next one."""

    def __init__(self, this: inside.Running, number: int) -> None:
        self._this = this
        self._number = number

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        while True:
            for channel, message in self._this.ask(Hear(self._number)):
                yield channel.decode(errors="replace"), message

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hears nothing more."""
        self._this.ask(Hush(self._number))
