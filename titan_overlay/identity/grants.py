"""Grants: signed rights, checked offline, passed on narrower. Join lines: where a pool is, and perhaps an invitation.

    pool key --signs--> grant to A, depth 2 --in--> grant by A to B, depth 1 --in--> grant by B to C, depth 0

A grant that was passed on carries the one that it came from, so whoever is shown it can check the whole chain without
asking anybody. Each link allows no more than the one before it: fewer or equal rights, names within its pattern, no
later end. Whether a grant was revoked, and what strangers may do without one, is for `rights.Rights` to say.
"""

import base64
from enum import IntFlag
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, ClassVar

import msgspec

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import ID_BYTES, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Id, Record, Seconds, Signed
from titan_overlay.values import parse_address

CLOCK_TOLERANCE = 300.0
"""Seconds by which two honest wall clocks may differ."""

DEFAULT_SECONDS = 7 * 86400.0
FOUNDER_SECONDS = 365 * 86400.0
LONGEST_SECONDS = 366 * 86400.0
"""No grant lasts longer: so the revocation of a key can be forgotten one day."""

MAX_DEPTH = 2
"""Times that a grant of the pool's key may be passed on. Three links fit into a descriptor."""


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


def words(rights: int) -> str:
    """The rights as `Right.parse` reads them: `publish,host`."""
    return ",".join(str(each.name).lower() for each in Right if each & rights)


class Grant(Record, frozen=True, array_like=True):
    """`grantee` may do `rights` on names that `pattern` covers until `expires`.

    Signed by the pool's key, or by the grantee of the grant in `parent`.
    """

    LABEL: ClassVar[bytes] = b"grant"
    LIMIT: ClassVar[int] = 600
    """A chain must fit beside what it is shown with: in a handshake, an advertisement, a descriptor."""

    grantee: Id
    """NodeId of the key that gets the right."""
    rights: Annotated[int, msgspec.Meta(ge=0, le=63)]
    pattern: str
    issued: Seconds
    expires: Seconds
    depth: Annotated[int, msgspec.Meta(ge=0, le=MAX_DEPTH)] = 0
    """How many times it may be passed on."""
    trust: bytes = b""
    """Public key whose bundles the grantee's node should accept, or empty. Only the pool's key can say so."""
    parent: bytes = b""
    """The signed grant that this one was made from; empty: the pool's key signed this one."""


def issue(
    key: SigningKey,
    pool: PoolId,
    grantee: bytes,
    rights: Right,
    *,
    now: float,
    expires: float,
    pattern: str = "*",
    depth: int = 0,
    trust: bytes = b"",
    parent: bytes = b"",
) -> Signed[Grant]:
    """A grant signed by `key`: the pool's, or that of the grantee of `parent`.

    Raises:
        Forbidden: `parent` does not allow this (the text says what), or it would last too long.
        BadMessage: the chain is too long to be shown.
    """
    grant = Grant(bytes(grantee), int(rights), pattern, int(now), int(expires), depth, trust, parent)
    try:
        signed = records.sign(grant, key, pool)
    except BadMessage as why:
        raise BadMessage(
            f"{why}; a grant that was passed on carries those before it: ask for one nearer the pool's"
        ) from None
    chain(signed.raw, pool)
    return signed


Chain = tuple[Signed[Grant], ...]
"""From the one that the pool's key signed to the one that counts."""


@lru_cache(maxsize=4096)
def chain(raw: bytes, pool: PoolId) -> Chain:
    """The grants in these bytes, each of which is narrower than the one before it. Not asked: has any expired?

    Raises:
        BadMessage: malformed, or a signature does not hold.
        Forbidden: not from the pool's key, or wider than what it was made from.
    """
    links: list[Signed[Grant]] = []
    while raw:
        if len(links) > MAX_DEPTH:
            raise Forbidden(f"this grant was passed on more than {MAX_DEPTH} times")
        link = records.check(raw, Grant, pool)
        links.append(link)
        raw = link.value.parent
    links.reverse()
    if not links or links[0].public != pool:
        raise Forbidden("this grant does not come from the pool's key")
    for link in links:
        if link.value.expires > link.value.issued + LONGEST_SECONDS:
            raise Forbidden(f"a grant lasts at most {LONGEST_SECONDS / 86400:g} days")
    for parent, child in pairwise(links):
        _check_narrower(parent, child)
    return tuple(links)


def _check_narrower(parent: Signed[Grant], child: Signed[Grant]) -> None:
    given, passed = parent.value, child.value
    if child.signer != given.grantee:
        raise Forbidden("this grant was passed on by another key than the one that had it")
    if passed.depth >= given.depth:
        raise Forbidden("this grant may not be passed on; its grantor can allow that: titan grant --delegable")
    if passed.rights & ~given.rights:
        raise Forbidden(f"who has {words(given.rights)} cannot pass on {words(passed.rights & ~given.rights)}")
    if not names.covers(given.pattern, passed.pattern):
        raise Forbidden(f"who has rights on {given.pattern!r} cannot pass them on for {passed.pattern!r}")
    if passed.expires > given.expires:
        raise Forbidden("a grant that is passed on ends no later than the one that it was made from")
    if passed.trust:
        raise Forbidden("only the pool's key says whose code to trust")


def claimed_pool(raw: bytes) -> PoolId:
    """The pool that a grant says it comes from; nothing is checked. BadMessage: no grant."""
    for _ in range(MAX_DEPTH + 1):
        public, grant = records.claimed(raw, Grant)
        if not grant.parent:
            return PoolId(public)
        raw = grant.parent
    raise BadMessage(f"a grant that was passed on more than {MAX_DEPTH} times")


def holds_at(links: Chain, at: float) -> bool:
    """Whether none of the chain has expired by then (unix seconds).

    When it was issued is not asked: a clock that was set back takes nothing away.
    """
    return all(at <= link.value.expires + CLOCK_TOLERANCE for link in links)


def gives(links: Chain, right: Right, name: str | None) -> bool:
    """Whether it is of this right (all of it, where it is several) on this name. The last link is the narrowest.

    Args:
        name: None for a right that is about no name (to join).
    """
    grant = links[-1].value
    return grant.rights & right == right and (name is None or names.covers(grant.pattern, name))


class JoinLine(msgspec.Struct, frozen=True):
    """`titan://POOL/NODE@host:port[?invitation]`, or a bare `host:port` (trust on first use)."""

    host: str
    port: int
    pool: bytes = b""
    node: bytes = b""
    invitation: bytes = b""

    @property
    def address(self) -> str:
        """`host:port`; an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        if not self.pool:
            return self.address
        tail = f"?{_b64(self.invitation)}" if self.invitation else ""
        return f"titan://{self.pool.hex()}/{self.node.hex()}@{self.address}{tail}"

    @classmethod
    def parse(cls, text: str, default_port: int = 4747) -> "JoinLine":
        """Raises ConfigError naming what is wrong, but no invitation: that is a secret."""
        try:
            if not text.startswith("titan://"):
                return cls(*_dialable(text, default_port))
            text = "".join(text.split())  # a line that was broken on its way
            pool, _, rest = text.removeprefix("titan://").partition("/")
            node, _, address = rest.partition("@")
            address, _, invitation = address.partition("?")
            if not _is_id(pool) or not _is_id(node):
                raise ValueError("pool and node have 64 hexadecimal digits each: was it copied whole, as one line?")
            host, port = _dialable(address, default_port)
            return cls(host, port, bytes.fromhex(pool), bytes.fromhex(node), _unb64(invitation))
        except ValueError as why:
            shown, mark, _ = text.partition("?")
            raise ConfigError(
                f"cannot read the join line {shown + mark!r} ({why}); it looks like host:port or "
                "titan://POOL/NODE@host:port"
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
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError("what follows the question mark is no invitation: was it copied whole, as one line?") from None
