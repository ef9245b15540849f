"""Reading data: where it lives, and all its chunks from there."""

import asyncio
from collections.abc import Callable

from titan_overlay.errors import BadMessage, DeadlineExceeded, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.statements import Content
from titan_overlay.member import Member
from titan_overlay.patience import DEFAULT_TIMEOUT, find
from titan_overlay.pool.finding.places import Place, contact_of
from titan_overlay.pool.keeping import transfer

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

SLOWEST_BYTES_PER_SECOND = 256 << 10
"""A download may be this slow before it is given up, where the caller names no timeout."""

ATTEMPTS = 3
"""Times that holders are looked for; each but the last may take half of the time that is left."""


class Reader:
    """Reads as one member of the pool."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._router = member.router

    async def fetch(self, name: str, sink: transfer.Sink, progress: Progress | None, timeout: float | None) -> None:
        """Fetches data into a sink. Where the holders known do not give it, others are looked for, and another
        description of it: anybody may sign one, and one that is false keeps honest holders from helping.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        tried: frozenset[NodeId] = frozenset()
        for attempt in range(1, ATTEMPTS + 1):
            limit = DEFAULT_TIMEOUT if timeout is None else timeout - (loop.time() - started)
            place = await find(self._router, name, limit, fresh=attempt > 1, avoid=tried)
            content = place.descriptor.value.content
            if content is None:
                raise BadMessage(f"{name!r} is a {place.descriptor.value.kind}, not data; use send")
            patience = 30.0 + content.size / SLOWEST_BYTES_PER_SECOND if timeout is None else timeout
            left = started + patience - loop.time()
            until = loop.time() + (left if attempt == ATTEMPTS else left / 2)
            try:
                await self._fetch_from(place, content, sink, until, loop.time() + left, progress)
            except (Unavailable, BadMessage, DeadlineExceeded):
                if attempt == ATTEMPTS:
                    raise
                self._router.places.doubt(self._router.object_id(name), place.descriptor)
                tried |= {each.signer for each in place.holders}
                continue
            if self._router.any_holder.on_read is not None:
                self._router.any_holder.on_read(place)
            return

    async def _fetch_from(
        self,
        place: Place,
        content: Content,
        sink: transfer.Sink,
        until: float,
        deadline: float,
        progress: Progress | None,
    ) -> None:
        name = place.descriptor.value.name
        object_id = self._router.object_id(name)

        async def ask(contact: Contact, type_name: str, body: bytes, until: float) -> bytes:
            if contact.id == self._member.key.id:
                return await self._member.send(name, type_name, body, until, ())
            return await self._member.links.request(contact, object_id, type_name, body, deadline=until)

        async def more() -> list[Contact]:
            known = frozenset(holder.signer for holder in place.holders)
            found = await self._router.places.find(object_id, name=name, deadline=deadline, fresh=True, avoid=known)
            return self._by_preference(found)

        await transfer.fetch(
            object_id,
            content,
            self._by_preference(place),
            ask,
            sink,
            deadline=until,
            progress=progress,
            more=more,
            witness=self._router.witness,
        )

    def _by_preference(self, place: Place) -> list[Contact]:
        return [contact_of(holder) for holder in self._router.any_holder.by_preference(place.holders)]
