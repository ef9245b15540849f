"""The log of a node: lines for people, or one JSON object a line for programs."""

import logging
import sys
from collections import OrderedDict
from datetime import UTC, datetime

from titan_overlay.buckets import Bucket, Limit

ALIKE = Limit(rate=1.0, burst=60.0)
"""Warnings and errors of one kind. Strangers can cause many: each message that makes a handler raise leaves one."""
KINDS_MAX = 1024


class Sparing(logging.Filter):
    """Lets no more warnings and errors of one kind (one logger, one text before it is filled in) through than `ALIKE`.

    The next of the kind says in `left_out` how many were left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[tuple[str, str], tuple[Bucket, int]] = OrderedDict()
        """With how many were left out since the last that was let through."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        kind = record.name, str(record.msg)
        bucket, left_out = self._kinds.pop(kind, (Bucket(ALIKE), 0))
        now = record.relativeCreated / 1000
        if now + ALIKE.burst / ALIKE.rate < bucket.full:  # the clock was set back
            bucket = Bucket(ALIKE)
        waits = bucket.take(1, now) > 0
        self._kinds[kind] = bucket, left_out + 1 if waits else 0
        if len(self._kinds) > KINDS_MAX:
            self._kinds.popitem(last=False)
        record.left_out = left_out
        return not waits


class JsonLines(logging.Formatter):
    """Each record as one JSON object: time (RFC 3339, UTC), level, logger, message, traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _traceback(record):
            line["traceback"] = trace
        if left_out := getattr(record, "left_out", 0):
            line["left_out"] = left_out
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """`2026-01-31 12:00:00 warning no answer from ...`; what peers said cannot break the line, nor pass for another.

    Lines of a traceback are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        from titan_overlay.cli.output import printable

        head = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname.lower()}"
        text = printable(record.getMessage()).replace("\n", " ")
        if left_out := getattr(record, "left_out", 0):
            text += f" ({left_out} more like this were left out)"
        lines = printable(_traceback(record)).splitlines()
        return "\n    ".join([f"{head} {text}", *lines])


def _traceback(record: logging.LogRecord) -> str:
    """Of this process, or as text from another; empty without one."""
    return record.exc_text or (logging.Formatter().formatException(record.exc_info) if record.exc_info else "")


def set_up(level: str, *, json: bool) -> None:
    """Writes the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json else TextLines())
    handler.addFilter(Sparing())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What asyncio says at "info" and below is about itself.
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
