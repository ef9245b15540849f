"""Doors before a store of one member in this process: what is left of clients that have gone, and who hears what."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.sim.store_doors import Client
from tests.store.test_group import START, Member, Turn
from titan_objects.store.commands.migrate import Migration
from titan_objects.store.connection import BACKLOG_MAX, Connection
from titan_objects.store.group import agreed, replicated, serving, surveying
from titan_objects.store.group.door import Door
from titan_objects.store.group.messages import Look, Mark, Run, Survey
from titan_objects.store.migrating import Source
from titan_objects.store.resp import CommandError, bulks, decode_all
from titan_objects.store.server import Server

pytestmark = pytest.mark.loops("virtual")

encode = msgspec.msgpack.encode


class Group:
    """A group of one, which answers after a turn of the loop. Used where a door takes a pool.

    Attributes:
        reachable: whether anybody answers.
        marks: whether marks come through.
        answers: what is executed is answered; until then, those who watch have seen it already.
        failing: what goes to the group ends in an error that nobody foresaw.
    """

    def __init__(self) -> None:
        self.member = Member()
        self.marks = True
        self.reachable = True
        self.answers = asyncio.Event()
        self.answers.set()
        self.failing = False
        self._watching: set[asyncio.Queue[titan.Change | None]] = set()

    @property
    def guards(self) -> int:
        return len(self.member.store.engine.guards)

    async def send(self, name: str, message: Any, *, timeout: float = 0) -> Any:
        await asyncio.sleep(0)
        self._may_fail()
        turn: Any = Turn(START + asyncio.get_running_loop().time(), 1)
        if not self.reachable:
            raise titan.Unavailable("no quorum")
        if isinstance(message, Mark) and not self.marks:
            return None
        reply = self.member.store.run(message, turn) if isinstance(message, Run) else None
        change = titan.Change(1, 1, turn.now, b"", message.wire_type, encode(message), encode(reply))
        for each in self._watching:
            each.put_nowait(change)
        await self.answers.wait()
        return reply

    async def read(self, name: str, message: Any, *, stale_ok: bool = False, timeout: float = 0) -> Any:
        await asyncio.sleep(0)
        self._may_fail()
        turn: Any = Turn(START, 1)
        store = self.member.store
        if isinstance(message, Survey):
            return store.survey(message)
        return store.look(message, turn) if isinstance(message, Look) else store.rest(message)

    async def watch(self, name: str) -> AsyncIterator[titan.Change]:
        self._may_fail()
        changes: asyncio.Queue[titan.Change | None] = asyncio.Queue()
        self._watching.add(changes)
        try:
            while (change := await changes.get()) is not None:
                yield change
        finally:
            self._watching.discard(changes)
        raise titan.Unavailable("the link is cut")

    async def describe(self, name: str, *, timeout: float = 0) -> None:
        self._may_fail()

    def _may_fail(self) -> None:
        if self.failing:
            raise RuntimeError("nobody foresaw this")

    def cut(self) -> None:
        """Whoever watches is told that the link is cut."""
        for each in self._watching:
            each.put_nowait(None)


@asynccontextmanager
async def opened(group: Group) -> AsyncIterator[Door]:
    pool: Any = group
    door = Door(pool, "store/main", now=lambda: int(START * 1000), chance=Random(1))
    yield door
    await door.close()


class Wire(asyncio.Transport):
    """A client's socket, as a connection sees it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.sent = b""
        self.reading = True
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There are none."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def encoded(*commands: str) -> bytes:
    return b"".join(bulks(command.encode().split()) for command in commands)


async def test_who_begins_to_listen_as_the_door_would_stop_hears_all() -> None:
    group = Group()
    group.marks = False
    async with opened(group) as door:
        one, other = Client(door), Client(door)
        one.put("SUBSCRIBE news")
        await asyncio.sleep(25)  # longer than a door without listeners watches
        group.marks = True
        assert await one.hear() == [b"subscribe", b"news", 1]
        assert await other("PUBLISH news hello") == 1
        assert await one.hear() == [b"message", b"news", b"hello"]


@pytest.mark.parametrize("how", ["SUBSCRIBE news", "BLPOP q 0"])
async def test_who_comes_in_the_turn_in_which_the_door_stops_to_watch_hears_all(how: str) -> None:
    async with opened(Group()) as door:
        one, other = Client(door), Client(door)
        await other("SUBSCRIBE none")
        await other("UNSUBSCRIBE none")
        door._rest()
        one.put(how)
        if how.startswith("BLPOP"):
            await asyncio.sleep(1)
            await other("RPUSH q x")
            assert await one.hear() == [b"q", b"x"]
        else:
            assert await one.hear() == [b"subscribe", b"news", 1]
            await other("PUBLISH news hello")
            assert await one.hear() == [b"message", b"news", b"hello"]


async def test_who_waits_while_the_link_is_cut_leaves_no_guards_behind() -> None:
    group = Group()
    async with opened(group) as door:
        one, other = Client(door), Client(door)
        one.put("BLPOP q 0")
        for _ in range(3):
            await asyncio.sleep(2)
            assert group.guards == 1
            group.cut()
        await asyncio.sleep(2)
        await other("RPUSH q x")
        assert await one.hear() == [b"q", b"x"]
        await other("PING", "SET k v")
        assert group.guards == 0


@pytest.mark.parametrize("cut", [False, True])
async def test_a_key_that_comes_before_the_answer_that_it_was_not_there_is_not_missed(cut: bool) -> None:
    group = Group()
    async with opened(group) as door, opened(group) as elsewhere:
        one, other, listener = Client(door), Client(elsewhere), Client(door)
        await listener("SUBSCRIBE none")
        group.answers.clear()
        one.put("BLPOP q 0")
        await asyncio.sleep(1)
        if cut:
            group.cut()
        other.put("RPUSH q x")
        await asyncio.sleep(2)
        assert one.quiet
        group.answers.set()
        assert await one.hear() == [b"q", b"x"]
        assert await other.hear() == 1


async def test_guards_that_nobody_needs_go_with_the_next_commands_that_arrive() -> None:
    group = Group()
    async with opened(group) as door:
        one, other = Client(door), Client(door)
        await one("WATCH k")
        one.leave()
        group.reachable = False
        assert isinstance(await other("SET k v"), CommandError)
        group.reachable = True
        assert group.guards == 1
        assert await other("SET k v") == b"OK"
        assert group.guards == 0


async def test_an_exec_that_is_refused_forgets_nothing() -> None:
    async with opened(Group()) as door:
        one, other = Client(door), Client(door)
        await one("WATCH k")
        refused = await one("EXEC")
        assert isinstance(refused, CommandError) and b"EXEC without MULTI" in refused.text
        await other("SET k v")
        assert await one("MULTI", "SET k w", "EXEC") == [b"OK", b"QUEUED", None]
        await one("WATCH k")
        aborted, refused = (await one("MULTI", "SET k w", "EXEC now", "EXEC"))[2:]
        assert isinstance(aborted, CommandError) and aborted.text.startswith(b"EXECABORT")
        assert isinstance(refused, CommandError) and b"EXEC without MULTI" in refused.text
        assert await other("GET k") == b"v"
        assert not one.session.guard
        await one("WATCH k", "UNWATCH now")
        await other("SET k x")
        assert await one("MULTI", "SET k w", "EXEC") == [b"OK", b"QUEUED", None]


async def test_replies_that_are_too_long_stand_for_as_many_commands_as_were_answered() -> None:
    async with opened(Group()) as door:
        one, other = Client(door), Client(door)
        await one("SET big " + "x" * 500_000, "SETRANGE big 30000000 x")
        one.put("GET big", "GET big", "GET big", "BLPOP q 0", "PING")
        errors = [await one.hear() for _ in range(3)]
        assert all(isinstance(each, CommandError) for each in errors)
        await other("RPUSH q x")
        assert [await one.hear(), await one.hear()] == [[b"q", b"x"], b"PONG"]


async def test_many_commands_without_replies_hold_up_nobody() -> None:
    group = Group()
    async with opened(group) as door:
        connection = Connection(Server(door))
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(encoded("CLIENT REPLY OFF"))
        connection.data_received(encoded(*["INCR n"] * (BACKLOG_MAX + 10)))
        assert not wire.reading
        while connection.session.backlog:
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        assert wire.reading
        connection.data_received(encoded("CLIENT REPLY ON", "GET n"))
        await asyncio.sleep(1)
        assert decode_all(wire.sent) == [b"OK", b"%d" % (BACKLOG_MAX + 10)]
        connection.connection_lost(None)


async def test_a_key_that_is_too_large_to_be_moved_is_refused_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def moved(source: Source, migration: Migration) -> bytes:
        await source.read(migration, deque(migration.options.keys))
        raise AssertionError

    monkeypatch.setattr("titan_objects.store.group.door.moved", moved)
    monkeypatch.setattr(agreed, "REPLIES_BYTES_MAX", 1000)
    monkeypatch.setattr(agreed, "PARKED_BYTES_MAX", 1000)
    monkeypatch.setattr(replicated, "AT_ONCE_BYTES_MAX", 1000)
    group = Group()
    async with opened(group) as door:
        one = Client(door)
        await one("SET k " + "x" * 5000)
        refused, length = await one("MIGRATE 127.0.0.1 6379 k 0 1000", "STRLEN k")
        assert isinstance(refused, CommandError) and "1000 at most" in str(refused) and length == 5000
        await one("SET n 1")
        assert group.guards == 0


async def test_a_door_has_the_databases_that_its_group_has(tmp_path: Path) -> None:
    file = tmp_path / "door.conf"
    file.write_text("databases 4\n")
    pool: Any = Group()
    with pytest.raises(titan.ConfigError, match="databases"):
        async with serving.door_to("store/main", "0", config_file=file)(pool):
            raise AssertionError


async def test_what_is_no_protocol_is_said_after_the_replies_to_what_was() -> None:
    async with opened(Group()) as door:
        connection = Connection(Server(door))
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(encoded("SET k v") + encoded("GET k"))
        connection.data_received(b"*1\r\n:1\r\n")
        connection.data_received(encoded("SET k w"))
        await asyncio.sleep(1)
        replies = decode_all(wire.sent)
        assert replies[:2] == [b"OK", b"v"] and "Protocol error" in str(replies[2]) and len(replies) == 3
        assert wire.is_closing()
        connection.connection_lost(None)
        assert await Client(door)("GET k") == b"v"


async def test_who_says_no_more_is_answered_what_was_asked_and_let_go() -> None:
    async with opened(Group()) as door:
        connection = Connection(Server(door))
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(encoded("SET k v") + encoded("PING") + encoded("GET k"))
        assert connection.eof_received(), "the socket stays open for the replies"
        assert wire.sent == b"" and not wire.is_closing()
        await asyncio.sleep(1)
        assert decode_all(wire.sent) == [b"OK", b"PONG", b"v"] and wire.is_closing()
        connection.connection_lost(None)


async def test_who_says_what_is_no_protocol_and_then_no_more_is_told_why() -> None:
    async with opened(Group()) as door:
        connection = Connection(Server(door))
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(encoded("SET k v"))
        connection.data_received(b"*1\r\n:1\r\n")
        assert connection.eof_received()
        await asyncio.sleep(1)
        replies = decode_all(wire.sent)
        assert replies[0] == b"OK" and "Protocol error" in str(replies[1]) and len(replies) == 2
        assert wire.is_closing()
        connection.connection_lost(None)


@pytest.mark.parametrize("command", ["BLPOP never 0", "SUBSCRIBE news"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_nobody_is_waited_for_on_behalf_of_who_may_be_gone(command: str, at_once: bool) -> None:
    async with opened(Group()) as door:
        connection = Connection(Server(door))
        wire = Wire()
        connection.connection_made(wire)
        connection.data_received(encoded(command))
        if not at_once:
            await asyncio.sleep(1)
        assert connection.eof_received() == at_once, "not yet known to wait, or known"
        await asyncio.sleep(1)
        assert wire.is_closing() == at_once, "else whoever has called closes it"
        connection.connection_lost(None)


@pytest.mark.parametrize("command", ["SET k v", "GET k", "INFO", "SUBSCRIBE news", "CONFIG GET maxmemory"])
async def test_an_error_that_nobody_foresaw_is_told_to_the_client_and_to_the_log(
    command: str, caplog: pytest.LogCaptureFixture
) -> None:
    group = Group()
    async with opened(group) as door:
        one = Client(door)
        group.failing = True
        refused = await one(command)
        assert isinstance(refused, CommandError) and refused.text.startswith(b"UNAVAILABLE")
        assert "nobody foresaw this" in caplog.text
        group.failing = False
        assert await one("SET k v", "GET k") == [b"OK", b"v"]
        assert await one("SUBSCRIBE news") == [b"subscribe", b"news", 1]


async def test_info_tells_that_the_group_is_not_reached_and_what_was_known_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group()
    async with opened(group) as door:
        one = Client(door)
        await one("SET k v")
        assert "titan_group:reached" in str(await one("INFO"))

        async def nobody(*args: Any, **more: Any) -> Any:
            await asyncio.sleep(30)
            raise titan.Unavailable("no quorum")

        answering = group.read
        monkeypatch.setattr(group, "read", nobody)
        begun = asyncio.get_running_loop().time()
        known = str(await one("INFO"))
        assert "titan_group:unavailable" in known and "db0:keys=1" in known
        assert asyncio.get_running_loop().time() - begun <= surveying.LOOK_SECONDS + 0.1
        monkeypatch.setattr(group, "read", answering)
        assert "titan_group:reached" in str(await one("INFO"))


async def test_a_key_that_cannot_be_moved_for_a_reason_that_nobody_foresaw_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def moved(source: Source, migration: Migration) -> bytes:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("titan_objects.store.group.door.moved", moved)
    async with opened(Group()) as door:
        refused, pong = await Client(door)("MIGRATE 127.0.0.1 1 k 0 1000", "PING")
        assert isinstance(refused, CommandError) and refused.text.startswith(b"UNAVAILABLE") and pong == b"PONG"


async def test_who_cannot_be_given_his_answer_is_let_go_and_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(Group()) as door:
        one, other = Client(door), Client(door)

        def failing(*_: Any) -> None:
            raise RuntimeError("nobody foresaw this")

        monkeypatch.setattr(door._room, "add", failing)
        one.put("BLPOP q 0")
        assert await other("SET k w", "PING") == [b"OK", b"PONG"]
        assert one.closed


async def test_a_transaction_is_checked_again_when_it_is_executed() -> None:
    async with opened(Group()) as door:
        one, other = Client(door), Client(door)
        await other("ACL SETUSER ann on >pw ~* +@all")
        await one("AUTH ann pw", "MULTI", "SET k v", "GET k")
        await other("ACL SETUSER ann -set")
        aborted = await one("EXEC")
        assert isinstance(aborted, CommandError) and aborted.text.startswith(b"EXECABORT")
        assert await one("GET k") is None
        one.put("BLPOP q 0")
        await other("ACL DELUSER ann", "RPUSH q x")
        assert one.closed and await other("LLEN q") == 1


async def test_a_pipeline_goes_on_at_a_door_as_its_replies_are_read() -> None:
    group = Group()
    async with opened(group) as door:
        one, other = Client(door), Client(door)
        await other("SETRANGE big 99999 x")
        one.full = True
        one.put(*["GET big", "INCR n"] * 500, "SET after 1")
        await asyncio.sleep(1)
        answered = 0
        while not one.quiet:
            await one.hear()
            answered += 1
        counted = int(await other("GET n"))
        assert counted == answered // 2 < 20, "what nobody reads is not executed, neither here nor at the members"
        one.full = False
        door.drained()
        replies = [await one.hear() for _ in range(1001 - answered)]
        assert replies[1::2] == [*range(counted + 1, 501)] and replies[-1] == b"OK"
        one.full = True
        one.put(*["GET big"] * 500)
        await asyncio.sleep(1)
        one.leave()
        assert await other("PING") == b"PONG" and not door._halted


async def test_long_replies_for_many_at_once_all_come() -> None:
    async with opened(Group()) as door:
        clients = [Client(door) for _ in range(100)]
        await clients[0]("SETRANGE big 999999 x")
        for client in clients:
            client.put("GET big", "MULTI", "GET big", "INCR n", "EXEC")
        for client in clients:
            got = [await client.hear() for _ in range(5)]
            assert [len(got[0]), len(got[4][0])] == [1_000_000, 1_000_000]
        assert await clients[0]("GET n") == b"100"


async def test_a_client_that_goes_on_is_listened_to_again() -> None:
    async with opened(Group()) as door:
        await Client(door)("SETRANGE big 99999 x")
        wire = Wire()
        connection = Connection(Server(door))
        connection.connection_made(wire)
        connection.data_received(encoded("GET big") * 50 + encoded("PING") * 3 * BACKLOG_MAX)
        connection.pause_writing()
        await asyncio.sleep(1)
        assert not wire.reading and b"PONG" not in wire.sent
        connection.resume_writing()
        await asyncio.sleep(1)
        assert wire.reading and wire.sent.count(b"PONG") == 3 * BACKLOG_MAX
        connection.connection_lost(None)


async def test_what_a_door_passes_on_is_counted_there() -> None:
    async with opened(Group()) as door:
        client = Client(door)
        for line in ("SET k v", "GET k", "GET k", "MULTI", "SET k w", "GET k", "EXEC", "OBJECT ENCODING k", "PING"):
            await client(line)
        found = {name: each.calls for name, each in door.engine.usages}
        assert found == {"set": 2, "get": 3, "multi": 1, "exec": 1, "object|encoding": 1, "ping": 1}
        assert str(await client("DEBUG SLEEP 1")).startswith("ERR DEBUG is not there in a group")
