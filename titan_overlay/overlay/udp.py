"""Opening UDP sockets, of either family, and the address that a machine's packets leave by."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from titan_overlay.identity.contacts import IPV4, IPV6, Address, family

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104
"""Interfaces that stand for all addresses of a family."""

_FAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Reserved for examples (RFC 5737, RFC 3849): nothing is sent there."""


def here(interfaces: Sequence[str]) -> list[str]:
    """These interfaces without those that stand for all addresses of a family that this machine does not have."""
    return [each for each in interfaces if each not in EVERYWHERE or _has(family(each))]


def _has(family: int) -> bool:
    kind, loopback = (socket.AF_INET6, "::1") if family == IPV6 else (socket.AF_INET, "127.0.0.1")
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as trial:
            trial.bind((loopback, 0))
    except OSError:
        return False
    return True


async def open_udp(protocol: Callable[[], Any], interface: str, port: int) -> Any:
    """A transport. Raises OSError: the port is taken, the address is not this machine's."""
    loop = asyncio.get_running_loop()
    if interface != "::":
        try:
            return (await loop.create_datagram_endpoint(protocol, local_addr=(interface, port)))[0]
        except OSError as why:  # uvloop's says neither number nor reason, but was raised from one that does
            raise why.__cause__ if isinstance(why.__cause__, OSError) else why from None
    # Without this option it would take the port of IPv4 too.
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((interface, port))
        return (await loop.create_datagram_endpoint(protocol, sock=made))[0]
    except BaseException:
        made.close()
        raise


def outgoing_ip(family: int) -> str:
    """The address of this machine's default route, or where it has none the loopback's. Nothing is sent."""
    kind = socket.AF_INET6 if family == IPV6 else socket.AF_INET
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as trial:
            trial.connect((_FAR[kind], 9))
            return str(trial.getsockname()[0])
    except OSError:  # no network but itself
        return "::1" if family == IPV6 else "127.0.0.1"


async def resolve(host: str, port: int, families: Sequence[int]) -> Address:
    """A literal address for a host name, of the first of these families that it has. OSError: there is none."""
    kinds = {IPV4: socket.AF_INET, IPV6: socket.AF_INET6}
    for kind in kinds.values():
        try:
            socket.inet_pton(kind, host)
            return host, port
        except OSError:
            pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except UnicodeError:  # what no name can look like, such as a..b
        raise OSError(f"{host!r} is no host name") from None
    for wanted in families:
        for kind, _, _, _, address in found:
            if kind == kinds[wanted]:
                return str(address[0]), int(address[1])
    raise OSError(f"no address for {host} that this node can send to")
