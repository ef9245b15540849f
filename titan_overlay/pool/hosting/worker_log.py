"""What a worker process logs and prints, on its way into the log of its node: in lines, bounded, in the object's name.

All of it comes over the worker's standard error, so that it stays in order and the last words of a process that crashes
arrive too: records as JSON texts (RFC 7464: a record separator, JSON, a line feed), what is printed as it is.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from typing import Annotated

import msgspec

from titan_overlay.buckets import Bucket, Limit

_LOG = logging.getLogger("titan_overlay.object")

TEXT_CHARACTERS_MAX = 4096
TRACEBACK_CHARACTERS_MAX = 16384
"""Of a longer traceback the end is kept: it says what was raised."""
LINE_BYTES_MAX = 128 * 1024
"""Above a record with the longest text and traceback, each character as long as JSON can make it."""
LINES = Limit(rate=50.0, burst=500.0)
"""Lines of one worker that are logged; of others only how many there were."""
READ_BYTES = 64 * 1024
READ_PAUSE_SECONDS = 0.05
"""Between two reads: a worker that writes without end waits for its pipe, and hardly takes the node's time."""
LAST_WORDS_SECONDS = 1.0
"""How long to hear on after a worker's end; a process that it has left behind may keep the pipe open for ever."""

_SEPARATOR = b"\x1e"


class Record(msgspec.Struct, frozen=True):
    """One line of a worker's log."""

    level: Annotated[int, msgspec.Meta(ge=0, le=logging.CRITICAL)]
    text: str
    traceback: str = ""


class ToNode(logging.Handler):
    """In the worker: writes records for `Lines`.

    Args:
        fd: where to; each record with one call to the system.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage() if record.name == _LOG.name else f"{record.name}: {record.getMessage()}"
            trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
            line = Record(
                min(max(record.levelno, 0), logging.CRITICAL),
                _encodable(text[:TEXT_CHARACTERS_MAX]),
                _encodable(trace[-TRACEBACK_CHARACTERS_MAX:]),
            )
            os.write(self._fd, _SEPARATOR + msgspec.json.encode(line) + b"\n")
        except Exception:
            self.handleError(record)


def _encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode()


class Lines:
    """What to log of the bytes that a worker writes. No I/O, no clock; any bytes will do.

    Args:
        name: of the object; each text begins with it, whatever the worker says.
    """

    def __init__(self, name: str) -> None:
        self._prefix = f"{name}: "
        self._rest = b""
        self._bucket = Bucket(LINES)
        self._left_out = 0

    def take(self, data: bytes, now: float) -> list[Record]:
        """The records that are complete. A line over `LINE_BYTES_MAX` counts as several.

        Args:
            now: seconds, monotonic.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest)
            self._rest = b""
        return [each for line in lines for record in _records(line) for each in self._admitted(record, now)]

    def end(self, now: float) -> list[Record]:
        """After the last bytes: a line without an end, and how many were left out."""
        return [*(each for record in _records(self._rest) for each in self._admitted(record, now)), *self._omission()]

    def _admitted(self, record: Record, now: float) -> list[Record]:
        if not _LOG.isEnabledFor(record.level):
            return []
        if self._bucket.take(1.0, now):
            self._left_out += 1
            return []
        text = record.text if record.text.startswith(self._prefix) else self._prefix + record.text
        whole = Record(record.level, text[:TEXT_CHARACTERS_MAX], record.traceback[-TRACEBACK_CHARACTERS_MAX:])
        return [*self._omission(), whole]

    def _omission(self) -> list[Record]:
        count, self._left_out = self._left_out, 0
        said = f"{self._prefix}{count} lines of its log were left out: it wrote more than {LINES.rate:g} a second"
        return [Record(logging.WARNING, said)] if count else []


def _records(line: bytes) -> Iterator[Record]:
    """A record, and what was printed before it without a line feed; or what was printed."""
    printed, separator, text = line.rpartition(_SEPARATOR)
    record = _parsed(text) if separator else None
    if record is None:
        printed = line
    if printed.strip():
        yield Record(logging.INFO, printed[: 4 * TEXT_CHARACTERS_MAX].decode("utf-8", "replace"))
    if record is not None:
        yield record


def _parsed(text: bytes) -> Record | None:
    try:
        return msgspec.json.decode(text, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def listen(fd: int, name: str) -> None:
    """Logs what a worker writes, until it ends or this is cancelled.

    Args:
        fd: the pipe's end to read from; it is closed at the end. name: of the object.
    """
    loop = asyncio.get_running_loop()
    lines = Lines(name)
    reader = asyncio.StreamReader(READ_BYTES)
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    try:
        while data := await reader.read(READ_BYTES):
            _log(lines.take(data, loop.time()))
            await asyncio.sleep(READ_PAUSE_SECONDS)
    finally:
        pipe.close()
        _log(lines.end(loop.time()))


def _log(records: list[Record]) -> None:
    for each in records:
        made = _LOG.makeRecord(_LOG.name, each.level, "", 0, "%s", (each.text,), None)
        made.exc_text = each.traceback or None
        _LOG.handle(made)
