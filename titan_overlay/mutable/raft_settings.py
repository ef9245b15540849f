"""Times and bounds of a Raft group."""

import msgspec


class RaftSettings(msgspec.Struct, frozen=True):
    """Times in seconds; every bound that a group's memory and traffic have."""

    heartbeat: float = 0.1
    spread_after: float = 0.01
    """So much later do those hear of an entry who are not needed to commit it, and then of all that have come since."""
    election: float = 0.5
    """A follower waits for its leader between this and twice this, drawn anew each time."""
    sleep_after: float = 5.0
    """Without requests for so long, a group that agrees on everything stops its heartbeats."""
    appends_in_flight_max: int = 64
    bytes_in_flight_max: int = 1 << 20
    append_bytes_max: int = 1 << 18
    uncommitted_max: int = 4096
    """Entries that a leader takes on without knowing them committed."""
    reads_max: int = 4096
    trailing_entries: int = 1024
    """Entries kept behind a snapshot, so that who is a little late needs no whole state."""
    trailing_bytes_max: int = 1 << 22
    """Of them together: they are in memory, and written anew with each snapshot."""


DEFAULTS = RaftSettings()
