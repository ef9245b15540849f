"""Runs a lookup over the protocol: the shell around `Lookup`. One future for the whole walk, no tasks."""

import asyncio
from collections.abc import Callable, Iterable

from titan_overlay.errors import BadMessage, LinkError, TitanError
from titan_overlay.identity.contacts import Contact
from titan_overlay.overlay.calls import Call
from titan_overlay.overlay.lookup import Lookup, Question
from titan_overlay.overlay.protocol import OverlayProtocol


class Crawl:
    """One lookup under way.

    Args:
        ask: the body of the request for contacts close to an id.
        on_reply: (who was asked, body) -> contacts in it, and whether it told something of what is looked for; may call
            `lookup.finish()`. Raises BadMessage for garbage.
    """

    def __init__(
        self,
        protocol: OverlayProtocol,
        lookup: Lookup,
        method: str,
        ask: Callable[[bytes], bytes],
        purpose: int,
        on_reply: Callable[[Contact, bytes], tuple[Iterable[Contact], bool]],
    ) -> None:
        self.lookup = lookup
        self.asked = 0
        """Contacts that answered."""
        self._protocol = protocol
        self._method = method
        self._body = ask
        self._purpose = purpose
        self._on_reply = on_reply
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, deadline: float | None = None) -> None:
        """Until the lookup is finished, or until `deadline` (loop time)."""
        self._ask(self.lookup.start())
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

    def _ask(self, questions: list[Question]) -> None:
        for contact, aim in questions:
            self._protocol.start(self, contact, self._method, self._body(aim), purpose=self._purpose)
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
            contacts, told = self._on_reply(call.contact, body)
        except BadMessage as why:
            self._protocol.blame(call.contact.id, why)
            self._ask(self.lookup.failed(call.contact))
            return
        self.asked += 1
        proven = call.session.contact if call.session is not None else None
        self._ask(self.lookup.reply(call.contact, contacts, told=told, proven=proven))

    def failed(self, call: Call, error: TitanError) -> None:
        if self._done.done():
            return
        if isinstance(error, LinkError):
            self._ask(self.lookup.failed(call.contact))
        else:  # it is there, but will not say
            self._ask(self.lookup.reply(call.contact, ()))

    def late(self, call: Call) -> None:
        if not self._done.done():
            self._ask(self.lookup.late(call.contact))
