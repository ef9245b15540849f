"""Grants: signed rights, checked offline. Invitations: a grant packed into a join line."""

import base64
from enum import IntFlag
from typing import ClassVar

import msgspec

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import ID_BYTES, NodeId, PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Id, Record, Signed, UnixTime
from titan_overlay.values import parse_address

CLOCK_TOLERANCE = 300.0
"""Seconds by which two honest wall clocks may differ."""

DEFAULT_SECONDS = 7 * 86400.0
FOUNDER_SECONDS = 365 * 86400.0


class Right(IntFlag):
    """What a grant may allow; each apart."""

    JOIN = 1
    CALL = 2
    HOST = 4
    PUBLISH = 8
    DELETE = 16
    ADMINISTER = 32

    @classmethod
    def parse(cls, text: str) -> "Right":
        """`publish,host` -> the rights. Raises ConfigError for an unknown word."""
        total = cls(0)
        for word in filter(None, (part.strip().upper() for part in text.split(","))):
            if word not in cls.__members__:
                raise ConfigError(
                    f"no such right: {word.lower()!r}; there are {', '.join(m.lower() for m in cls.__members__)}"
                )
            total |= cls[word]
        return total


STRANGER = Right.JOIN | Right.CALL
"""What anyone may do in a pool by default (and hold data, which verifies itself)."""


class Grant(Record, frozen=True, array_like=True):
    """`grantee` may do `rights` on names that `pattern` covers until `expires`.

    Signed by the pool's key (delegation by others comes with revocation).
    """

    LABEL: ClassVar[bytes] = b"grant"

    grantee: Id
    """NodeId of the key that gets the right; 32 zero bytes: whoever bears it (an invitation)."""
    rights: int
    pattern: str = "*"
    expires: UnixTime = 0.0
    trust: bytes = b""
    """Public key whose bundles the bearer's node should accept, or empty (an invitation that says so)."""


BEARER = bytes(ID_BYTES)


def issue(
    key: SigningKey,
    pool: PoolId,
    grantee: bytes,
    rights: Right,
    *,
    expires: float,
    pattern: str = "*",
    trust: bytes = b"",
) -> Signed[Grant]:
    """A grant signed by `key`, which must be the pool's."""
    return records.sign(Grant(bytes(grantee), int(rights), pattern, expires, trust), key, pool)


def check(raw: bytes, pool: PoolId, now: float) -> Signed[Grant]:
    """The grant in these bytes, if it was signed by the pool and has not expired.

    Raises:
        Forbidden: not the pool's, or expired. BadMessage: malformed.
    """
    grant = records.check(raw, Grant, pool)
    if grant.public != pool:
        raise Forbidden("this grant was not signed by the pool's key")
    if grant.value.expires + CLOCK_TOLERANCE < now:
        raise Forbidden("this grant has expired; ask for a new one: titan grant KEY RIGHTS")
    return grant


def allows(raw: bytes | None, pool: PoolId, who: NodeId, right: Right, name: str, now: float) -> bool:
    """Whether these bytes are a valid grant of `right` (all of it, where it is several) on `name` for `who`."""
    if not raw:
        return False
    try:
        grant = check(raw, pool, now).value
    except (Forbidden, BadMessage):
        return False
    return grant.grantee in (who, BEARER) and grant.rights & right == right and names.covers(grant.pattern, name)


def ends(raw: bytes, pool: PoolId) -> float:
    """When nobody takes this grant any more (unix seconds). BadMessage: it is none."""
    return records.check(raw, Grant, pool).value.expires + CLOCK_TOLERANCE


def may_publish(public: bytes, who: NodeId, name: str, grant: bytes | None, pool: PoolId, now: float) -> None:
    """Checks the right to publish a name.

    Raises:
        Forbidden: says which name would be allowed and which command grants this one.
    """
    kind = names.space(name)
    if public == pool or kind is names.Space.CONTENT:
        return
    if kind is names.Space.OWNER and name[1:].partition("/")[0] == fingerprint(public):
        return
    if kind is names.Space.NODE and name == names.node_name(who):
        return
    if kind is names.Space.POOL and allows(grant, pool, who, Right.PUBLISH, name, now):
        return
    mine = name.rpartition("/")[2] if kind is names.Space.OWNER else name
    raise Forbidden(
        f"key {fingerprint(public)} may not publish {name!r}; publish it as '~me/{mine}', "
        f"or let the holder of the pool's key run: titan grant {public.hex()} publish --names '{name}'"
    )


class Delegate(Record, frozen=True, array_like=True):
    """`agent`, the key of one running program, speaks for the user whose key signs this. So one user may run many."""

    LABEL: ClassVar[bytes] = b"delegate"

    agent: Id
    """NodeId of the program's own key."""
    expires: UnixTime


def speaker(raw: bytes, agent: NodeId, agent_public: bytes, pool: PoolId, now: float) -> tuple[NodeId, bytes]:
    """Id and public key of whoever `agent` speaks for: the signer of the delegation, or the agent itself."""
    if raw:
        try:
            signed = records.check(raw, Delegate, pool)
        except BadMessage:
            return agent, agent_public
        if signed.value.agent == agent and signed.value.expires + CLOCK_TOLERANCE > now:
            return signed.signer, signed.public
    return agent, agent_public


class JoinLine(msgspec.Struct, frozen=True):
    """`titan://POOL/NODE@host:port[?invitation]`, or a bare `host:port` (trust on first use)."""

    host: str
    port: int
    pool: bytes = b""
    node: bytes = b""
    invitation: bytes = b""

    def __str__(self) -> str:
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        if not self.pool:
            return address
        tail = f"?{_b64(self.invitation)}" if self.invitation else ""
        return f"titan://{self.pool.hex()}/{self.node.hex()}@{address}{tail}"

    @classmethod
    def parse(cls, text: str, default_port: int = 4747) -> "JoinLine":
        """Raises ConfigError naming what is wrong."""
        try:
            if not text.startswith("titan://"):
                return cls(*_dialable(text, default_port))
            pool, _, rest = text.removeprefix("titan://").partition("/")
            node, _, address = rest.partition("@")
            address, _, invitation = address.partition("?")
            if not _is_id(pool) or not _is_id(node):
                raise ValueError("pool and node have 64 hexadecimal digits each")
            host, port = _dialable(address, default_port)
            return cls(host, port, bytes.fromhex(pool), bytes.fromhex(node), _unb64(invitation))
        except ValueError as why:
            raise ConfigError(
                f"cannot read the join line {text!r} ({why}); it looks like host:port or titan://POOL/NODE@host:port"
            ) from None


def _dialable(text: str, default_port: int) -> tuple[str, int]:
    """Host and port; ValueError for what nobody can dial."""
    host, port = parse_address(text, default_port)
    if text.strip().startswith(":") or not host or not host.isprintable() or any(c in "@?#[]\\" for c in host):
        raise ValueError("not host:port")
    if port == 0:
        raise ValueError("port 0 cannot be dialled")
    return host, port


def _is_id(text: str) -> bool:
    return len(text) == 2 * ID_BYTES and all(c in "0123456789abcdefABCDEF" for c in text)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
