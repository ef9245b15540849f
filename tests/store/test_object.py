"""A store that is an object of a pool, asked by name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

import titan_overlay as titan
from tests.contract.test_every_object import ALICE, KEY, POOL, Held, _service, _signed
from titan_objects.store import hearing
from titan_objects.store.application import StoreObject, Subscribe
from titan_overlay.ambient import Ambient
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.message import encode_message
from titan_overlay.wire import codec


async def held(table: dict[str, Any]) -> Held:
    runner = ServiceRunner(StoreObject.from_config({"name": "store/main", **table}))
    host = Host(Ambient.system(), pool=POOL, holder=KEY.id)
    descriptor = _service("store")
    await host.open(_signed(descriptor), runner)
    return Held(host, descriptor, runner)


@pytest.fixture
async def store() -> AsyncIterator[Held]:
    found = await held({"senders": ["*"]})
    yield found
    await found.host.close()


async def ask(store: Held, *words: object) -> Any:
    return codec.decode(await store.raw(*encode_message(list(words))), Any)


async def test_commands_are_lists_of_words(store: Held) -> None:
    assert await ask(store, "SET", "k", "v") == b"OK"
    assert await ask(store, "GET", b"k") == b"v"
    assert await ask(store, "INCRBY", "n", 5) == 5
    assert await ask(store, "LRANGE", "none", 0, -1) == []
    with pytest.raises(titan.BadMessage, match="WRONGTYPE"):
        await ask(store, "LPUSH", "k", "v")
    with pytest.raises(titan.BadMessage, match="a command is a list of words"):
        await ask(store)


@pytest.mark.parametrize("command", ["SELECT 1", "watch k", "MULTI", "EXEC", "SUBSCRIBE news", "MONITOR"])
async def test_what_is_for_connections_is_refused_rather_than_answered_without_effect(
    store: Held, command: str
) -> None:
    with pytest.raises(titan.BadMessage, match=f"{command.split()[0]} is for connections"):
        await ask(store, *command.split())


async def test_subscribing_is_a_stream(store: Held) -> None:
    type_name, body = encode_message(Subscribe(["news"]))
    items = await store.host.deliver(ALICE, store.object_id, type_name, body, deadline=1e12, stream=True)
    assert not isinstance(items, bytes)

    async def publish() -> None:
        for _ in range(1000):
            if await ask(store, "PUBLISH", "news", "hello"):
                return
        raise AssertionError("nobody listens")

    item, _ = await asyncio.gather(anext(items), publish())
    assert codec.decode(item, list[bytes]) == [b"news", b"hello"]
    await items.aclose()  # type: ignore[attr-defined]


class Door:
    """As much of a pool as leads to one store."""

    def __init__(self, store: Held) -> None:
        self.store = store

    async def describe(self, name: str) -> None:
        """It is no group's."""

    async def send(self, name: str, words: list[object]) -> Any:
        return await ask(self.store, *words)

    async def stream(self, name: str, message: Subscribe, *, timeout: float) -> AsyncIterator[list[bytes]]:
        raw = await self.store.host.deliver(
            ALICE, self.store.object_id, *encode_message(message), deadline=1e12, stream=True
        )
        assert not isinstance(raw, bytes)
        async for item in raw:
            yield codec.decode(item, list[bytes])

    def token_bytes(self, length: int) -> bytes:
        return bytes(length)


async def test_a_program_hears_all_from_the_start_on_and_is_told_when_it_is_too_slow(
    store: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "WAITING_MAX", 3)
    heard = hearing.Hearing(cast(Any, Door(store)), "store/main", ["news"])
    await heard.start()
    assert await ask(store, "PUBLISH", "other", "x") == 0
    for number in range(3):
        assert await ask(store, "PUBLISH", "news", number) == 1
        assert await heard.get() == [[b"news", b"%d" % number]]
    for number in range(4):
        await ask(store, "PUBLISH", "news", number)
    while heard._end is None:
        await asyncio.sleep(0.001)
    with pytest.raises(titan.Overloaded, match="are lost"):
        await heard.get()
    await heard.close()
    assert await ask(store, "PUBSUB", "CHANNELS") == []


async def test_who_may_not_ask_a_store_does_not_wait_to_hear_it() -> None:
    found = await held({"senders": []})
    heard = hearing.Hearing(cast(Any, Door(found)), "store/main", ["news"])
    with pytest.raises(titan.Forbidden):
        await heard.start()
    await heard.close()
    await found.host.close()


async def test_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    for turn in range(2):
        found = await held({"senders": ["*"], "dir": str(tmp_path)})
        assert await ask(found, "INCR", "starts") == turn + 1
        await found.host.close()


async def test_who_is_not_listed_is_not_answered() -> None:
    found = await held({"senders": [Random(1).randbytes(16).hex()]})
    with pytest.raises(titan.Forbidden, match="senders"):
        await ask(found, "PING")
    await found.host.close()


async def test_who_is_listed_needs_no_password_but_has_the_rights_of_the_user_default() -> None:
    found = await held({"senders": ["*"], "settings": {"requirepass": "secret"}})
    assert await ask(found, "SET", "k", "v") == b"OK"
    heard = hearing.Hearing(cast(Any, Door(found)), "store/main", ["news"])
    await heard.start()
    await ask(found, "PUBLISH", "news", "it rains")
    assert await heard.get() == [[b"news", b"it rains"]]
    await heard.close()
    await ask(found, "ACL", "SETUSER", "default", "off", "-@dangerous")
    assert await ask(found, "GET", "k") == b"v"
    with pytest.raises(titan.BadMessage, match="NOPERM"):
        await ask(found, "FLUSHALL")
    await found.host.close()


@pytest.mark.parametrize("table", [{"dirs": "x"}, {"dir": "x"}, {"settings": {"nonsense": "1"}}, {"senders": "me"}])
def test_a_table_that_is_wrong_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(titan.ConfigError, match="store/main"):
        StoreObject.from_config({"name": "store/main", **table})
