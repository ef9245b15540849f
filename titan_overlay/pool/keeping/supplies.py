"""Getting what a replica is made of, its content or its code, from those who have it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from titan_overlay.errors import BadMessage, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.links.links import Links
from titan_overlay.pool.hosting.bundles import BundleLoader, Code
from titan_overlay.pool.hosting.data import DataRunner, StoredContent
from titan_overlay.pool.hosting.host import Runner
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.keeping import transfer
from titan_overlay.storage.blobs import Blobs
from titan_overlay.wire import codec

Maker = Callable[[Code, Signed[Descriptor], ObjectId, Sequence[Contact]], Runner]
"""Makes the runner of an object of one kind; the contacts are those who have the object, or offer it."""

GRACE_SECONDS = 30.0
SLOWEST_BYTES_PER_SECOND = 256 << 10
"""A content that comes more slowly, after the first `GRACE_SECONDS`, is given up: few are taken in at a time."""


class Supplies:
    """Over the links of one node, into its blobs.

    Args:
        makers: by kind of object, who makes its runner.
    """

    def __init__(self, links: Links, blobs: Blobs, bundles: BundleLoader, makers: Mapping[str, Maker]) -> None:
        self._makers = makers
        self._links = links
        self._blobs = blobs
        self._bundles = bundles

    async def runner(self, descriptor: Signed[Descriptor], object_id: ObjectId, sources: Sequence[Contact]) -> Runner:
        """What answers for the object here, once its content or code has come from one of the sources.

        Raises:
            RemotableError: why not.
        """
        value = descriptor.value
        if value.content is not None:
            await self._fetch_content(value, object_id, sources)
            return DataRunner(StoredContent(self._blobs, object_id, value.content), descriptor)
        if value.bundle:
            bundle = await self._fetch_bundle(value, object_id, sources)
            code = self._bundles.code(bundle, value.type, descriptor.public)
        else:
            code = self._bundles.installed_code(value.type)
        kind = service_type(code.cls).kind
        if kind != value.kind:
            raise BadMessage(f"{value.type} is a {kind}, and {value.name!r} was published as a {value.kind}")
        return self._makers[kind](code, descriptor, object_id, sources)

    async def _fetch_content(self, value: Descriptor, object_id: ObjectId, sources: Sequence[Contact]) -> None:
        assert value.content is not None
        if self._blobs.has(object_id):
            return
        self._blobs.check_room(value.content)
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + GRACE_SECONDS + value.content.size / SLOWEST_BYTES_PER_SECOND

        async def ask(contact: Contact, type_name: str, body: bytes, until: float) -> bytes:
            return await self._links.request(contact, object_id, type_name, body, deadline=until)

        def moves(there: int, _: int) -> None:
            if not patience.expired():
                patience.reschedule(began + GRACE_SECONDS + there / SLOWEST_BYTES_PER_SECOND)

        try:
            # Time is earned by what has come: whoever orders a replica and sends nothing keeps no place for long.
            async with asyncio.timeout_at(began + GRACE_SECONDS) as patience:
                await transfer.fetch(
                    object_id, value.content, sources, ask, self._blobs, deadline=deadline, progress=moves
                )
        except TimeoutError:
            raise Unavailable(f"the content of {value.name!r} comes too slowly; it is not taken in here") from None

    async def _fetch_bundle(self, value: Descriptor, object_id: ObjectId, sources: Sequence[Contact]) -> bytes:
        wanted = value.bundle
        known = await self._blobs.get_small(wanted)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        failure = "no holder named"
        for source in sources:
            try:
                body = await self._links.request(
                    source, object_id, "titan.Bundle", codec.encode({}), deadline=loop.time() + 5.0
                )
                bundle = codec.decode(body, bytes)
            except Exception as why:
                failure = str(why)
                continue
            if sha256(bundle).digest() == wanted:
                await self._blobs.put_small(wanted, bundle)
                return bundle
            failure = "it sent other bytes than the descriptor names"
        raise Unavailable(f"cannot get the code of {value.name!r}: {failure}")
