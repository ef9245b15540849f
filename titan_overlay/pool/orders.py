"""Messages that nodes take: every node is an object, `node:<id>`."""

import msgspec

from titan_overlay.pool.message import Message


class Accepted(msgspec.Struct, frozen=True):
    """The node holds a replica now, and has advertised it."""

    advertisement: bytes
    directory: int
    """Directory nodes that took the advertisement."""


class Recruit(Message[Accepted], frozen=True, namespace="titan"):
    """Please hold a replica. Refused with `Forbidden`, `Overloaded` or `Conflict` saying why."""

    descriptor: bytes
    holders: tuple[bytes, ...] = ()
    """Signed advertisements of other holders: sources of the content, and co-holders from now on."""
    source: bytes = b""
    """Id of whoever asks, to be asked back for content and code over the link that this came by."""
    passing: bool = False
    region: bytes = b""
    """Nodes of the object's region as whoever asks has read it, packed: to advertise to at first; may be empty."""
    lineage: bytes = b""
    """By which this node may say that it was asked (`identity.lineage`), where the object is voted on."""


class MayHost(Message[bytes], frozen=True, namespace="titan"):
    """Would you hold this, if you were asked to? Refused as `Recruit` would be.

    Answered with the public key with which the node would vote, if it is a mutable object.
    """

    descriptor: bytes


class Bury(Message[str], frozen=True, namespace="titan"):
    """A signed tombstone. Answers `deleted`, `wrong token`, `nothing to delete` or `already gone`."""

    tombstone: bytes


PINS_MAX = 64
"""Pins in one answer."""


class Pins(Message[list[bytes]], frozen=True, namespace="titan"):
    """Who wants this data kept? Signed descriptors: all, those of one publisher, or the one that a token takes away."""

    object_id: bytes
    publisher: bytes = b""
    token_hash: bytes = b""


class StepDown(Message[bool], frozen=True, namespace="titan"):
    """The publisher asks this node to give up its replica (it has moved). False: it held none."""

    object_id: bytes
    grant: bytes = b""
    """The sender's right to administer the name, where it is not the publisher."""


class NodeInfo(msgspec.Struct, frozen=True):
    """What a node says of itself; not proven."""

    id: str
    address: str
    version: str
    labels: dict[str, str]
    cores: int
    memory_bytes: int
    load: float
    """Load average of the last minute, divided by cores."""
    uptime: float
    """Seconds."""
    objects: int
    used_bytes: int
    max_bytes: int
    serving: bool
    hosting: bool
    peers: int
    pool_size: float
    """Nodes in the pool, as this node estimates."""
    reason: str = ""
    """Why it is a client only, read-only, or takes no part in mutable objects; else empty."""
    counters: dict[str, float] = {}


class Census(Message[NodeInfo], frozen=True, namespace="titan"):
    """Who are you?"""


class Holding(msgspec.Struct, frozen=True):
    """One replica, as its node lists it."""

    name: str
    kind: str
    type: str
    version: int
    owner: str
    since: float
    expires: float
    passing: bool
    copies: int
    """Holders known to this one, itself included."""
    size: int = 0


class Holdings(Message[list[Holding]], frozen=True, namespace="titan"):
    """What do you hold?"""


class Misdeed(msgspec.Struct, frozen=True):
    """One thing that a node has seen a peer do wrong."""

    ago: float
    """Seconds."""
    what: str
    why: str


class Seen(msgspec.Struct, frozen=True):
    """What a node itself has seen of a peer. Nothing that others say is in it."""

    peer: str
    latency: float | None
    """Seconds from request to reply over its link, smoothed; None: nothing was asked of late."""
    burden: float
    """What there is against it, with weights; halved every hour."""
    avoided_for: float
    """Seconds that others are still asked before it, if nothing more happens."""
    misdeeds: tuple[Misdeed, ...]
    """The latest, oldest first."""


class Conduct(Message[Seen], frozen=True, namespace="titan"):
    """From the node's own user: how has this peer behaved? Its id."""

    peer: bytes


class Neighbours(Message[list[str]], frozen=True, namespace="titan"):
    """Ids and addresses (`id@ip:port`) in the routing table, closest first: a census walks these."""

    count: int = 64


class DialBack(Message[bool], frozen=True, namespace="titan"):
    """Can you reach me? Only an address that the asker has proven to be its own is dialled."""

    address: str
    """As `host:port` or `[host]:port`."""


class News(msgspec.Struct, frozen=True):
    """Signed rules of the pool: believed for what they are, whoever brings them."""

    record: bytes = b""
    """The pool record, or empty."""
    lists: list[bytes] = []
    """Lists of revocations."""


class Rules(Message[News], frozen=True, namespace="titan"):
    """Which rules of the pool do you know that I lack?"""

    version: int
    """Of the pool record."""
    numbers: dict[str, int]
    """Of the lists of revocations, by the grantor's fingerprint."""


class Learn(Message[int], frozen=True, namespace="titan"):
    """Here are rules of the pool. Answers how many of them were news."""

    news: News


class HoldGrant(Message[bool], frozen=True, namespace="titan"):
    """From the node's own user: here is a grant for this node or for you. Whether it is used from now on."""

    grant: bytes


class Leave(Message[str], frozen=True, namespace="titan"):
    """From the node's own user: hand over, withdraw, stop."""
