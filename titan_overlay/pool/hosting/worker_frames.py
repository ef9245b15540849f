"""What a node and its worker processes say to each other over a pipe: length (u32, big-endian), then msgpack."""

import msgspec

from titan_overlay.errors import WireError
from titan_overlay.pool.hosting.packing import Origin
from titan_overlay.wire import codec

HEAD_BYTES = 4
FRAME_BYTES_MAX = 128 * 1024 * 1024
"""Above the largest message that a host lets through, so that only a broken peer meets it."""


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load", tag_field="frame"):
    """First frame: whose worker this is, and what it may use."""

    origin: Origin
    name: str
    object_id: bytes
    memory_bytes: int
    sender: tuple[bytes, bytes]
    """Id and key of the object's publisher, for the class's `start`."""
    log_level: int
    """Of the node's log: what is less is not sent to it."""


class Call(msgspec.Struct, frozen=True, array_like=True, tag="call", tag_field="frame"):
    """A message for the object."""

    id: int
    type: str
    body: bytes
    sender: tuple[bytes, bytes]
    """Id and key."""
    seconds: float
    """What remains of the deadline."""
    chain: tuple[bytes, ...]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag="cancel", tag_field="frame"):
    """The caller of `id` waits no longer; a `Failed` or `Done` still follows."""

    id: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop", tag_field="frame"):
    """Run the class's `stop`, and end."""


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer", tag_field="frame"):
    """What came of an `Ask`."""

    id: int
    body: bytes = b""
    error: WireError | None = None


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready", tag_field="frame"):
    """The class is loaded and started; or, with an error, is not, and the process ends."""

    error: WireError | None = None


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done", tag_field="frame"):
    """The handler's reply to a `Call`."""

    id: int
    body: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed", tag_field="frame"):
    """The handler of a `Call` raised, or was cancelled."""

    id: int
    error: WireError


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask", tag_field="frame"):
    """`ctx.send` of a handler in the worker."""

    id: int
    name: str
    type: str
    body: bytes
    seconds: float
    chain: tuple[bytes, ...]


ToWorker = Load | Call | Cancel | Stop | Answer
FromWorker = Ready | Done | Failed | Ask


def frame(message: ToWorker | FromWorker) -> bytes:
    """The bytes of one frame."""
    body = codec.encode(message)
    return len(body).to_bytes(HEAD_BYTES, "big") + body
