"""Subnets: what one owner is likely to have all addresses of.

A /24 of public IPv4 addresses and a /48 of public IPv6 ones count as one. Private networks are run by somebody who
knows their machines: there each address is one; and on one machine (loopback), each port.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from titan_overlay.identity.contacts import Address


@lru_cache(maxsize=16384)
def subnet(ip: str, port: int) -> str:
    """The subnet of this address, as text; empty: it is no literal address of one machine."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return f"{address}:{port}"
    if address.is_multicast or address.is_unspecified:
        return ""
    if not address.is_global:
        return str(address)
    return str(ip_network((address, 24 if address.version == 4 else 48), strict=False))


@lru_cache(maxsize=1024)
def is_loopback(ip: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ip_address(ip.partition("%")[0]).is_loopback
    except ValueError:
        return False


def nameable(by: str, addresses: Iterable[Address]) -> list[Address]:
    """To which of these a peer at the address `by` may send others: nobody on the public internet sends anybody into
    private networks, or to programs of one's own machine.
    """
    from_outside = bool(public_subnet(by))
    return [each for each in addresses if not from_outside or public_subnet(each[0])]


def public_subnet(ip: str) -> str:
    """The same of a public address; empty for private and local ones, which have no owner that could have many."""
    found = subnet(ip, 0)
    return found if "/" in found else ""
