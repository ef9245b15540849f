"""The Raft cache's protocol over TCP: bytes in, commands out; replies in, bytes out. No I/O.

    SET    01 | key length | key | value length | value | ttl       answered with a status byte
    GET    02 | key length | key                                    answered with a status byte | value length | value
    JOIN   03 or 04 | id length | id | address length | address     answered with a status byte

Lengths and ttl (seconds, 0: for ever) are int32, all integers little-endian. Replies come in the order of commands.
"""

import struct
from enum import IntEnum

import msgspec

from titan_objects.cache import KEY_BYTES_MAX, VALUE_BYTES_MAX

INT32 = struct.Struct("<i")
NAME_BYTES_MAX = 1024
"""Of the id and of the address in a JOIN."""


class Status(IntEnum):
    """The first byte of a reply."""

    NONE = 0
    OK = 1
    ERROR = 2
    KEY_NOT_FOUND = 3


class SetCommand(msgspec.Struct, frozen=True):
    """Keep a value."""

    key: bytes
    value: bytes
    ttl: int


class GetCommand(msgspec.Struct, frozen=True):
    """Ask for a value."""

    key: bytes


class JoinCommand(msgspec.Struct, frozen=True):
    """Make a node a member."""

    id: bytes
    address: bytes


class BadFrame(msgspec.Struct, frozen=True):
    """These bytes are no command, and nobody can tell where the next one begins."""

    why: str


Command = SetCommand | GetCommand | JoinCommand

_FIELDS: dict[int, tuple[type[Command], tuple[int, ...], bool]] = {
    1: (SetCommand, (KEY_BYTES_MAX, VALUE_BYTES_MAX), True),
    2: (GetCommand, (KEY_BYTES_MAX,), False),
    3: (JoinCommand, (NAME_BYTES_MAX, NAME_BYTES_MAX), False),
    4: (JoinCommand, (NAME_BYTES_MAX, NAME_BYTES_MAX), False),
}
"""By code: what it is, the longest that each of its fields may be, and whether a ttl follows them."""


class Decoder:
    """Commands of one connection, however its bytes were cut. It holds less than one command of the largest size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._broken = False

    def feed(self, data: bytes) -> list[Command | BadFrame]:
        """The commands that are whole now. A `BadFrame` is the last that ever comes."""
        found: list[Command | BadFrame] = []
        if self._broken:
            return found
        self._buffer += data
        place = 0
        while place < len(self._buffer):
            command, end = self._parse(place)
            if command is None:
                break
            found.append(command)
            if isinstance(command, BadFrame):
                self._broken = True
                end = len(self._buffer)
            place = end
        del self._buffer[:place]
        return found

    def _parse(self, place: int) -> tuple[Command | BadFrame | None, int]:
        """The command that begins here, and where it ends; None: more has to come."""
        known = _FIELDS.get(self._buffer[place])
        if known is None:
            return BadFrame(f"no command has the code {self._buffer[place]}"), 0
        kind, limits, has_ttl = known
        place += 1
        fields: list[bytes | int] = []
        for limit in limits:
            length = self._integer(place)
            if length is None:
                return None, 0
            if not 0 <= length <= limit:
                return BadFrame(f"a field of {length} bytes: {limit} are the most"), 0
            place += INT32.size
            if place + length > len(self._buffer):
                return None, 0
            fields.append(bytes(self._buffer[place : place + length]))
            place += length
        if has_ttl:
            ttl = self._integer(place)
            if ttl is None:
                return None, 0
            if ttl < 0:
                return BadFrame(f"a time to live of {ttl} seconds"), 0
            fields.append(ttl)
            place += INT32.size
        return kind(*fields), place  # type: ignore[arg-type]

    def _integer(self, place: int) -> int | None:
        if place + INT32.size > len(self._buffer):
            return None
        number: int = INT32.unpack_from(self._buffer, place)[0]
        return number


def encode(command: Command) -> bytes:
    """What a client sends."""
    match command:
        case SetCommand(key, value, ttl):
            return b"\x01" + _field(key) + _field(value) + INT32.pack(ttl)
        case GetCommand(key):
            return b"\x02" + _field(key)
        case JoinCommand(id, address):
            return b"\x03" + _field(id) + _field(address)


def get_reply(status: Status, value: bytes = b"") -> bytes:
    """What answers a GET."""
    return bytes((status,)) + _field(value)


def _field(data: bytes) -> bytes:
    return INT32.pack(len(data)) + data
