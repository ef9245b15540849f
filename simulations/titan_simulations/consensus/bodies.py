"""What machines and clients of the simulation send: the engines' messages, wrapped, and the shell's own."""

from typing import Any, Final

import msgspec

from titan_overlay.mutable.engine import Checkpoint, Configuration
from titan_simulations.consensus.store import Request


class ForEngine(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A message of an engine, for that of the same epoch."""

    epoch: int
    message: msgspec.Raw


class Moved(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The epoch that you speak of is over: fetch the state that the next one began with."""


class AskState(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A piece of a snapshot, please: of the one at that index, or of the newest."""

    index: int
    offset: int


class StatePiece(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A piece of the snapshot at that index."""

    index: int
    offset: int
    total: int
    data: bytes


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """One node is alive, whatever its groups do."""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A client's request."""

    request: Request


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """It was done, and this came of it."""

    sequence: int
    result: int | None


class Elsewhere(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Not here; perhaps there."""

    sequence: int
    leader: bytes | None


Body = ForEngine | Moved | AskState | StatePiece | Ping | Ask | Answer | Elsewhere

_bodies: Final[msgspec.msgpack.Decoder[Body]] = msgspec.msgpack.Decoder(Body)
_requests: Final[msgspec.msgpack.Decoder[list[Request]]] = msgspec.msgpack.Decoder(list[Request])
encode: Final = msgspec.msgpack.encode


def decode(raw: bytes) -> Body:
    """What was sent."""
    return _bodies.decode(raw)


def decode_requests(data: bytes) -> list[Request]:
    """The data of an entry of commands."""
    return _requests.decode(data)


class Saved(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot as it lies on disk: a state, and the epoch that goes on from it."""

    configuration: Configuration
    checkpoint: Checkpoint
    store: bytes

    @classmethod
    def decode(cls, raw: bytes) -> "Saved":
        """From disk, or from a peer."""
        return msgspec.msgpack.decode(raw, type=cls)


def encode_configuration(configuration: Configuration) -> bytes:
    """The data of an entry RECONFIG."""
    return encode(configuration)


def decode_configuration(data: bytes) -> Configuration:
    """From an entry RECONFIG."""
    found: Any = msgspec.msgpack.decode(data, type=Configuration)
    assert isinstance(found, Configuration)
    return found
