"""Whether others can dial this node: they try, on request, and say what came of it.

Only a node that can be dialled serves; one that cannot is *client only*, and says why.
"""

import asyncio
import logging

from titan_overlay.errors import TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.message import decode_reply, encode_message
from titan_overlay.pool.orders import DialBack

log = logging.getLogger("titan")

DIAL_BACK_PEERS = 3
DIAL_BACK_SECONDS = 8.0
RETRY_SECONDS = 300.0


class Reachability:
    """Asks peers to dial back."""

    def __init__(self, overlay: Overlay, links: Links) -> None:
        self._overlay = overlay
        self._links = links

    @property
    def reason(self) -> str:
        """What to tell the operator of a node that nobody could dial."""
        mine = self._overlay.contact
        return (
            f"nobody could dial {mine.ip}:{mine.port} (TCP); open that port, or name the address that others see with "
            "--advertise HOST:PORT"
        )

    async def ask(self) -> bool:
        """Whether somebody could dial this node now."""
        peers = self._overlay.neighbours(self._overlay.key.id, DIAL_BACK_PEERS)
        answers = await asyncio.gather(*(self._ask_one(peer) for peer in peers))
        return any(answers)

    async def _ask_one(self, peer: Contact) -> bool:
        try:
            order = DialBack(self._overlay.contact.port)
            type_name, body = encode_message(order)
            deadline = asyncio.get_running_loop().time() + DIAL_BACK_SECONDS
            return bool(
                decode_reply(order, await self._links.request(peer, peer.id, type_name, body, deadline=deadline))
            )
        except TitanError as why:
            log.debug("%s did not dial back: %s", peer, why)
            return False

    async def keep_asking(self) -> None:
        """Returns once somebody can dial this node."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if await self.ask():
                return
