"""Whether others can dial this node: they try, on request, and say what came of it.

Only a node that can be dialled serves; one that cannot is *client only*, and says why. The rules:

- A peer dials only an address from which the asker has proven to hear: that of its session, or of its link. So nobody
  can be made to knock at a stranger's door, and `Dialler` bounds how often one asker may have it done.
- A public address counts as dialled when peers in `SUBNETS_WANTED` different public subnets have done it; where the
  node knows of fewer, when one in each has. A private one (or a loopback's) counts when one peer has.
- Others see a node that serves at another address than before: it moves there once they have dialled it there.
- What peers at public addresses say about private addresses counts for nothing, nor the other way about: they cannot
  know.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

from titan_overlay.buckets import Buckets, Limit
from titan_overlay.errors import LinkError, Overloaded, TitanError
from titan_overlay.identity.contacts import Address, Contact, family, format_address
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.links.links import Links
from titan_overlay.overlay.bodies import is_public
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.whereabouts import witnesses
from titan_overlay.pool.message import decode_reply, encode_message
from titan_overlay.pool.orders import DialBack
from titan_overlay.values import parse_address

log = logging.getLogger("titan")

SUBNETS_WANTED = 3
ASK_SECONDS = 8.0
RETRY_SECONDS = (10.0, 3600.0)
"""First and longest pause before others are asked again."""
FOLLOW_SECONDS = (0.0, 10.0, 60.0)
"""Pauses before each try to be dialled at a new address. Links from the old one may be in the way at first."""

DIALS_AT_ONCE = 16
DIALS = Limit(rate=1 / 30, burst=6)
"""What one asker (its subnet, see `identity.subnets`) may have this node dial."""


def enough(address: Address, asked: int, reached: int) -> bool:
    """Whether an address counts as dialled: `reached` witnesses did it, of `asked` (each in a subnet of its own)."""
    wanted = min(SUBNETS_WANTED, asked) if is_public(address[0]) else 1
    return reached >= max(wanted, 1)


class Reachability:
    """The side that asks."""

    def __init__(self, overlay: Overlay, links: Links) -> None:
        self._overlay = overlay
        self._links = links
        self.reason = "has not been dialled back yet"
        """Why this node does not serve, in words for its operator; empty: it can be dialled."""
        self.settled = False
        """Nothing is left to be asked: all addresses of this node can be dialled."""
        self._following = False

    async def ask(self) -> None:
        """Has others dial the address that this node is known by, and its other one. Sets `reason`."""
        first, *more = self._overlay.whereabouts.addresses
        self.reason, *others = await asyncio.gather(*(self._ask_about(address) for address in (first, *more)))
        reached = []
        for address, why in zip(more, others, strict=True):
            if why:
                log.debug("%s is not advertised: %s", format_address(address), why)
            else:
                reached.append(family(address[0]))
        self.settled = not (self.reason or any(others))
        if not self.reason and reached != sorted(self._overlay.whereabouts.dialable):
            self._overlay.set_dialable(reached)

    async def _ask_about(self, address: Address) -> str:
        """Why an address does not count as dialled; or empty."""
        where = format_address(address)
        peers = self._overlay.neighbours(self._overlay.key.id, len(self._overlay.table))
        asked = witnesses(peers, address)
        if not asked:
            kind = f"{'public' if is_public(address[0]) else 'private'} IPv{family(address[0])}"
            return (
                f"nobody could be asked to dial {where}: no peer known has a {kind} address, and others cannot tell; "
                "name the address that they see with --advertise HOST:PORT"
            )
        answers = await asyncio.gather(*(self._ask_one(peer, address) for peer in asked.values()))
        if enough(address, len(asked), sum(answers)):
            return ""
        said = f"only {sum(answers)} of {len(asked)} peers asked" if any(answers) else "nobody"
        return (
            f"{said} could dial {where} (TCP); open that port, or name the address that others see with "
            "--advertise HOST:PORT"
        )

    async def _ask_one(self, peer: Contact, address: Address) -> bool:
        deadline = asyncio.get_running_loop().time() + ASK_SECONDS
        order = DialBack(format_address(address))
        try:
            if family(address[0]) != family(peer.ip):
                await self._overlay.prove(peer, address)
            type_name, body = encode_message(order)
            reply = await self._links.request(peer, peer.id, type_name, body, deadline=deadline)
            return bool(decode_reply(order, reply))
        except TitanError as why:
            log.debug("%s did not dial back: %s", peer, why)
            return False

    async def follow(self, ip: str) -> None:
        """Others see this node, which serves, at this address: it moves there if they can dial it there."""
        if self._following:
            return
        self._following = True
        try:
            address = ip, self._overlay.whereabouts.address(family(ip))[1]
            for pause in FOLLOW_SECONDS:
                await asyncio.sleep(pause)
                why = await self._ask_about(address)
                if not why:
                    self._overlay.roaming.move(ip)
                    break
                log.info("others see this node at %s, but %s", format_address(address), why)
        finally:
            self._following = False

    async def ask_again(self) -> AsyncIterator[bool]:
        """Asks with growing pauses until all is settled; gives each time whether others can dial this node now."""
        pause, longest = RETRY_SECONDS
        while not self.settled:
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
            await self.ask()
            yield not self.reason


class Dialler:
    """The side that dials, for others."""

    def __init__(self, overlay: Overlay, links: Links) -> None:
        self._overlay = overlay
        self._links = links
        self._budget: Buckets[str] = Buckets(DIALS)
        self._under_way = 0

    async def dial(self, asker: NodeId, where: str) -> bool:
        """Whether this node reaches the asker at an address that the asker has proven to be its own.

        Raises:
            Overloaded: it has asked for too much.
        """
        try:
            address = parse_address(where)
        except ValueError:
            return False
        ip = address[0]
        if ip not in self._proven(asker) or not address[1]:
            log.debug("%s asks for %s to be dialled, which it has not proven to be its own", asker.hex()[:12], where)
            return False
        if not is_loopback(ip):  # what stays on this machine costs nobody anything
            wait = self._budget.take(subnet(*address), 1, asyncio.get_running_loop().time())
            if wait:
                raise Overloaded("you have had enough dialled for now", retry_after=wait)
        if self._under_way >= DIALS_AT_ONCE:
            raise Overloaded(
                f"{DIALS_AT_ONCE} dials for others are under way", retry_after=self._links.limits.handshake
            )
        self._under_way += 1
        try:
            return await self._links.can_dial(Contact(asker, *address))
        except LinkError:
            return False
        finally:
            self._under_way -= 1

    def _proven(self, asker: NodeId) -> set[str]:
        peer = self._links.peer_of(asker)
        return {*self._overlay.proven(asker), *([peer.ip] if peer is not None else [])}
