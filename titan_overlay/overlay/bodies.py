"""Bodies of the overlay's own methods, and how contacts are packed.

A contact takes 38 bytes (IPv4), 50 (IPv6) or 56 (both): id, then address and port of each. Unpacking is remembered for
the whole process: a node meets the same contacts in every reply, and thousands of simulated nodes share one object per
contact.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import (
    Address,
    Contact,
    family,
    of_addresses,
    pack_address,
    pack_addresses,
    unpack_addresses,
)
from titan_overlay.identity.ids import ID_BYTES, NodeId

MAX_BODY = 1200
"""Largest body of a request or reply, in bytes; what is bigger goes over a link."""

FIT = 1150
"""What the overlay's own replies keep to, so that a datagram stays below the 1,280 bytes every IPv6 path carries."""

_V4, _V6, _BOTH = ID_BYTES + 6, ID_BYTES + 18, ID_BYTES + 6 + 18
PACKED_MAX = _BOTH
"""Bytes of one contact at most."""

NAMED_BY = 6
"""So much of an id that nobody finds another that begins alike."""
FURTHER_MAX = 16
"""Holders that a reply names without their statements."""

NOWHERE, PRIVATE, PUBLIC = range(3)


class FindNode(msgspec.Struct, array_like=True):
    """The `count` contacts closest to `target` that the receiver knows. Reply: packed contacts."""

    target: bytes
    count: int


class FindHolders(msgspec.Struct, array_like=True):
    """Who holds `object_id`? Skips the first `skip` statements (a second page)."""

    object_id: bytes
    skip: int
    count: int
    """At most so many contacts."""
    aim: bytes = b""
    """Contacts close to this id; empty: close to the object."""


class Holders(msgspec.Struct, array_like=True):
    """Reply to `FindHolders`: statements as they were signed, and contacts closer to the object."""

    contacts: bytes
    raws: list[bytes]
    """As many as fit."""
    tombstones: list[bytes]
    further: bytes = b""
    """Whose statements did not fit: of each id the first `NAMED_BY` bytes, in order, as many as there is room for."""

    @property
    def named(self) -> list[bytes]:
        """The beginnings of ids in `further`."""
        return [self.further[at : at + NAMED_BY] for at in range(0, len(self.further) - NAMED_BY + 1, NAMED_BY)]


class Store(msgspec.Struct, array_like=True):
    """Signed statements to keep."""

    raws: list[bytes]
    bits: int
    """All are told to the nodes that share so many leading bits with the object (`regions.Region`)."""
    members: list[int]
    """For each: how many nodes of its region the sender knows of, the receiver among them."""


class Stored(msgspec.Struct, array_like=True):
    """Reply to `Store`."""

    taken: list[bool]
    contacts: bytes
    """Others of these regions that the sender seems not to know of, the latest come first."""


def pack(contact: Contact) -> bytes:
    """38 bytes, 50, or 56 with an address of each family."""
    return contact.id + pack_addresses(contact)


@lru_cache(maxsize=65536)
def unpack(packed: bytes) -> Contact:
    """The one `Contact` object for these bytes."""
    return of_addresses(NodeId(packed[:ID_BYTES]), *unpack_addresses(packed[ID_BYTES:]))


def contact(node: NodeId, ip: str, port: int) -> Contact:
    """The shared `Contact` of this id and address (`ip` is a literal address)."""
    return unpack(node + pack_address((ip, port)))


def contact_at(node: NodeId, addresses: Iterable[Address]) -> Contact:
    """The shared `Contact` of this id with an address of one family, or one of each."""
    return unpack(node + pack_addresses(of_addresses(node, *addresses)))


def pack_all(contacts: Iterable[Contact]) -> bytes:
    """How many have IPv4 alone and IPv6 alone (a byte each), these, then those with both. Order within each is kept."""
    packed: dict[int, list[bytes]] = {_V4: [], _V6: [], _BOTH: []}
    for one in contacts:
        each = pack(one)
        packed[len(each)].append(each)
    four, six, both = packed.values()
    return bytes((len(four), len(six))) + b"".join(four + six + both)


def fitting(contacts: list[Contact], room: int) -> bytes:
    """As many of them, from the first on, as fit in so many bytes, packed."""
    packed = pack_all(contacts)
    while contacts and len(packed) > room:
        contacts = contacts[:-1]
        packed = pack_all(contacts)
    return packed


def unpack_all(data: bytes) -> list[Contact]:
    """The contacts in these bytes.

    Raises:
        BadMessage: the lengths do not fit.
    """
    if not data:
        return []
    if len(data) < 2:
        raise BadMessage("these contacts are cut short")
    found: list[Contact] = []
    at = 2
    for count, size in ((data[0], _V4), (data[1], _V6), (None, _BOTH)):
        end = len(data) if count is None else at + count * size
        if end > len(data) or (end - at) % size:
            raise BadMessage("these contacts are cut short")
        found += [unpack(data[i : i + size]) for i in range(at, end, size)]
        at = end
    return found


def believable(told: Iterable[Contact], families: Collection[int], *, by: str) -> list[Contact]:
    """What is worth trying of the contacts that a peer with the address `by` tells of.

    What this node cannot dial is left out, and a peer with a public address may not send it into private networks.
    """
    least = PUBLIC if is_public(by) else PRIVATE
    found: list[Contact] = []
    for one in told:
        usable = [each for each in one.addresses if each[1] and family(each[0]) in families and reach(each[0]) >= least]
        if len(usable) == len(one.addresses):
            found.append(one)
        elif usable:
            found.append(contact_at(one.id, usable))
    return found


def is_public(ip: str) -> bool:
    """Whether this literal address is one of the public internet."""
    return reach(ip) == PUBLIC


@lru_cache(maxsize=65536)
def reach(ip: str) -> int:
    """`PUBLIC`, `PRIVATE`, or `NOWHERE` (multicast, unspecified, broadcast, IPv4 dressed as IPv6)."""
    address = ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    if address.is_multicast or address.is_unspecified or ip == "255.255.255.255" or mapped is not None:
        return NOWHERE
    return PUBLIC if address.is_global else PRIVATE
