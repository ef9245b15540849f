"""MONITOR: clients that are shown every command."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store.redaction import redacted

if TYPE_CHECKING:
    from titan_objects.store.session import Session
    from titan_objects.store.table import Args, Command


class Monitors:
    """Those clients.

    Args:
        deliver: sends a line to one of them.
    """

    def __init__(self, deliver: Callable[["Session", bytes], None]) -> None:
        self._deliver = deliver
        self._sessions: dict[Session, None] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def add(self, session: "Session") -> None:
        """It is shown what comes from now on."""
        self._sessions[session] = None
        session.told = True

    def leave(self, session: "Session") -> None:
        """It is shown nothing more."""
        self._sessions.pop(session, None)

    def show(self, origin: str, db: int, command: "Command", args: "Args", now: int) -> None:
        """Shows a call, unless it administers the store or its sub-command is none.

        Args:
            origin: the address of the client that calls, empty for a program of this process; `lua`: a script does.
            db: where it is executed.
            now: unix milliseconds.
        """
        if "admin" in command.flags or command.subcommands:
            return
        words = " ".join(map(quoted, redacted(args)))
        line = f"+{now / 1000:.6f} [{db} {origin or '?:0'}] {words}\r\n".encode("latin-1")
        for each in self._sessions:
            self._deliver(each, line)


def quoted(word: bytes) -> str:
    """As Redis prints it: in quotes, with escapes."""
    named = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 13: "\\r", 34: '\\"', 92: "\\\\"}
    return '"' + "".join(named.get(c) or (chr(c) if 32 <= c < 127 else f"\\x{c:02x}") for c in word) + '"'
