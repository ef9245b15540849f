"""A node that is ordered to take in what nobody sends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.fuzz.world import NOW, OWNER, POOL, peer
from titan_overlay.errors import Overloaded, Unavailable
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Content, Descriptor
from titan_overlay.pool.hosting.bundles import BundleLoader
from titan_overlay.pool.keeping.supplies import GRACE_SECONDS, SLOWEST_BYTES_PER_SECOND, Supplies
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import CHUNK_BYTES
from titan_overlay.storage.files import describe_bytes
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

WHOLE = bytes(range(256)) * 1024 * 40
ID, CONTENT, MANIFEST = describe_bytes(WHOLE)

pytestmark = pytest.mark.loops("virtual")


class Holder:
    """Answers as it likes."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.asked = 0
        self._seconds = seconds

    async def request(self, contact: Any, object_id: bytes, type: str, body: bytes, *, deadline: float) -> bytes:
        self.asked += 1
        if type == "titan.Manifest":
            return codec.encode(MANIFEST)
        await asyncio.sleep(self._seconds(self.asked))
        index = codec.decode(body, dict)["index"]
        return codec.encode(WHOLE[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])


def data(content: Content) -> Signed[Descriptor]:
    return records.sign(Descriptor(names.content_name(ID), "data", "", 1, NOW, content=content), OWNER, POOL)


async def take(holder: Holder, content: Content, room: int = 1 << 30) -> None:
    blobs = Blobs(MemoryDisk(), room)
    await blobs.open()
    supplies = Supplies(holder, blobs, BundleLoader((), POOL), {})  # type: ignore[arg-type]
    await supplies.runner(data(content), ObjectId(ID), [peer(1)])
    assert blobs.has(ObjectId(ID))


async def test_a_content_that_this_node_could_never_hold_is_refused_before_anything_is_asked() -> None:
    """Its manifest alone would fill the memory."""
    holder = Holder(lambda _: 0.0)
    with pytest.raises(Overloaded):
        await take(holder, Content(1 << 50, CHUNK_BYTES, bytes(32)))
    assert holder.asked == 0


async def test_a_content_that_comes_as_fast_as_it_must_is_taken_in() -> None:
    await take(Holder(lambda asked: 14.0 if asked < 3 else 1.0), CONTENT)


async def test_who_orders_a_replica_and_sends_a_chunk_a_minute_keeps_no_place_for_long() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(Unavailable, match="slowly"):
        await take(Holder(lambda _: 14.0), CONTENT)
    least = len(WHOLE) / SLOWEST_BYTES_PER_SECOND
    assert loop.time() - began < GRACE_SECONDS + least
