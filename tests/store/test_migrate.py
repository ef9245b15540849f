"""MIGRATE: keys move to another server, and whatever happens on the way, one of the two has all of them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.ports import free_port
from tests.store import wires
from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from tests.store.test_group import START, Member
from titan_objects.store.commands.migrate import Migration, Options
from titan_objects.store.config import Config
from titan_objects.store.group.messages import Done, Section
from titan_objects.store.group.moving import GroupSource
from titan_objects.store.group.places import door_table, group_table
from titan_objects.store.host import Store
from titan_objects.store.migrating import Sent, moved
from titan_objects.store.resp import CommandError
from titan_objects.store.server import Server
from titan_objects.store.table import Group


@asynccontextmanager
async def served(directory: Path | None = None, **settings: str) -> AsyncIterator[tuple[Store, int]]:
    store = Store(directory, Config(**settings))
    server = Server(store)
    try:
        yield store, await server.listen(["127.0.0.1"], 0)
    finally:
        await server.close()
        await store.close()


@asynccontextmanager
async def fake(confirm: Callable[[list[bytes]], bytes | None]) -> AsyncIterator[int]:
    """A server that answers each command as it is told; None: it cuts the link."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                answer = confirm(words)
                if answer is None:
                    return
                writer.write(answer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def ask(store: Store, *words: str | int) -> object:
    return await store.execute([str(word).encode() for word in words])


async def test_keys_of_all_kinds_move_with_their_ends(tmp_path: Path) -> None:
    async with served(tmp_path / "here") as (here, _), served(tmp_path / "there") as (there, port):
        for command in ("SET s v PX 50000", "RPUSH l a b", "SADD m a", "HSET h f v", "ZADD z 1 a", "XADD x 1-1 f v"):
            await ask(here, *command.split())
        before = [await ask(here, *words.split()) for words in ("LRANGE l 0 -1", "HGETALL h", "XRANGE x - +")]
        assert await ask(here, "MIGRATE", "127.0.0.1", port, "s", 2, 1000) == b"OK"
        assert await ask(here, "MIGRATE", "127.0.0.1", port, "s", 2, 1000) == b"NOKEY"
        assert await ask(here, "MIGRATE", "127.0.0.1", port, "", 0, 1000, "KEYS", *"lmhzxl", "none") == b"OK"
        assert await ask(here, "DBSIZE") == 0
        after = [await ask(there, *words.split()) for words in ("LRANGE l 0 -1", "HGETALL h", "XRANGE x - +")]
        assert after == before
        assert there.engine.databases[2].data == {b"s": b"v"} and there.engine.databases[2].expires
        await ask(here, "SET", "l", 1)
        with pytest.raises(CommandError, match="BUSYKEY"):
            await ask(here, "MIGRATE", "127.0.0.1", port, "l", 0, 1000)
        assert await ask(here, "MIGRATE", "127.0.0.1", port, "l", 0, 1000, "COPY", "REPLACE") == b"OK"
        assert await ask(here, "GET", "l") == await ask(there, "GET", "l") == b"1"
    async with served(tmp_path / "here") as (again, _):
        assert await ask(again, "KEYS", "*") == [b"l"], "what has moved is not in the log any more"


async def test_a_key_that_changes_on_its_way_is_sent_again() -> None:
    sent: list[list[bytes]] = []

    def confirm(words: list[bytes]) -> bytes:
        if words[0] == b"RESTORE":
            sent.append(words)
            if len(sent) <= changes:
                here.engine.databases[0].data[b"k"] = b"%d" % len(sent)
        return b"+OK\r\n"

    async with served(appendonly="no") as (here, _), fake(confirm) as port:
        changes = 2
        await ask(here, "SET", "k", "v")
        assert await ask(here, "MIGRATE", "127.0.0.1", port, "k", 0, 1000) == b"OK"
        assert [words[4:] for words in sent] == [[], [b"REPLACE"], [b"REPLACE"]] and len({w[3] for w in sent}) == 3
        assert await ask(here, "EXISTS", "k") == 0
        changes = 1000
        await ask(here, "SET", "k", "v")
        with pytest.raises(CommandError, match="changed again"):
            await ask(here, "MIGRATE", "127.0.0.1", port, "k", 0, 1000)
        assert await ask(here, "EXISTS", "k") == 1


@pytest.mark.parametrize(
    ("answers", "says", "left"),
    [
        ({b"SELECT": b"-ERR DB index is out of range\r\n"}, "replied with error: ERR DB index", 3),
        ({b"AUTH": b"-WRONGPASS\r\n"}, "replied with error: WRONGPASS", 3),
        ({b"b": b"-OOM\r\n"}, "replied with error: OOM", 1),
        ({b"b": None}, "IOERR", 2),
        ({b"b": b"", b"c": b""}, "IOERR .* may be there too", 2),
        ({b"b": b"x" * 100_000}, "IOERR", 2),
        ({b"b": b":1\r\n"}, "replied with error: 1", 1),
    ],
)
async def test_what_is_not_confirmed_stays(answers: dict[bytes, bytes | None], says: str, left: int) -> None:
    def confirm(words: list[bytes]) -> bytes | None:
        return answers.get(words[0], answers.get(words[1], b"+OK\r\n"))

    async with served(appendonly="no") as (here, _), fake(confirm) as port:
        await ask(here, "MSET", "a", 1, "b", 2, "c", 3)
        words = ("MIGRATE", "127.0.0.1", port, "", 0, 100, "AUTH2", "ann", "secret", "KEYS", "a", "b", "c")
        with pytest.raises(CommandError, match=says):
            await ask(here, *words)
        assert await ask(here, "DBSIZE") == left


async def test_a_server_that_is_not_there_is_said() -> None:
    async with served(appendonly="no") as (here, _):
        await ask(here, "SET", "a", 1)
        with pytest.raises(CommandError, match="IOERR"):
            await ask(here, "MIGRATE", "127.0.0.1", free_port(), "a", 0, 100)
        assert await ask(here, "EXISTS", "a") == 1


@pytest.mark.parametrize("host", ["x" * 64, "a..b", "a\0b"])
async def test_a_host_that_no_name_can_be_is_said(host: str) -> None:
    async with served(appendonly="no") as (here, _), asyncio.timeout(60):
        await ask(here, "SET", "a", 1)
        with pytest.raises(CommandError, match="IOERR"):
            await ask(here, "MIGRATE", host, 6379, "a", 0, 1000)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("MIGRATE h 6379 k 0 x", "not an integer"),
        ("MIGRATE h 0 k 0 1", "Invalid port"),
        ("MIGRATE h 6379 k 0 1 KEYS a", "must be set to the empty string"),
        ("MIGRATE h 6379 k 0 1 AUTH2 ann", "syntax error"),
        ("MIGRATE h 6379 k 0 1 SOON", "syntax error"),
        ("MIGRATE h 6379 k 0 1", "cannot reach"),
    ],
)
def test_what_cannot_be_moved_is_refused_at_once(command: str, says: str) -> None:
    core = Core()
    core("SET k v")
    assert says in str(core(command))
    core.engine.may_follow = True
    assert "not allowed from script" in str(core("EVAL", "return redis.call('MIGRATE', 'h', 1, 'k', 0, 1)", 0))
    assert core("COMMAND GETKEYS MIGRATE h 1 k 0 1 AUTH KEYS") == [b"k"]
    assert core("COMMAND", "GETKEYS", "MIGRATE", "h", 1, "", 0, 1, "AUTH", "KEYS", "KEYS", "a", "b") == [b"a", b"b"]
    core("MULTI")
    assert "not allowed inside a transaction" in str(core("MIGRATE h 6379 k 0 1"))


async def test_keys_of_a_group_are_moved_by_a_door() -> None:
    group = Member()
    group("SET a 1 PX 60000", "RPUSH b x y", "SET c 1")
    dropped: list[int] = []
    changes = 1

    def submit(section: Section, answer: Callable[[Done | titan.TitanError], None]) -> None:
        nonlocal changes
        if section.atomic and changes:
            changes -= 1
            group("RPUSH b z")
        answer(group.outcome(section).done[0])

    source = GroupSource(submit, dropped.append, lambda: int(START * 1000))

    def migration(*keys: bytes, copy: bool = False) -> Migration:
        return Migration("127.0.0.1", port, 0, 5000, Options(list(keys), copy), group.store.engine.databases[0])

    async with served(appendonly="no") as (there, port):
        there.now = lambda: int(START * 1000)
        assert await moved(source, migration(b"none")) == b"+NOKEY\r\n"
        assert await moved(source, migration(b"c", copy=True)) == b"+OK\r\n"
        assert len(dropped) == 2
        assert await moved(source, migration(b"b", b"a", b"none")) == b"+OK\r\n"
        assert group("KEYS *") == [[b"c"]]
        assert await ask(there, "LRANGE", "b", 0, -1) == [b"x", b"y", b"z"], "it had changed on its way"
        assert await ask(there, "PTTL", "a") == 60_000
        assert (await moved(source, migration(b"c"))).startswith(b"-ERR Target instance replied with error: BUSYKEY")
    assert group("KEYS *") == [[b"c"]]
    group.store.engine.drop(dropped)
    assert not group.store.engine.guards


@pytest.mark.loops("real", "node")
async def test_who_wants_keys_moved_is_told_that_the_link_was_cut_while_they_were_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Member()
    group("SET k v")
    dropped: list[int] = []
    links = wires.opened(monkeypatch)

    async def select_and_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"SELECT\r\n$1\r\n0\r\n")
        writer.write(b"+OK\r\n")
        await cut.wait()
        wires.reset(writer)

    class Slow(GroupSource):
        async def read(self, migration: Migration, left: deque[bytes]) -> list[Sent]:
            cut.set()
            with pytest.raises(ConnectionError):
                await links[0].wait_closed()
            return await super().read(migration, left)

    cut = asyncio.Event()
    source = Slow(lambda section, answer: answer(group.outcome(section).done[0]), dropped.append, lambda: 0)
    async with await asyncio.start_server(select_and_cut, "127.0.0.1", 0) as listening, asyncio.timeout(10):
        port = listening.sockets[0].getsockname()[1]
        database = group.store.engine.databases[0]
        reply = await moved(source, Migration("127.0.0.1", port, 0, 5000, Options([b"k"]), database))
    assert reply.startswith(b"-IOERR ") and len(dropped) == 1
    assert group("GET k") == [b"v"]


def test_a_door_knows_migrate_and_members_do_not() -> None:
    assert "migrate" in door_table(Group("x")).commands and "migrate" not in group_table().commands


@needs_redis
async def test_keys_move_to_a_real_redis_and_back(tmp_path: Path) -> None:
    async with served(appendonly="no") as (ours, port):
        with RealRedis(tmp_path / "redis", "--requirepass", "theirs") as real, Wire(real.port) as wire:
            wire.ask("AUTH", "theirs")
            await ask(ours, "SET", "a", "1", "PX", 60_000)
            await ask(ours, "RPUSH", "b", "x", "y")
            there = ("MIGRATE", "127.0.0.1", real.port, "", 0, 5000)
            with pytest.raises(CommandError, match="NOAUTH"):
                await ask(ours, *there, "KEYS", "a", "b")
            assert await ask(ours, *there, "AUTH", "theirs", "KEYS", "a", "b") == b"OK"
            assert wire.ask("LRANGE", "b", 0, -1) == b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n"
            assert int(wire.ask("PTTL", "a")[1:]) > 50_000
            await ask(ours, "CONFIG", "SET", "requirepass", "ours")
            back = ("MIGRATE", "127.0.0.1", port, "", 0, 5000, "AUTH", "ours", "KEYS", "a", "b")
            assert await asyncio.to_thread(wire.ask, *back) == b"+OK\r\n"
            assert wire.ask("DBSIZE") == b":0\r\n" and len(ours.engine.databases[0].data) == 2
