"""Invitations: rights for whoever has the join line, and for nobody who merely sees them used.

An invitation is a grant to a key made for it, together with that key's secret. Whoever redeems it passes the grant on
to a key of its own, and shows only that: what crosses the network, or stands in a directory, is of no use to another.
Redeeming is done off line, and gives the same bytes each time.
"""

from typing import Annotated

import msgspec

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import grants
from titan_overlay.identity.grants import Grant, Right
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.keys import KEY_BYTES, SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.wire import codec


class Invitation(msgspec.Struct, frozen=True, array_like=True):
    """What a join line carries. Secret."""

    seed: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    """Of the key that the grant is for."""
    grant: bytes


def invite(
    key: SigningKey,
    pool: PoolId,
    rights: Right,
    *,
    seed: bytes,
    now: float,
    expires: float,
    pattern: str = "*",
    trust: bytes = b"",
    parent: bytes = b"",
) -> bytes:
    """An invitation by `key`, as bytes for a join line.

    Args:
        seed: 32 fresh secret bytes.

    Raises:
        Forbidden, BadMessage: as `grants.issue`.
    """
    bearer = SigningKey(seed)
    made = grants.issue(
        key, pool, bearer.id, rights, now=now, expires=expires, pattern=pattern, depth=1, trust=trust, parent=parent
    )
    return codec.encode(Invitation(seed, made.raw))


def redeem(raw: bytes, pool: PoolId, grantee: NodeId) -> Signed[Grant]:
    """The rights of an invitation, for a key of one's own.

    Raises:
        BadMessage: no invitation. Forbidden: it does not come from the pool's key.
    """
    invitation = codec.decode(raw, Invitation)
    given = grants.chain(invitation.grant, pool)[-1].value
    bearer = SigningKey(invitation.seed)
    if bearer.id != given.grantee:
        raise BadMessage("an invitation whose secret is not that of its grant")
    return grants.issue(
        bearer,
        pool,
        grantee,
        Right(given.rights),
        now=given.issued,
        expires=given.expires,
        pattern=given.pattern,
        parent=invitation.grant,
    )


def redeemed(raw: bytes, pool: PoolId, *grantees: NodeId) -> list[bytes]:
    """As `redeem` for several keys, as signed. ConfigError: the invitation is not good."""
    try:
        return [redeem(raw, pool, grantee).raw for grantee in grantees]
    except (BadMessage, Forbidden):
        raise ConfigError(
            f"the invitation in the join line does not hold for pool {pool.hex()[:12]}: was the line copied whole?"
        ) from None
