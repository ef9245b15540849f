r"""An increment of the log as we write it: commands in batches, each with a check sum, and room for those to come.

    #titan 1\n                      the first line: batches follow
    #batch 9 1186 0f3a22c1\n        the place of this line; so many bytes; and their CRC-32
    *3\r\n$3\r\nSET...              that many bytes: whole commands
    ######...#\n                    room, up to the end of the file

To Redis a line that begins with `#` is an annotation, which it passes over. Room is there so that a batch changes bytes
of the file and not its size, which the disk would have to confirm as well; and the check sum, because what is
overwritten may be torn in any place when the power fails, and not at the end alone.
"""

import re
import zlib
from collections.abc import Iterator
from mmap import mmap

MAGIC = b"#titan 1\n"

ROOM_BYTES = 1 << 20
"""Files with room end at a multiple of it."""

_LINE = 64
"""Bytes of a line of room. Redis reads a line in pieces of 127 bytes, and each has to begin with #."""

_ROOM = (b"#" * (_LINE - 1) + b"\n") * (ROOM_BYTES // _LINE)
_TIMESTAMP = b"#TS:"
_HEADER = re.compile(rb"#batch ([1-9][0-9]{0,18}) ([1-9][0-9]{0,18}) ([0-9a-f]{8})\n")
_SOME_ROOM = re.compile(rb"(?:#+(?:\n|\Z))+")


def encode(commands: bytes, at: int) -> bytes:
    """A batch for that place in a file."""
    return b"#batch %d %d %08x\n%b" % (at, len(commands), zlib.crc32(commands), commands)


def room_from(at: int) -> bytes:
    """What is to be written from there to the next end of a file with room."""
    room = _ROOM[at % ROOM_BYTES :]
    return b"#" + room[1:] if splits_line(at) else room


def splits_line(end: int) -> bool:
    """Whether nothing but its end would be left of a line of room: it would be no annotation any more."""
    return end % _LINE == _LINE - 1


class BatchReader:
    """Reads a file whose first line is `MAGIC`, from there on.

    Args:
        data: the whole file, mapped into memory perhaps.

    Attributes:
        at: behind the last whole batch.
    """

    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        self.at = len(MAGIC)

    def __iter__(self) -> Iterator[bytes]:
        """The commands of each batch, as long as one follows the other whole."""
        while (found := _whole(self._data, self.at)) is not None:
            commands, self.at = found
            yield commands

    def many(self, size: int) -> Iterator[tuple[int, bytes]]:
        """The same, of about so many bytes together, and where the first of these batches begins."""
        begin, some = self.at, []
        for commands in self:
            some.append(commands)
            if self.at - begin >= size:
                yield begin, b"".join(some)
                begin, some = self.at, []
        yield begin, b"".join(some)

    def room_end(self) -> int:
        """Where the room behind the last whole batch ends: there is none if that is where the batch ends."""
        found = _SOME_ROOM.match(self._data, self.at)
        return self.at if found is None else found.end()

    def is_redis_next(self, at: int) -> bool:
        """Whether a real redis-server went on with the file there, where it had ended: with a batch, or with room."""
        following = self._data[at : at + len(_TIMESTAMP)]
        is_command = following[:1] == b"*" or following == _TIMESTAMP
        if at > self.at:  # a batch that is torn may look like that; but room follows it
            return is_command and not self._ends_with_room()
        return is_command or following[:1] not in (b"", b"#", b"\0")  # zeros: room that was not written whole

    def _ends_with_room(self) -> bool:
        return len(self._data) % ROOM_BYTES == 0 and self._data[-2:] == b"#\n"

    def is_torn(self) -> bool:
        """Whether what follows the last whole batch is all that there is of one: then no other comes after it."""
        places = (found.start() for found in _HEADER.finditer(self._data, self.at))
        return all(_whole(self._data, at) is None for at in places)


def _whole(data: bytes | mmap, at: int) -> tuple[bytes, int] | None:
    """The commands of the batch at that place, and where it ends."""
    header = _HEADER.match(data, at)
    if header is None or int(header[1]) != at:  # a client can write headers too, but not know where
        return None
    end = header.end() + int(header[2])
    commands = data[header.end() : end]
    return (commands, end) if end <= len(data) and zlib.crc32(commands) == int(header[3], 16) else None
