"""Who gets into a table, and how long a stranger is waited for: real overlays on the virtual loop."""

import asyncio
from hashlib import sha256

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import ID_BITS, NodeId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay import bodies
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.testing.loop import VirtualLoop, run

POOL = PoolId(SigningKey(sha256(b"pool").digest()).public)


async def overlay(number: int, key: SigningKey | None = None, k: int = 4) -> Overlay:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    ambient = Ambient.seeded(f"strangers/{number}", loop)
    node = Overlay(key or SigningKey(ambient.token_bytes(32)), Rights(POOL), ambient, k=k)
    node.set_serving(True)
    with loop.network.on_host(f"10.0.0.{number}"):
        await node.listen(4747, f"10.0.0.{number}")
    return node


def key_beside(target: int, bits: int, seed: int) -> SigningKey:
    """Its id shares so many leading bits with the target, and not one more."""
    while True:
        seed += 1
        key = SigningKey(seed.to_bytes(32, "big"))
        if ID_BITS - (int.from_bytes(key.id, "big") ^ target).bit_length() == bits:
            return key


def test_whom_a_liar_names_on_the_way_does_not_enter_and_whoever_calls_gets_half_a_bucket() -> None:
    async def main() -> None:
        me = await overlay(1)
        here = int.from_bytes(me.key.id, "big")
        near = [await overlay(10 + n, key_beside(here, 3 + n, 1000)) for n in range(6)]
        for node in near:  # they fill the own neighbourhood, so that what is further off has a bucket of its own
            await node.bootstrap([JoinLine(me.contact.ip, 4747)])
        await asyncio.sleep(60)
        gang = [await overlay(100 + n, key_beside(here, 0, 5000 + 100 * n)) for n in range(8)]
        for node in near:
            node.protocol.serve("find_node", lambda asker, body: bodies.pack_all([each.contact for each in gang]))
        assert len(me.table.buckets) > 1
        await me.find_nodes(key_beside(here, 0, 99).id, 8)
        answered = [each for each in gang if each.key.id in me.protocol.handshakes.by_peer]
        assert answered and not any(each.key.id in me.table for each in gang)
        callers = [await overlay(200 + n, key_beside(here, 0, 9000 + 100 * n)) for n in range(8)]
        for each in callers:
            await each.call(me.contact, "ping", b"")
        assert sum(each.key.id in me.table for each in callers) == me.ksize // 2

    run(main, seed=1)


def test_a_stranger_is_waited_for_as_long_as_handshakes_take_here() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        me = await overlay(1)
        nobody = Contact(NodeId(bytes(32)), "10.0.9.9", 4747)

        async def seconds() -> float:
            began = loop.time()
            with pytest.raises(LinkError):
                await me.call(nobody, "ping", b"")
            await asyncio.sleep(60)
            return loop.time() - began - 60

        assert await seconds() == pytest.approx(3.0), "while nothing is known"
        for number in range(2, 10):
            await me.call((await overlay(number)).contact, "ping", b"")
        assert 1.0 < await seconds() < 1.5

    run(main, seed=1)
