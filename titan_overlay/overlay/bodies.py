"""Bodies of the overlay's own methods, and how contacts are packed.

A contact takes 38 bytes (IPv4) or 50 (IPv6): id, address, port. Unpacking is remembered for the whole process: a node
meets the same contacts in every reply, and thousands of simulated nodes share one object per contact.
"""

import socket
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BYTES, NodeId

MAX_BODY = 1200
"""Largest body of a request or reply, in bytes; what is bigger goes over a link."""

FIT = 1150
"""What the overlay's own replies keep to, so that a datagram stays below the 1,280 bytes every IPv6 path carries."""

_V4, _V6 = ID_BYTES + 4 + 2, ID_BYTES + 16 + 2


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


class Holders(msgspec.Struct, array_like=True):
    """Reply to `FindHolders`: statements as they were signed, and contacts closer to the object."""

    contacts: bytes
    total: int
    """How many statements there are; `raws` has those that fit."""
    raws: list[bytes]
    tombstones: list[bytes]


class Store(msgspec.Struct, array_like=True):
    """Signed statements to keep."""

    raws: list[bytes]
    ranks: list[int]
    """For each: how many nodes closer to the object than the receiver the sender knows of."""


class Stored(msgspec.Struct, array_like=True):
    """Reply to `Store`."""

    taken: list[bool]
    contacts: bytes
    """Closer ones that the sender seems not to know of."""


def pack_address(address: tuple[str, int]) -> bytes:
    """6 or 18 bytes for a literal address and a port. OSError: it is none."""
    ip, port = address
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.inet_pton(family, ip) + port.to_bytes(2, "big")


def unpack_address(packed: bytes) -> tuple[str, int]:
    """What `pack_address` packed. ValueError: neither 6 nor 18 bytes."""
    family = socket.AF_INET if len(packed) == 6 else socket.AF_INET6
    return socket.inet_ntop(family, packed[:-2]), int.from_bytes(packed[-2:], "big")


def pack(contact: Contact) -> bytes:
    """38 or 50 bytes."""
    return contact.id + pack_address(contact.address)


@lru_cache(maxsize=65536)
def unpack(packed: bytes) -> Contact:
    """The one `Contact` object for these bytes."""
    return Contact(NodeId(packed[:ID_BYTES]), *unpack_address(packed[ID_BYTES:]))


def contact(node: NodeId, ip: str, port: int) -> Contact:
    """The shared `Contact` of this id and address (`ip` is a literal address)."""
    return unpack(node + pack_address((ip, port)))


def pack_all(contacts: Iterable[Contact]) -> bytes:
    """Count of IPv4 contacts (1 byte), these, then the IPv6 ones. The order within a family is kept."""
    four: list[bytes] = []
    six: list[bytes] = []
    for one in contacts:
        packed = pack(one)
        (four if len(packed) == _V4 else six).append(packed)
    return bytes((len(four),)) + b"".join(four) + b"".join(six)


def unpack_all(data: bytes, *, from_public: bool = False) -> list[Contact]:
    """The contacts in these bytes that can be addressed.

    from_public: a peer with a public address may not send us into private networks.

    Raises:
        BadMessage: the lengths do not fit.
    """
    if not data:
        return []
    end = 1 + data[0] * _V4
    if end > len(data) or (len(data) - end) % _V6:
        raise BadMessage("these contacts are cut short")
    found = [unpack(data[i : i + _V4]) for i in range(1, end, _V4)]
    found += [unpack(data[i : i + _V6]) for i in range(end, len(data), _V6)]
    return [c for c in found if c.port and _usable(c.ip, from_public)]


def is_public(ip: str) -> bool:
    """Whether this literal address is one of the public internet."""
    return _reach(ip) == 2


def _usable(ip: str, from_public: bool) -> bool:
    return _reach(ip) >= (2 if from_public else 1)


@lru_cache(maxsize=65536)
def _reach(ip: str) -> int:
    """2: public, 1: private, 0: nobody's (multicast, unspecified, broadcast)."""
    address = ip_address(ip)
    if address.is_multicast or address.is_unspecified or ip == "255.255.255.255":
        return 0
    return 2 if address.is_global else 1
