r"""An increment of the log as we write it: commands in batches, each with a check sum, and room for those to come.

    #titan 1\n                      the first line: batches follow
    #batch 1186 0f3a22c1\n          so many bytes, and their CRC-32 (which begins with the place of this line)
    *3\r\n$3\r\nSET...              that many bytes: whole commands
    ######...#\n                    room, up to the end of the file

To Redis a line that begins with `#` is an annotation, which it passes over. Room is there so that a batch changes bytes
of the file and not its size, which the disk would have to confirm as well; and the check sum, because what is
overwritten may be torn in any place when the power fails, and not at the end alone.
"""

import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"#titan 1\n"

ROOM_BYTES = 1 << 20
"""Files with room end at a multiple of it."""

_LINE = 64
"""Bytes of a line of room. Redis reads a line in pieces of 127 bytes, and each has to begin with #."""

_ROOM = (b"#" * (_LINE - 1) + b"\n") * (ROOM_BYTES // _LINE)
_HEADER_MAX = 64
_TIMESTAMP = b"#TS:"
_HEADER = re.compile(rb"#batch ([1-9][0-9]{0,18}) ([0-9a-f]{8})\n")
_SOME_ROOM = re.compile(rb"(?:#+(?:\n|\Z))+")


def encode(commands: bytes, at: int) -> bytes:
    """A batch for that place in a file."""
    return b"#batch %d %08x\n%b" % (len(commands), _check_sum(commands, at), commands)


def room_from(at: int) -> bytes:
    """What is to be written from there to the next end of a file with room."""
    return _ROOM[at % ROOM_BYTES :]


def splits_line(end: int) -> bool:
    """Whether nothing but its end would be left of a line of room: it would be no annotation any more."""
    return end % _LINE == _LINE - 1


class BatchReader:
    """Reads a file whose first line is `MAGIC`, from there on.

    Attributes:
        at: behind the last whole batch.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.at = len(MAGIC)

    def __iter__(self) -> Iterator[bytes]:
        """The commands of each batch, as long as one follows the other whole."""
        self._file.seek(self.at)
        while (found := self._whole()) is not None:
            self.at = self._file.tell()
            yield found

    def _whole(self) -> bytes | None:
        at = self._file.tell()
        header = _HEADER.fullmatch(self._file.readline(_HEADER_MAX))
        if header is None or int(header[1]) > self._size - at:
            return None
        commands = self._file.read(int(header[1]))
        return commands if _check_sum(commands, at) == int(header[2], 16) else None

    def room_end(self) -> int:
        """Where the room behind the last whole batch ends: there is none if that is where the batch ends."""
        self._file.seek(self.at)
        found = _SOME_ROOM.match(self._file.read(ROOM_BYTES))
        return self.at + found.end() if found is not None else self.at

    def is_redis_next(self, at: int) -> bool:
        """Whether a real redis-server went on with the file there: it does at the end, of a batch or of room."""
        self._file.seek(at)
        following = self._file.read(len(_TIMESTAMP))
        is_command = following[:1] not in (b"", b"#") or following == _TIMESTAMP
        return is_command and (at == self.at or at % ROOM_BYTES == 0)

    def is_torn(self) -> bool:
        """Whether what follows the last whole batch is all that there is of one: then no other comes after it."""
        self._file.seek(self.at)
        rest = self._file.read()
        for found in _HEADER.finditer(rest):
            self._file.seek(self.at + found.start())
            if self._whole() is not None:
                return False
        return True


def _check_sum(commands: bytes, at: int) -> int:
    return zlib.crc32(commands, at & 0xFFFFFFFF)
