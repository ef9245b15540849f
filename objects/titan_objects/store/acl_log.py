"""What was refused to whom, for ACL LOG."""

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from titan_objects.store.session import Session

TOGETHER_MS = 60_000
"""The same refusal within this time is counted, not noted anew."""

LOOKED_THROUGH = 10
OBJECT_BYTES_MAX = 1024


class Denial(NamedTuple):
    """Why a command is refused: `reason` is command, key, channel or auth; `object`, its or their name.

    `text` is what its sender is told, `always`: within a script and at EXEC as well.
    """

    reason: str
    object: bytes
    text: str = ""
    always: bool = False


class Entry:
    """One refusal, or several that are alike. `last_ms`: when it was the last time."""

    def __init__(self, denial: Denial, context: str, user: str, session: "Session", now: int) -> None:
        self.reason = denial.reason
        self.object = denial.object[:OBJECT_BYTES_MAX]
        self.context = context
        self.user = user[:OBJECT_BYTES_MAX]
        age, name = max(0, now - session.created_ms) // 1000, session.name.decode("latin-1")
        who = session.user.name if session.user is not None else "(none)"
        addresses = f"addr={session.address} laddr={session.local_address}"
        self.client = f"id={session.id} {addresses} name={name} age={age} user={who}"
        self.count = 1
        self.last_ms = now

    def like(self, other: "Entry") -> bool:
        """Whether both are the same refusal, but for the time."""
        mine, theirs = ((each.reason, each.object, each.context, each.user) for each in (self, other))
        return mine == theirs and abs(self.last_ms - other.last_ms) <= TOGETHER_MS


class AclLog:
    """The latest refusals, the last one first."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()

    def note(self, new: Entry, most: int) -> None:
        """Adds or counts one, and lets the oldest go."""
        for at in range(min(LOOKED_THROUGH, len(self.entries))):
            if self.entries[at].like(new):
                new.count += self.entries[at].count
                del self.entries[at]
                break
        self.entries.appendleft(new)
        while len(self.entries) > most:
            self.entries.pop()
