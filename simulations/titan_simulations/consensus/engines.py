"""The engines that are put to the test, each with what the simulation has to know of it."""

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.mutable import bft_messages, raft_messages
from titan_overlay.mutable.bft import Bft, Valid
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import Checkpoint, Configuration, Engine, EntryKind
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_settings import RaftSettings
from titan_simulations.consensus.bft_liar import Knowledge, LyingBft
from titan_simulations.consensus.bodies import decode_configuration, decode_requests

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
    """Whether clients send to all members, and all reply."""
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

BFT_SETTINGS = BftSettings(
    view=0.4,
    view_max=1.6,
    block_bytes_max=400,
    block_entries_max=4,
    queue_bytes_max=20_000,
    reply_bytes_max=1500,
    checkpoint_blocks=16,
    window_blocks=64,
)
POOL, GROUP = b"pool".ljust(32, b"."), b"group".ljust(32, b".")


def _committee(me: bytes, configuration: Configuration) -> Committee:
    """Keys of one epoch. Nobody can sign as another who is not given the other's `sign`."""

    def sign_as(member: bytes, statement: bytes) -> bytes:
        return blake2b(member + statement, key=b"voting key of epoch %d" % configuration.epoch).digest()

    return Committee(
        me,
        configuration,
        POOL,
        GROUP,
        partial(sign_as, me),
        lambda member, signature, statement: signature == sign_as(member, statement),
    )


def _valid(configuration: Configuration) -> Valid:
    """Requests are their clients' own; a reconfiguration replaces one member."""

    def valid(kind: EntryKind, data: bytes) -> bool:
        try:
            if kind is EntryKind.COMMANDS:
                return all(request.proof == request.proven().proof for request in decode_requests(data))
            after = decode_configuration(data)
        except (msgspec.MsgspecError, ValueError):
            return False
        members = set(after.members)
        return (
            after.epoch == configuration.epoch + 1
            and len(members) == len(after.members) == len(configuration.members)
            and len(members & set(configuration.members)) == len(members) - 1
        )

    return valid


def _bft(me: bytes, configuration: Configuration, checkpoint: Checkpoint, records: list[Any], random: Random) -> Bft:
    return Bft(_committee(me, configuration), checkpoint, records, _valid(configuration), BFT_SETTINGS)


def _lying_bft(
    me: bytes, configuration: Configuration, checkpoint: Checkpoint, records: list[Any], random: Random
) -> LyingBft:
    committee = _committee(me, configuration)
    old = _committee(me, msgspec.structs.replace(configuration, epoch=configuration.epoch - 1))
    face = partial(_bft, me, configuration, checkpoint, [], random)
    return LyingBft(committee, old, face, random, Knowledge(committee))


BFT = EngineKind(
    name="bft",
    members=4,
    replies=2,
    reads_apart=False,
    everybody=True,
    snapshot_every=None,
    make=_bft,
    decode_message=bft_messages.decode_message,
    decode_record=bft_messages.decode_record,
    liars=1,
    make_liar=_lying_bft,
)

KINDS = {kind.name: kind for kind in (RAFT, BFT)}
