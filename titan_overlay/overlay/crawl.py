"""Runs a lookup over the protocol: the shell around `Lookup`. One future for the whole walk, no tasks."""

import asyncio
from collections.abc import Callable, Iterable

from titan_overlay.errors import BadMessage, LinkError, TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.overlay.calls import Call
from titan_overlay.overlay.lookup import Lookup
from titan_overlay.overlay.protocol import OverlayProtocol


class Crawl:
    """One lookup under way.

    Args:
        on_reply: (who answered, body) -> contacts in it; may call `lookup.finish()`. Raises BadMessage for garbage.
    """

    def __init__(
        self,
        protocol: OverlayProtocol,
        lookup: Lookup,
        method: str,
        body: bytes,
        purpose: int,
        on_reply: Callable[[Contact, bytes], Iterable[Contact]],
    ) -> None:
        self.lookup = lookup
        self.asked = 0
        """Contacts that answered."""
        self._protocol = protocol
        self._method = method
        self._body = body
        self._purpose = purpose
        self._on_reply = on_reply
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, seeds: Iterable[Contact], deadline: float | None = None) -> None:
        """From these contacts until the lookup is finished, or until `deadline` (loop time)."""
        self._ask(self.lookup.start(seeds))
        if self._done.done():
            return
        timer = None
        if deadline is not None:
            timer = asyncio.get_running_loop().call_at(deadline, self._stop)
        try:
            await self._done
        finally:
            self.lookup.finish()
            if timer is not None:
                timer.cancel()

    def _ask(self, contacts: list[Contact]) -> None:
        for contact in contacts:
            self._protocol.start(self, contact, self._method, self._body, purpose=self._purpose)
        if self.lookup.finished:
            self._stop()

    def _stop(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    # ---- Caller ----------------------------------------------------------------------------------------------

    def answered(self, call: Call, body: bytes) -> None:
        if self._done.done():
            return
        try:
            contacts = self._on_reply(call.contact, body)
        except BadMessage as why:
            self._protocol.blame(call.contact.id, why)
            self._ask(self.lookup.failed(call.contact.id))
            return
        self.asked += 1
        self._ask(self.lookup.reply(call.contact.id, contacts))

    def failed(self, call: Call, error: TitanError) -> None:
        if self._done.done():
            return
        if isinstance(error, LinkError):
            self._ask(self.lookup.failed(call.contact.id))
        else:  # it is there, but will not say
            self._ask(self.lookup.reply(call.contact.id, ()))

    def late(self, call: Call) -> None:
        if not self._done.done():
            self._ask(self.lookup.late(call.contact.id))
