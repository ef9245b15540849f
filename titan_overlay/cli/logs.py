"""The log of a node: lines for people, or one JSON object a line for programs."""

import logging
import sys
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """Each record as one JSON object: time (RFC 3339, UTC), level, logger, message, traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        import msgspec

        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _traceback(record):
            line["traceback"] = trace
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """`2026-01-31 12:00:00 warning no answer from ...`; what peers said cannot break the line, nor pass for another.

    Lines of a traceback are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        from titan_overlay.cli.output import printable

        head = f"{self.formatTime(record, '%Y-%m-%d %H:%M:%S')} {record.levelname.lower()}"
        text = printable(record.getMessage()).replace("\n", " ")
        lines = printable(_traceback(record)).splitlines()
        return "\n    ".join([f"{head} {text}", *lines])


def _traceback(record: logging.LogRecord) -> str:
    """Of this process, or as text from another; empty without one."""
    return record.exc_text or (logging.Formatter().formatException(record.exc_info) if record.exc_info else "")


def set_up(level: str, *, json: bool) -> None:
    """Writes the log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if json else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What asyncio says at "info" and below is about itself.
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
