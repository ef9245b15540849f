"""The engines that are put to the test, each with what the simulation has to know of it."""

from collections.abc import Callable
from typing import Any

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.mutable import raft_messages
from titan_overlay.mutable.engine import Checkpoint, Configuration, Engine
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_settings import RaftSettings

Make = Callable[[bytes, Configuration, Checkpoint, list[Any], Random], Engine]
"""(me, configuration, checkpoint, records, random) -> a member that starts, or starts again."""


class EngineKind(msgspec.Struct, frozen=True):
    """One kind of engine."""

    name: str
    members: int
    """How many a group has that survives one failure."""
    replies: int
    """So many members must give a client the same reply before it is believed."""
    reads_apart: bool
    """Whether reads may be asked for with `ReadAsked`; otherwise they are put in order as writes are."""
    everybody: bool
    """Whether clients send to all members, from their second try on, and all reply."""
    snapshot_every: int | None
    """Heights between two snapshots; None: where the engine says so."""
    make: Make
    decode_message: Callable[[bytes], Any]
    decode_record: Callable[[bytes], Any]
    liars: int = 0
    """So many machines of the first epoch lie, from the first."""
    make_liar: Make | None = None
    """What such a machine has in the place of the engine."""


# Small bounds, so that a short run meets them all.
RAFT_SETTINGS = RaftSettings(
    trailing_entries=20, append_bytes_max=600, appends_in_flight_max=4, bytes_in_flight_max=2000, sleep_after=3.0
)


def _raft(me: bytes, configuration: Configuration, checkpoint: Checkpoint, records: list[Any], random: Random) -> Raft:
    return Raft(me, configuration, checkpoint, records, random, RAFT_SETTINGS)


RAFT = EngineKind(
    name="raft",
    members=3,
    replies=1,
    reads_apart=True,
    everybody=False,
    snapshot_every=40,
    make=_raft,
    decode_message=raft_messages.decode_message,
    decode_record=raft_messages.decode_record,
)

KINDS = {kind.name: kind for kind in (RAFT,)}
