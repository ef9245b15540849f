"""Bodies of the frames between two nodes. msgpack arrays, request id first.

A request is always a message to an object: nodes are objects too (`node:<id>`), so recruiting, moving or asking for
a census needs no frame of its own.
"""

from enum import IntEnum

import msgspec

from titan_overlay.errors import WireError


class Opcode(IntEnum):
    """Numbers of the Titan orchestrator where it has one; the overlay's own from 0x80 up."""

    ACK = 0x50
    ERROR = 0x51
    DATA = 0x52
    HELLO = 0x80
    SEND = 0x81
    CANCEL = 0x82
    CREDIT = 0x83
    BYE = 0x84
    """No new requests on this link, please: it closes when what is under way is answered."""
    PING = 0x85
    PONG = 0x86


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First frame in each direction. The peer's id comes from TLS; in a simulation, from `public`."""

    pool: bytes
    version: int
    serving: bool
    """Whether the sender accepts links itself (a node), or not (a client)."""
    public: bytes
    port: int = 0
    credentials: bytes = b""
    """`identity.credentials.Credentials`: for whom the sender speaks, and its grants."""


class Send(msgspec.Struct, array_like=True, gc=False):
    """A message to an object that the receiver holds."""

    id: int
    """Request id, chosen by the sender, unique on the link; answers carry it. 0: nobody waits for an answer."""
    timeout_ms: int
    """What remains of the deadline."""
    object_id: bytes
    type: str
    """Name of the message's type: `str`, `titan.Ping`, `img.Thumb`."""
    body: msgspec.Raw
    credit: int = 0
    """0: one reply. Above: a stream of replies is welcome, this many items before the next `Credit`."""
    chain: tuple[bytes, ...] = ()
    """Objects that wait for this call, first caller first."""


class Data(msgspec.Struct, array_like=True, gc=False):
    """A reply, or with flag MORE one item of a stream; ACK with the same body (nil) ends a stream."""

    id: int
    body: msgspec.Raw


class Failure(msgspec.Struct, array_like=True):
    """Body of an ERROR frame. Id 0: about the link, which ends."""

    id: int
    error: WireError


class Cancel(msgspec.Struct, array_like=True):
    """The caller no longer wants the answer."""

    id: int


class Credit(msgspec.Struct, array_like=True):
    """The receiver of a stream takes `items` more."""

    id: int
    items: int
