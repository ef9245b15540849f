"""An object's own rules, and the signed statements about it: `Policy`, `Descriptor`, `Advertisement`, `Tombstone`."""

from hashlib import sha256
from math import inf
from typing import ClassVar, Literal

import msgspec

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import PACKED_BYTES, Address, Contact, is_dialable, of_addresses, unpack_address
from titan_overlay.identity.grants import CLOCK_TOLERANCE, Right
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Count, Id, Port, Record, Signed, UnixTime
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.subnets import nameable, public_subnet

Kind = Literal["data", "service", "mutable"]

COPIES_MAX = 64
"""Of one object, at most."""


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """How the pool keeps the copies of an object. All times in seconds."""

    min_copies: int = 3
    max_copies: int = 8
    ttl: float = 0.0
    """How long a replica lives after the object was published or last pinned; 0: for ever."""
    cache: bool = True
    """Data only: nodes that read it may keep it for a while and answer for it."""
    cache_ttl: float = 600.0
    reduplicate: bool = True
    """Holders make new copies while there are fewer than `min_copies`."""
    deduplicate: bool = True
    """Surplus holders step down while there are more than `max_copies`."""
    bound: bool = False
    """Lives on one node and is never copied."""
    hosts: Literal["granted", "anyone"] = "granted"
    """Who may hold a service. Granted: nodes with a grant to host its name, and the publisher's own."""
    callers: Literal["anyone", "granted"] = "anyone"
    """Who may send to it. Granted: keys with a grant to call its name, and the publisher's own."""
    votes: int = 1
    """Services only: so many holders of distinct owners and subnets are asked, twice as many where two of them differ.
    A strict majority of those asked must agree. Best with twice as many copies."""
    compare: str = "exact"
    """Which answers agree: `exact`, `set` (lists in any order), `close:1e-6` (numbers, by a share of the larger)."""
    faults: int = 0
    byzantine: bool = False
    requires: dict[str, str] = {}
    """Labels that a holder must have."""
    max_bytes: int = 0
    """Largest message the object accepts; 0: the node's limit."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_copies <= self.max_copies <= COPIES_MAX:
            copies = f"{self.min_copies} and {self.max_copies}"
            raise ValueError(f"1 <= min_copies <= max_copies <= {COPIES_MAX}, not {copies}")
        if not (0 <= self.ttl < inf and 0 <= self.cache_ttl < inf) or self.max_bytes < 0:
            raise ValueError("ttl, cache_ttl and max_bytes are finite and not negative")
        if self.votes < 1 or self.faults < 0:
            raise ValueError("votes is 1 or more, faults 0 or more")
        if self.votes > self.min_copies:
            raise ValueError(f"votes={self.votes} needs as many holders: min_copies is {self.min_copies}")
        if self.votes > 1 and self.bound:
            raise ValueError("an object bound to one node cannot be voted on")
        tolerance_of(self.compare)


def tolerance_of(compare: str) -> float:
    """By what share of the larger one two numbers may differ and still count as equal; 0: not at all.

    Raises:
        ValueError: there is no such comparison.
    """
    if compare in ("exact", "set"):
        return 0.0
    kind, _, share = compare.partition(":")
    try:
        tolerance = float(share) if kind == "close" else inf
    except ValueError:
        tolerance = inf
    if not 0 < tolerance < 1:
        raise ValueError(f"compare is 'exact', 'set' or 'close:1e-6' (a share between 0 and 1), not {compare[:40]!r}")
    return tolerance


class Content(msgspec.Struct, frozen=True, array_like=True):
    """The bytes of a data object: verified chunk by chunk against the manifest, and as a whole against its name."""

    size: Count
    chunk_bytes: Count
    manifest: Id
    """SHA-256 of the concatenated SHA-256 digests of the chunks."""


class Descriptor(Record, frozen=True, array_like=True, omit_defaults=True):
    """What an object is. Signed by its publisher, whose key comes with the signature."""

    LABEL: ClassVar[bytes] = b"descriptor"
    LIMIT: ClassVar[int] = 820
    """A tombstone carries the descriptor that it ends, and must fit in a datagram itself."""

    name: str
    """Full name (`~fingerprint/x`, never `~me/x`)."""
    kind: Kind
    type: str
    """Installed object type (`echo`), `Class` in the bundle, or `` for data."""
    version: Count
    """The higher wins; ties go to the smaller hash."""
    created: UnixTime
    policy: Policy = Policy()
    token_hash: bytes = b""
    """SHA-256 of the token that deletes this version."""
    bundle: bytes = b""
    """SHA-256 of the bundle, or empty."""
    content: Content | None = None
    idempotent: tuple[str, ...] = ()
    """Message types that may run more than once; `*`: all."""
    grant: bytes = b""
    """The publisher's grant, where the name needs one."""
    genesis: bytes = b""
    """Mutable objects: hash of the members that found its group (`mutable.epochs.configuration_hash`)."""


class Advertisement(Record, frozen=True, array_like=True, omit_defaults=True):
    """A holder's statement "I hold this object". The highest `sequence` of a holder wins."""

    LABEL: ClassVar[bytes] = b"advertisement"

    object_id: Id
    host: str
    """A literal address: nobody is made to look a name up."""
    port: Port
    sequence: Count
    """Grows with every statement of this holder about this object (unix milliseconds, made monotonic)."""
    expires: UnixTime
    version: Count = 0
    """Of the descriptor that it holds."""
    withdrawn: bool = False
    """A withdrawal: it holds the object no longer."""
    passing: bool = False
    """An opportunistic cache: answers, but is not counted as a copy."""
    grant: bytes = b""
    """The holder's right to host, where the object asks for one."""
    other: bytes = b""
    """The holder's address of the other family, packed (`identity.contacts`), where it has one."""
    lineage: bytes = b""
    """Who has asked it to (`identity.lineage`), where the object is voted on."""

    def __post_init__(self) -> None:
        if not is_dialable(self.host, self.port):
            raise ValueError(f"an advertisement names an address and a port, not {self.host[:64]!r} and {self.port}")
        if self.other and not (len(self.other) in PACKED_BYTES.values() and is_dialable(*unpack_address(self.other))):
            raise ValueError("the other address is none")

    @property
    def addresses(self) -> list[Address]:
        """Where the holder says that it can be reached: public addresses alone, if there are any."""
        named: list[Address] = [(self.host, self.port)]
        if self.other:
            named.append(unpack_address(self.other))
        return [each for each in named if public_subnet(each[0])] or named

    def contact(self, holder: NodeId) -> Contact:
        """Where the holder that signed this can be reached."""
        return of_addresses(holder, *self.addresses)

    def may_be_told(self, by: str) -> bool:
        """Whether a peer at this address may send others there (`identity.subnets.nameable`)."""
        return bool(nameable(by, self.addresses))


class Tombstone(Record, frozen=True, array_like=True):
    """The object, up to `version`, is deleted. Proven by the token, the publisher's signature, or a grant to delete."""

    LABEL: ClassVar[bytes] = b"tombstone"

    descriptor: bytes
    """The signed descriptor that this ends."""
    version: Count
    expires: UnixTime
    token: bytes = b""
    grant: bytes = b""
    """The signer's right to delete the name, where it is neither the publisher nor has the token."""


def check_descriptor(raw: bytes, object_id: ObjectId | None, rights: Rights) -> Signed[Descriptor]:
    """A descriptor that is signed, names this object, and whose publisher may publish that name.

    A grant is needed when the object is published, and must have been valid then. One that was revoked since is none:
    whoever has a stolen key could say that it published before. When that was, and in which order, the publisher alone
    says; so its version, a time in milliseconds, lies within its grant, too, and what it published while its right
    held outlives the right, but replaces nothing whose right still holds (`prevails`).

    Raises:
        BadMessage, Forbidden
    """
    signed = records.check(raw, Descriptor, rights.pool)
    described = names.object_id(rights.pool, signed.value.name)
    if object_id is not None and described != object_id:
        raise BadMessage(f"this descriptor is of {signed.value.name!r}, another object")
    check_kind(signed.value)
    rights.check_publish(signed.public, signed.value.name, signed.value.grant, signed.value.created)
    if signed.value.grant and signed.value.version > (signed.value.created + CLOCK_TOLERANCE) * 1000:
        raise BadMessage(f"the version of {signed.value.name!r} lies after the time of its publication")
    return signed


def check_clock(descriptor: Descriptor, now: float) -> None:
    """For who publishes something new: with a clock ahead of the others', its next versions would seem older.

    What is published already is not measured by this: a clock that was set back takes nothing away.

    Raises:
        BadMessage: this descriptor is from the future.
    """
    if descriptor.created > now + CLOCK_TOLERANCE:
        raise BadMessage(f"the descriptor of {descriptor.name!r} is from the future; check the clocks")


TOMBSTONE_SECONDS = 30 * 86400.0
"""A tombstone lasts this long, or as long as a replica may live without a new pin, whichever is longer."""


def tombstone_seconds(policy: Policy) -> float:
    """How long a tombstone of an object with this policy lasts."""
    return max(policy.ttl, TOMBSTONE_SECONDS)


def check_tombstone(raw: bytes, rights: Rights, now: float) -> Signed[Tombstone]:
    """A tombstone that has not expired, and whose right to delete holds.

    The publisher of the descriptor in it, the pool's key, and whoever has a grant to delete the name delete all
    versions up to `version`; whoever reveals the token deletes the
    version of that descriptor (and those before it, which it replaced).

    Raises:
        BadMessage: malformed, expired, or meant to last longer than tombstones do. Forbidden: wrong token.
    """
    signed = records.check(raw, Tombstone, rights.pool)
    tombstone = signed.value
    descriptor = check_descriptor(tombstone.descriptor, None, rights)
    if tombstone.expires + CLOCK_TOLERANCE < now:
        raise BadMessage(f"the tombstone of {descriptor.value.name!r} has expired")
    if tombstone.expires > now + tombstone_seconds(descriptor.value.policy) + CLOCK_TOLERANCE:
        raise BadMessage(f"the tombstone of {descriptor.value.name!r} would last longer than tombstones do")
    check_may_delete(signed, descriptor, rights, now)
    return signed


def check_may_delete(signed: Signed[Tombstone], descriptor: Signed[Descriptor], rights: Rights, now: float) -> None:
    """Whether the signer of this tombstone may delete what it describes.

    Raises:
        Forbidden: it is neither the publisher nor the pool, and has neither the token nor a grant to delete.
    """
    tombstone, name = signed.value, descriptor.value.name
    if signed.public == descriptor.public:
        if tombstone.version > descriptor.value.version and not is_in_force(descriptor, rights, now):
            raise Forbidden(f"the right to publish {name!r} has ended, and with it the right to delete later versions")
        return
    if rights.allows((tombstone.grant,), signed.signer, Right.DELETE, name, now):
        return
    if not tombstone.token or sha256(tombstone.token).digest() != descriptor.value.token_hash:
        raise Forbidden(f"this token does not delete {name!r}, and its publisher did not sign")
    if tombstone.version > descriptor.value.version:
        raise Forbidden(f"a token deletes one version of {name!r}, {descriptor.value.version}")


def sweeps(signed: Signed[Tombstone], rights: Rights, now: float) -> bool:
    """Whether a tombstone that was checked ends what others have published under the name, too.

    Of data it ends the pin of one publisher. Where the right of the publisher has ended, it ends what that one had
    published: whoever had a right once could say that it deleted then what others publish now.
    """
    descriptor = records.check(signed.value.descriptor, Descriptor, rights.pool)
    name = descriptor.value.name
    if descriptor.value.kind == "data":
        return False
    may_delete = rights.allows((signed.value.grant,), signed.signer, Right.DELETE, name, now)
    return may_delete or is_in_force(descriptor, rights, now)


def needs_host_grant(descriptor: Signed[Descriptor], holder: bytes) -> bool:
    """Whether a node needs a grant to hold this. Data verifies itself; the publisher's own node may.

    Args:
        holder: public key of the node.
    """
    policy = descriptor.value.policy
    by_right = descriptor.value.kind == "data" or policy.bound or policy.hosts == "anyone"
    return not by_right and holder != descriptor.public


def may_host(advertisement: Signed[Advertisement], descriptor: Signed[Descriptor], rights: Rights, now: float) -> bool:
    """Whether who signed this advertisement may hold this object."""
    holder, policy = advertisement.signer, descriptor.value.policy
    if not rights.may_serve(holder):
        return False
    if policy.bound:
        return policy.requires.get("node") in (None, holder.hex())
    if not needs_host_grant(descriptor, advertisement.public):
        return True
    return rights.allows((advertisement.value.grant,), holder, Right.HOST, descriptor.value.name, now)


def check_caller(
    public: bytes, grants: tuple[bytes, ...], descriptor: Signed[Descriptor], rights: Rights, now: float
) -> None:
    """Whether a key may send to this object. To nodes anybody may who is in the pool: each order says who may give it.

    Args:
        public: the sender's. grants: what it shows.

    Raises:
        Forbidden: names the command that helps.
    """
    only_granted = descriptor.value.policy.callers == "granted"
    of_node = names.space(descriptor.value.name) is names.Space.NODE
    if not of_node and public not in (descriptor.public, rights.pool):
        rights.check_call(grants, public, descriptor.value.name, now, granted=only_granted)


def check_kind(value: Descriptor) -> None:
    """Whether its kind goes with its name, and what it says of it with its kind. Raises BadMessage: not so."""
    # Anybody may publish under a content's name, so nothing but that content may stand there.
    is_content = names.space(value.name) is names.Space.CONTENT
    if is_content != (value.kind == "data") or is_content != (value.content is not None):
        raise BadMessage(f"{value.name!r}: data, and nothing else, is named sha256:<hash> and has a content")
    # Nor may what anybody publishes there keep others from that content.
    if is_content and (value.policy.bound or value.policy.max_bytes or value.type or value.bundle or value.genesis):
        raise BadMessage(
            f"{value.name!r}: data is bound to no node, takes no messages, and has neither code nor members"
        )


def prevails(a: Signed[Descriptor], b: Signed[Descriptor], rights: Rights, now: float) -> bool:
    """Whether `a` replaces `b`: a right to publish that holds now goes before one that has ended, then the newer."""
    in_force = is_in_force(a, rights, now), is_in_force(b, rights, now)
    return newer(a, b) if in_force[0] == in_force[1] else in_force[0]


def is_in_force(descriptor: Signed[Descriptor], rights: Rights, now: float) -> bool:
    """Whether the right by which this was published holds now."""
    value = descriptor.value
    return not value.grant or rights.may_publish(descriptor.public, value.name, value.grant, now)


def newer(a: Signed[Descriptor], b: Signed[Descriptor]) -> bool:
    """Whether `a` replaces `b`: the higher version, then the smaller hash."""
    return outranks(a.value.version, a.raw, b.value.version, b.raw)


def outranks(number: int, raw: bytes, other_number: int, other_raw: bytes) -> bool:
    """Whether of two statements by one key the first counts: the higher version or sequence, then the smaller hash.

    So whoever signs two with one number is believed the same one by everybody.
    """
    if number != other_number:
        return number > other_number
    return sha256(raw).digest() < sha256(other_raw).digest()
