"""Who has not authenticated can have nothing kept that is long: neither commands nor replies. As in Redis."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.real import SECONDS, RealRedis, TitanStore, Wire, needs_redis
from tests.store.test_doors import Group, opened
from tests.store.test_doors import Wire as Transport
from titan_objects.store.connection import Connection
from titan_objects.store.host import Store
from titan_objects.store.reading import CommandReader
from titan_objects.store.resp import bulks
from titan_objects.store.server import Server

AUTH = bulks([b"AUTH", b"pw"])
TOO_MANY = b"-ERR Protocol error: unauthenticated multibulk length\r\n"
TOO_LONG = b"-ERR Protocol error: unauthenticated bulk length\r\n"
MANY = bulks([b"ECHO", b"a"]) + bulks([b"MGET", *[b"k"] * 20]) + bulks([b"ECHO", b"x" * 20_000])


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("password") / "password"
    file.write_text("pw\n")
    return file


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, password: Path) -> Iterator[TitanStore]:
    directory = tmp_path_factory.mktemp("strangers") / "titan"
    with TitanStore(directory, "--memory-only", "--password-file", str(password)) as server:
        yield server


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with RealRedis(tmp_path_factory.mktemp("strangers") / "redis", "--requirepass", "pw") as server:
        yield server


def answers(port: int, data: bytes) -> bytes:
    """All that a server says to these bytes, behind which nothing comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@needs_redis
@pytest.mark.parametrize(
    "data",
    [
        b"*10\r\n" + b"$1\r\na\r\n" * 10,
        b"*11\r\n",
        b"*1000000\r\n",
        b"*2\r\n$4\r\nECHO\r\n$16384\r\n" + b"x" * 16384 + b"\r\n",
        b"*2\r\n$4\r\nECHO\r\n$16385\r\n",
        bulks([b"PING"]) * 3 + b"*11\r\n",
        b"PING\r\nPING " + b"a " * 30 + b"\r\n",
        AUTH + MANY,
        b"AUTH pw\r\n" + MANY,
        bulks([b"HELLO", b"3", b"AUTH", b"default", b"no"]) + b"*11\r\n",
        bulks([b"AUTH", b"no"]) + AUTH + MANY,
        AUTH + bulks([b"SET", b"k", b"v"]) + b"*20\r\n$4\r\nMGET\r\n",
        bulks([b"QUIT"]) + b"*11\r\n",
    ],
)
def test_what_a_stranger_says_is_answered_as_by_redis(ours: TitanStore, theirs: RealRedis, data: bytes) -> None:
    assert answers(ours.port, data) == answers(theirs.port, data)


def send_on(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data)


def test_who_does_not_read_what_a_stranger_is_told_is_cut_off(ours: TitanStore) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", ours.port))
        with pytest.raises(ConnectionError):
            send_on(connection, bulks([b"PING"]) * 1000)
    with Wire(ours.port) as known:
        assert known.ask("AUTH", "pw") == b"+OK\r\n"
        for _ in range(300):
            known.socket.sendall(bulks([b"ECHO", b"x" * 10_000]))
        for _ in range(300):
            assert known.reply() == b"$10000\r\n%b\r\n" % (b"x" * 10_000)


def connected(server: Server) -> tuple[Connection, Transport]:
    connection, transport = Connection(server), Transport()
    connection.connection_made(transport)
    return connection, transport


async def test_who_came_before_the_default_user_needed_no_password_is_let_in() -> None:
    store = Store(None)
    server = Server(store)
    store.config.change({"requirepass": "pw"})
    stranger, its = connected(server)
    store.config.change({"requirepass": ""})
    stranger.data_received(bulks([b"MSET", *[b"k"] * 20]))
    store.flush()
    assert its.sent == b"+OK\r\n"
    known, heard = connected(server)
    store.config.change({"requirepass": "pw"})
    for piece in (MANY[:100], MANY[100:]):
        known.data_received(piece)
    store.flush()
    assert b"NOAUTH" not in heard.sent and heard.sent.endswith(b"x" * 20_000 + b"\r\n"), "it needed none when it came"
    late, told = connected(server)
    late.data_received(MANY)
    store.flush()
    assert told.sent == b"-NOAUTH Authentication required.\r\n" + TOO_MANY
    await store.close()


async def test_who_is_disabled_is_nobody_who_comes_without_a_password() -> None:
    store = Store(None)
    await store.execute([b"ACL", b"SETUSER", b"default", b"off"])
    stranger, its = connected(Server(store))
    stranger.data_received(b"*2\r\n$3\r\nGET\r\n$20000\r\n")
    store.flush()
    assert its.sent == TOO_LONG
    await store.close()


async def test_strangers_are_strangers_while_a_script_runs() -> None:
    store = Store(None)
    server = Server(store)
    store.config.change({"requirepass": "pw"})
    assert connected(server)[0].meanwhile(MANY) == b"-NOAUTH Authentication required.\r\n" + TOO_MANY
    known = connected(server)[0]
    assert known.meanwhile(AUTH + MANY).count(b"-BUSY") == 3
    assert known.meanwhile(MANY).count(b"-BUSY") == 3
    await store.close()


@pytest.mark.loops("virtual")
async def test_a_door_takes_no_more_from_strangers() -> None:
    async with opened(Group()) as door:
        server = Server(door)
        door.config.change({"requirepass": "pw"})
        stranger, its = connected(server)
        stranger.data_received(MANY)
        door.flush()
        assert its.sent == b"-NOAUTH Authentication required.\r\n" + TOO_MANY
        known, heard = connected(server)
        known.data_received(AUTH + MANY)
        while not heard.sent.endswith(b"x" * 20_000 + b"\r\n"):
            await asyncio.sleep(0.01)
        assert heard.sent.startswith(b"+OK\r\n$1\r\na\r\n*20\r\n$-1\r\n")


def test_a_strict_reader_holds_little_of_what_comes_in_pieces() -> None:
    reader = CommandReader()
    reader.strict = True
    piece = b"$16384\r\n" + b"x" * 16384 + b"\r\n"
    for each in (b"*10\r\n", *[piece] * 9):
        assert not list(reader.read_each(each))
    assert reader.held == 5 + 9 * len(piece)
    assert len(list(reader.read_each(piece))) == 1
    assert not list(reader.read_each(b"*1\r\n$16385\r\n"))
    assert reader.error == b"unauthenticated bulk length"


def test_who_says_no_more_gets_all_replies_however_long_they_are(tmp_path: Path) -> None:
    with TitanStore(tmp_path) as store, Wire(store.port) as wire:
        assert wire.ask("SET", "big", b"x" * 100_000) == b"+OK\r\n"
        wire.socket.sendall(bulks([b"GET", b"big"]) * 100 + bulks([b"INCR", b"n"]))
        wire.socket.shutdown(socket.SHUT_WR)
        replies = wire.file.read()
        assert len(replies) == 100 * (100_000 + len(b"$100000\r\n\r\n")) + len(b":1\r\n")
        assert replies.endswith(b":1\r\n")


def test_who_authenticates_and_asks_for_much_at_once_is_heard_as_far_as_it_reads(tmp_path: Path) -> None:
    limited = TitanStore(
        tmp_path,
        "--set",
        "requirepass=pw",
        "--set",
        "client-output-buffer-limit=normal 8mb 0 0 slave 0 0 0 pubsub 0 0 0",
    )
    with limited as store, Wire(store.port) as wire:
        wire.socket.sendall(AUTH + bulks([b"SET", b"big", b"x" * 10_000]))
        assert wire.reply() == wire.reply() == b"+OK\r\n"
        with Wire(store.port) as other:
            other.socket.sendall(AUTH + bulks([b"GET", b"big"]) * 2000 + bulks([b"PING"]))
            assert other.reply() == b"+OK\r\n"
            for _ in range(2000):
                assert len(other.reply()) == 10_000 + len(b"$10000\r\n\r\n")
            assert other.reply() == b"+PONG\r\n"
