"""`task.pool`: the pool as a task has it. The worker does on its behalf what it asks for (`errands.py`)."""

from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag import inside
from titan_objects.dag.inside import Get, Put, Send

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
