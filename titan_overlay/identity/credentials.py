"""What a peer shows of itself: for whom it speaks, and the grants that it has.

A key proves itself in the handshake (UDP) or by TLS (links). Beside it the peer shows `Credentials`: a delegation,
where a program speaks for its user, and grants. All of it is worth nothing in another's hands.
"""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity import records
from titan_overlay.identity.grants import CLOCK_TOLERANCE
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.records import Id, Record, UnixTime
from titan_overlay.wire import codec

GRANTS_MAX = 16
"""That are looked at: checking one costs a signature or three."""
DATAGRAM_BYTES = 760
"""Of credentials that are shown in a handshake: a delegation and one grant of any depth."""
LINK_BYTES = 8192
"""Of credentials that are shown on a link."""


class Delegate(Record, frozen=True, array_like=True):
    """`agent`, the key of one running program, speaks for the user whose key signs this. So one user may run many."""

    LABEL: ClassVar[bytes] = b"delegate"

    agent: Id
    """NodeId of the program's own key."""
    expires: UnixTime


class Credentials(msgspec.Struct, frozen=True, array_like=True):
    """What is shown, as signed."""

    delegation: bytes = b""
    grants: tuple[bytes, ...] = ()


class Speaker(msgspec.Struct, frozen=True):
    """For whom a peer speaks."""

    id: NodeId
    public: bytes
    """The user's key where a delegation holds, else the peer's own."""
    grants: tuple[bytes, ...]
    """As shown, not checked."""
    until: float
    """Unix seconds: the delegation ends then."""


def pack(delegation: bytes, grants: Iterable[bytes], limit: int) -> bytes:
    """Credentials as bytes: the delegation, and those of the grants that fit, the first first; b"" for nothing."""
    room = limit - len(delegation) - 8
    shown: list[bytes] = []
    for grant in dict.fromkeys(grants):
        if grant and len(grant) + 3 <= room and len(shown) < GRANTS_MAX:
            shown.append(grant)
            room -= len(grant) + 3
    return codec.encode(Credentials(delegation, tuple(shown))) if delegation or shown else b""


def speaker(raw: bytes, agent: NodeId, public: bytes, pool: PoolId, now: float) -> Speaker:
    """For whom `agent` speaks, and what it shows. Total: credentials that cannot be read are none.

    Args:
        public: the agent's key.
    """
    try:
        shown = codec.decode(raw, Credentials) if raw else Credentials()
        if not shown.delegation:
            return Speaker(agent, public, shown.grants[:GRANTS_MAX], float("inf"))
        signed = records.check(shown.delegation, Delegate, pool)
    except BadMessage:
        return Speaker(agent, public, (), float("inf"))
    until = signed.value.expires + CLOCK_TOLERANCE
    if signed.value.agent != agent or until <= now:
        return Speaker(agent, public, (), float("inf"))
    return Speaker(signed.signer, signed.public, shown.grants[:GRANTS_MAX], until)
