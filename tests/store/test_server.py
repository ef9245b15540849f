"""`titan store serve` as clients meet it: redis-cli, redis-py, and those that do not speak the protocol."""

import asyncio
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redis.asyncio
from typer.testing import CliRunner

from tests.store.real import SECONDS, RealRedis, TitanStore, Wire, needs_redis
from titan_objects.store.batches import BatchReader
from titan_objects.store.host import Store
from titan_objects.store.resp import bulks
from titan_objects.store.server import Server
from titan_overlay.cli.titan import complete


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TitanStore]:
    with TitanStore(tmp_path_factory.mktemp("store"), "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def client(store: TitanStore) -> Iterator[redis.Redis]:
    with redis.Redis(port=store.port, socket_timeout=SECONDS) as found:
        found.flushall()
        yield found


def raw(port: int, data: bytes) -> bytes:
    """What the server says to these bytes until it closes, or until the answer to a PING that follows."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(data)
        heard = b""
        while piece := connection.recv(65536):
            heard += piece
            if heard.endswith(b"+PONG\r\n"):
                break
        return heard


# ---- clients -----------------------------------------------------------------------------------------------------


@needs_redis
def test_redis_cli(store: TitanStore) -> None:
    def cli(*words: str, given: str | None = None) -> str:
        done = subprocess.run(
            ["redis-cli", "-p", str(store.port), *words], input=given, capture_output=True, text=True, timeout=SECONDS
        )
        return done.stdout.strip()

    assert cli("set", "greeting", "hello") == "OK"
    assert cli("-3", "hset", "cli:h", "a", "1") == "1"
    assert cli("-3", "--no-raw", "hgetall", "cli:h") == '1# "a" => "1"'
    assert "greeting" in cli("--scan", "--pattern", "gree*")
    assert cli(given='SET "two words" \'x\'\nGET "two words"\n') == "OK\nx"
    assert "redis_version:7.0" in cli("info", "server")


@needs_redis
def test_redis_cli_pipes_commands_in(store: TitanStore, client: redis.Redis) -> None:
    count = 50_000
    given = b"".join(bulks([b"RPUSH", b"piped:%d" % (at % 7), b"%d" % at]) for at in range(count))
    given += b"HSET piped:typed a 1\r\n" + bulks([b"LPUSH", b"piped:typed", b"x"])
    words = ["redis-cli", "-p", str(store.port), "--pipe"]
    done = subprocess.run(words, input=given, capture_output=True, timeout=SECONDS)
    assert b"errors: 1, replies: %d" % (count + 2) in done.stdout
    assert sum(client.llen(f"piped:{at}") for at in range(7)) == count


def test_redis_py_pipelines_transactions_and_locks(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipe:
        assert pipe.set("a", 1).incr("a").lrange("none", 0, -1).execute() == [True, 2, []]
    with client.pipeline(transaction=False) as pipe:
        for at in range(1000):
            pipe.rpush("list", at)
        assert pipe.execute()[-1] == 1000
    with client.pipeline() as pipe:
        pipe.watch("a")
        client.set("a", "changed")
        pipe.multi()
        pipe.set("a", "mine")
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.zadd("z", {"x": 1.5, "y": 2}) == 2
    assert client.zrange("z", 0, -1, withscores=True, score_cast_func=float) in (
        [(b"x", 1.5), (b"y", 2.0)],
        [[b"x", 1.5], [b"y", 2.0]],
    )
    assert client.set("lock", "me", nx=True, px=5000) is True
    assert client.set("lock", "you", nx=True) is None
    assert set(client.scan_iter(count=2)) == {b"a", b"list", b"z", b"lock"}


@pytest.mark.parametrize("protocol", [2, 3])
async def test_redis_py_asyncio_and_pubsub(store: TitanStore, protocol: int) -> None:
    async with redis.asyncio.Redis(port=store.port, protocol=protocol, socket_timeout=SECONDS) as client:
        async with client.pubsub() as listener:
            await listener.subscribe("news")
            assert (await listener.get_message(timeout=SECONDS))["type"] == "subscribe"
            assert await client.publish("news", "hello") == 1
            message = await listener.get_message(timeout=SECONDS)
            assert (message["type"], message["data"]) == ("message", b"hello")
        await client.delete("queue")
        waiting = client.blpop("queue", timeout=SECONDS)
        async with redis.asyncio.Redis(port=store.port) as other:
            await other.rpush("queue", "job")
        assert list(await waiting) == [b"queue", b"job"]


async def test_turns_that_take_long_are_in_the_slow_log_and_among_the_latencies() -> None:
    store = Store(None)
    server = Server(store)
    session = store.connect(Unheard())
    for settings, micros, slow, latencies in (
        ((10_000, 0), 15_000, 1, 0),
        ((10_000, 20), 15_000, 1, 0),
        ((10_000, 20), 25_000, 1, 1),
        ((-1, 20), 25_000, 0, 1),
        ((30_000, 20), 25_000, 0, 1),
    ):
        for name, value in zip(("slowlog-log-slower-than", "latency-monitor-threshold"), settings, strict=True):
            store.config.change({name: str(value)})
        server.note_slow(session, [[b"SET", b"k", b"v"], [b"GET", b"k"]], micros)
        counts = len(store.engine.stats.slow.entries), len(store.engine.stats.latency.samples)
        assert counts == (slow, latencies), (settings, micros)
        await store.execute([b"SLOWLOG", b"RESET"])
        await store.execute([b"LATENCY", b"RESET"])
    assert server.noted_seconds == 0.02
    await store.close()


async def test_clients_that_are_silent_for_longer_than_the_timeout_are_let_go() -> None:
    store = Store(None)
    server = Server(store)
    port = await server.listen(["127.0.0.1"], 0)
    clients = {}
    for name, command in (
        ("idle", "PING"),
        ("busy", "PING"),
        ("listens", "SUBSCRIBE c"),
        ("waits", "BLPOP k 0"),
        ("shown", "MONITOR"),
    ):
        reader, writer = clients[name] = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{command}\r\n".encode())
        if name != "waits":
            await reader.readline()
    while not store.engine.waiting.count:
        await asyncio.sleep(0)
    now = store.now()
    store.now = lambda: now + 5000
    clients["busy"][1].write(b"PING\r\n")
    await clients["busy"][0].readline()
    store.now = lambda: now + 9000
    store.config.change({"timeout": "6"})
    assert await clients["idle"][0].read() == b"", "its connection is closed"
    assert len(server.connections) == 4
    store.config.change({"timeout": "3"})
    assert await clients["busy"][0].read() == b""
    assert len(server.connections) == 3
    for _, writer in clients.values():
        writer.close()
    await server.close()
    await store.close()


class Unheard:
    """A sink that takes all."""

    full = False

    def send(self, data: bytes) -> None: ...
    def unanswered(self) -> None:
        pass

    def close(self) -> None: ...


def test_a_thousand_connections(store: TitanStore) -> None:
    wires = [Wire(store.port) for _ in range(1000)]
    for at, wire in enumerate(wires):
        wire.send("SET", f"c{at}", at)
    assert all(wire.reply() == b"+OK\r\n" for wire in wires)
    for wire in wires:
        wire.close()


def test_a_client_that_waits_holds_up_nobody(store: TitanStore) -> None:
    with Wire(store.port) as waiting, Wire(store.port) as other:
        waiting.send("BLPOP", "held", 0)
        assert other.ask("PING") == b"+PONG\r\n"
        assert other.ask("LPUSH", "held", "x") == b":1\r\n"
        assert waiting.reply() == b"*2\r\n$4\r\nheld\r\n$1\r\nx\r\n"


def test_a_pause_holds_clients_and_what_they_sent_meanwhile(store: TitanStore) -> None:
    with Wire(store.port) as ann, Wire(store.port) as bob:
        assert ann.ask("DEL", "n")[:1] == b":" and ann.ask("CLIENT", "PAUSE", 50, "WRITE") == b"+OK\r\n"
        for _ in range(3000):
            bob.send("INCR", "n")
        assert [bob.reply() for _ in range(3000)][-1] == b":3000\r\n"


def test_a_client_that_sends_on_while_it_waits_is_read_again_afterwards(store: TitanStore) -> None:
    with Wire(store.port) as waiting, Wire(store.port) as other:
        waiting.send("BLPOP", "later", 0)
        for _ in range(4):
            waiting.socket.sendall(PING * 1000)  # more than is kept for a client that waits
        assert other.ask("PING") == b"+PONG\r\n"
        assert other.ask("LPUSH", "later", "x") == b":1\r\n"
        waiting.reply()
        assert {waiting.reply() for _ in range(4000)} == {b"+PONG\r\n"}
        assert waiting.ask("ECHO", "x") == b"$1\r\nx\r\n"


# ---- bad input ---------------------------------------------------------------------------------------------------

PING = b"*1\r\n$4\r\nPING\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PING\r\n", b"+PONG\r\n"),
        (b'SET "a b" x\r\nPING\r\n', b"+OK\r\n+PONG\r\n"),
        (b"\r\n\r\nPING\n", b"+PONG\r\n"),
        (b"ECHO a\"b\\x21\"\r\nECHO a'b'\r\nPING\r\n", b"$3\r\nab!\r\n$2\r\nab\r\n+PONG\r\n"),
        (b'PING "x"y\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b'SET "unbalanced\r\n', b"-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b"ECHO x\r\n" + PING, b"$1\r\nx\r\n+PONG\r\n"),
        (b"*0\r\n" + PING, b"+PONG\r\n"),
        (b"*-1\r\n*0\r\n" + PING, b"+PONG\r\n"),
        (b"*2000000000\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*2\r\n:1\r\n:2\r\n", b"-ERR Protocol error: expected '$', got ':'\r\n"),
        (b"*1\r\n*1\r\n$4\r\nPING\r\n", b"-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"*1\r\n+PING\r\n", b"-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"*1\r\n$-1\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
        (PING + b"PING\r\n\r\n" + PING, b"+PONG\r\n" * 3),
        ((PING + b"PING\r\n") * 3000, b"+PONG\r\n" * 6000),
        (b"*2\r\n$3\r\nGET\r\n$2\r\n\xff\x00\r\n" + PING, b"$-1\r\n+PONG\r\n"),
    ],
)
def test_what_is_said_to_odd_bytes(store: TitanStore, data: bytes, says: bytes) -> None:
    assert raw(store.port, data) == says


def test_a_command_of_no_words_is_passed_over_also_where_it_comes_alone(store: TitanStore) -> None:
    with socket.create_connection(("127.0.0.1", store.port), timeout=SECONDS) as connection:
        for data in (b"*0\r\n", PING, b"*-1\r\n", PING):
            connection.sendall(data)
            if data is PING:
                assert connection.recv(100) == b"+PONG\r\n"


QUIT = b"*1\r\n$4\r\nQUIT\r\n"


@pytest.mark.parametrize("data", [QUIT + PING, PING * 40 + QUIT + PING, b"QUIT\r\nPING\r\n", b"QUIT\r\n" + PING])
def test_nothing_is_executed_that_follows_quit(store: TitanStore, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", store.port), timeout=SECONDS) as connection:
        connection.sendall(data)
        heard = b"".join(iter(lambda: connection.recv(65536), b""))
    assert heard == b"+PONG\r\n" * (data.count(b"PING") - 1) + b"+OK\r\n"


def test_quit_is_not_answered_where_replies_are_off(store: TitanStore) -> None:
    assert raw(store.port, b"CLIENT REPLY OFF\r\nQUIT\r\nPING\r\n") == b""


def in_pieces(port: int, *pieces: bytes, until: bytes = b"") -> bytes:
    """What the server says to these, each of which it takes by itself: until it closes, or has said that."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            with Wire(port) as other:  # its answer comes after the piece was taken
                other.ask("PING")
        heard = b""
        while not until or not heard.endswith(until):
            piece = connection.recv(65536)
            if not piece:
                break
            heard += piece
    return heard


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ((b"ECHO ", b"*\r\n"), b"$1\r\n*\r\n"),
        ((b"ECHO ", b"*3\r\n", PING), b"$2\r\n*3\r\n+PONG\r\n"),
        ((b"*2\r\n$4\r\nECHO\r\n", b"$1\r\nx\r\nPI", b"NG\r\n"), b"$1\r\nx\r\n+PONG\r\n"),
        ((b"*2\r\n$4\r\nECHO\r\n", b"PING\r\n"), b"-ERR Protocol error: expected '$', got 'P'\r\n"),
    ],
)
def test_lines_and_arrays_are_told_apart_wherever_they_are_cut(
    store: TitanStore, pieces: tuple[bytes, ...], says: bytes
) -> None:
    assert in_pieces(store.port, *pieces, until=says) == says


ANNOUNCED = b"500000000\r\n"


@pytest.mark.parametrize("before", [b"", PING])
def test_no_memory_is_reserved_for_what_is_announced_in_whatever_pieces(store: TitanStore, before: bytes) -> None:
    data = before + b"*" + ANNOUNCED
    for cut in range(len(before), len(data)):
        heard = in_pieces(store.port, *filter(None, (data[:cut], data[cut:])))
        assert heard.removeprefix(b"+PONG\r\n") == b"-ERR Protocol error: invalid multibulk length\r\n"


@pytest.mark.parametrize("kind", [b"*", b"~", b">", b"|"])
@pytest.mark.parametrize("end", [b"\r\n", b"XY"])
def test_a_command_holds_no_arrays_and_no_memory_is_reserved_for_them(
    store: TitanStore, kind: bytes, end: bytes
) -> None:
    says = b"expected '$', got '%b'" % kind if end == b"\r\n" else b"a word does not end where its length says"
    for count in (b"990000\r\n", b"99\r\n", ANNOUNCED):
        heard = in_pieces(store.port, b"*2\r\n$1\r\na" + end + (kind + count) * 2000)
        assert heard == b"-ERR Protocol error: %b\r\n" % says


def test_a_value_may_look_like_an_announcement_in_whatever_pieces(store: TitanStore, client: redis.Redis) -> None:
    value = b"|1234567\r\n>%b~%b*%b*1\r\n*12345678" % (ANNOUNCED, ANNOUNCED, ANNOUNCED)
    data = b"*3\r\n$3\r\nSET\r\n$5\r\ntable\r\n$%d\r\n%b\r\n" % (len(value), value)
    for cut in range(1, len(data)):
        client.delete("table")
        assert in_pieces(store.port, data[:cut], data[cut:] + PING, until=b"+PONG\r\n") == b"+OK\r\n+PONG\r\n"
        assert client.get("table") == value


def test_the_limit_of_what_waits_counts_what_is_not_executed_alone(tmp_path: Path) -> None:
    with TitanStore(tmp_path / "s", "--memory-only", "--set", "client-query-buffer-limit=1mb") as server:
        command = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000\r\n%b\r\n" % (b"v" * 100_000)
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
            connection.sendall(command * 50)
            heard = b""
            while len(heard) < 50 * 5:
                heard += connection.recv(1000) or b"closed" * 50
        assert heard == b"+OK\r\n" * 50
        words = [b"$50000\r\n%b\r\n" % (b"w" * 50_000)] * 21  # of one command, each by itself
        assert in_pieces(server.port, b"*100\r\n", *words).startswith(b"-ERR Protocol error: query buffer limit")


@pytest.mark.parametrize("data", [b"*1\r\n$x\r\n", b"*1\r\n?\r\n", b"*-5\r\n", b"x" * 70_000])
def test_what_is_no_protocol_is_refused_and_the_server_lives_on(store: TitanStore, data: bytes) -> None:
    assert raw(store.port, data).startswith(b"-ERR Protocol error")
    assert raw(store.port, PING) == b"+PONG\r\n"


@pytest.mark.parametrize("method", [b"POST / HTTP/1.1", b"GET x\r\npost x", b"PING"])
def test_nothing_is_executed_that_a_web_page_sends(store: TitanStore, client: redis.Redis, method: bytes) -> None:
    said = raw(store.port, method + b"\r\nHost: localhost\r\nContent-Length: 16\r\n\r\nSET from:page 1\r\nPING\r\n")
    assert said.endswith(b"-ERR Protocol error: this is HTTP; nothing of it is executed\r\n")
    assert client.get("from:page") is None


def test_a_command_may_come_byte_by_byte(store: TitanStore) -> None:
    data = b"*3\r\n$3\r\nSET\r\n$4\r\nslow\r\n$6\r\n*1\r\n$4\r\n" + PING
    with socket.create_connection(("127.0.0.1", store.port), timeout=SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
        heard = b""
        while not heard.endswith(b"+PONG\r\n"):
            heard += connection.recv(1000)
    assert heard == b"+OK\r\n+PONG\r\n"


def test_chunks_that_end_anywhere_are_logged_as_whole_commands(tmp_path: Path) -> None:
    """The bytes of a pipeline may go to the log as they came only if they are nothing but whole commands."""
    commands = [b"*3\r\n$3\r\nSET\r\n$2\r\nk%d\r\n$3\r\n*3\r\n" % at for at in range(3)]
    commands = [each.replace(b"$3\r\n*3\r\n", b"$4\r\n*3\r\n\r\n") for each in commands]
    whole = b"".join(commands)
    with TitanStore(tmp_path / "s") as server:
        for cut in range(1, len(whole)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(whole[:cut])
                with Wire(server.port) as other:  # its answer comes after the first chunk was taken
                    other.ask("PING")
                connection.sendall(whole[cut:] + PING)
                heard = b""
                while not heard.endswith(b"+PONG\r\n"):
                    heard += connection.recv(1000) or b"closed+PONG\r\n"
                assert heard == b"+OK\r\n" * 3 + b"+PONG\r\n"
        server.stop(signal.SIGKILL)
    (log,) = (tmp_path / "s" / "appendonlydir").glob("*.incr.aof")
    assert b"".join(BatchReader(log.read_bytes())) == whole * (len(whole) - 1)


def test_subscribers_that_never_read_are_cut_off_and_nobody_else_notices(tmp_path: Path) -> None:
    limit = "client-output-buffer-limit=pubsub 256kb 0 0"
    with TitanStore(tmp_path / "s", "--memory-only", "--set", limit) as server:
        slow = [Wire(server.port) for _ in range(100)]
        for each in slow:
            each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.ask("SUBSCRIBE", "firehose")
        with Wire(server.port) as publisher, Wire(server.port) as attentive:
            attentive.ask("SUBSCRIBE", "firehose")
            message = b"x" * 1_000_000
            for _ in range(1000):
                left = publisher.ask("PUBLISH", "firehose", message)
                assert attentive.reply().endswith(message + b"\r\n")
                if left == b":1\r\n":
                    break
            else:
                raise AssertionError("they were never cut off")
            caching = Wire(server.port)
            caching.ask("HELLO", 3)
            assert caching.ask("CLIENT", "TRACKING", "ON", "BCAST") == b"+OK\r\n"
            # What it is told of is bounded in the same way.
            for at in range(1000):
                publisher.ask("SET", message[: 1 << 16] + b"%d" % at, 1)
                publisher.ask("DEL", message[: 1 << 16] + b"%d" % at)
                if b"tracking_clients:0" in publisher.ask("INFO", "clients"):
                    break
            else:
                raise AssertionError("it was never cut off")
            assert publisher.ask("PING") == b"+PONG\r\n"
        for each in (*slow, caching):
            each.close()


def test_shutdown_keeps_everything(tmp_path: Path) -> None:
    with TitanStore(tmp_path / "s", "--appendfsync", "everysec") as server, Wire(server.port) as wire:
        assert wire.ask("SET", "k", "v") == b"+OK\r\n"
        wire.send("SHUTDOWN")
        assert server.process.wait(SECONDS) == 0
    with TitanStore(tmp_path / "s") as server, Wire(server.port) as wire:
        assert wire.ask("GET", "k") == b"$1\r\nv\r\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "nonsense=1"], "Unknown option"),
        (["--set", "maxmemory"], "NAME=VALUE"),
        (["--appendfsync", "sometimes"], "must be one of"),
        (["--password-file", "nowhere"], "No such file"),
        (["--bind", "203.0.113.7"], "cannot listen on 203.0.113.7"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    result = CliRunner().invoke(complete(), ["store", "serve", "--dir", str(tmp_path / "s"), "--port", "0", *words])
    assert result.exit_code == 2
    assert says in result.output and len(result.output.strip().splitlines()) == 1


# ---- crashes -----------------------------------------------------------------------------------------------------


def crash(directory: Path, writers: int, writes: int) -> None:
    """Kills the store while many write; each acknowledged write must be there again."""
    with TitanStore(directory) as server:
        acknowledged: list[dict[str, int]] = [{} for _ in range(writers)]
        enough = threading.Event()

        def write(own: dict[str, int], number: int) -> None:
            try:
                with Wire(server.port) as wire:
                    for at in range(1_000_000):
                        key = f"w{number}:{at % 50}"
                        if wire.ask("SET", key, at) != b"+OK\r\n":
                            return
                        wire.ask("SADD", f"s{number}", at)
                        wire.ask("SET", f"e{number}", at, "PX", 10_000_000)
                        own[key] = at
                        own[f"s{number}"] = at
                        if sum(len(each) for each in acknowledged) > writes:
                            enough.set()
            except (ConnectionError, OSError, ValueError):
                return

        threads = [threading.Thread(target=write, args=(own, at)) for at, own in enumerate(acknowledged)]
        for thread in threads:
            thread.start()
        assert enough.wait(SECONDS)
        server.stop(signal.SIGKILL)
        for thread in threads:
            thread.join(SECONDS)
    with TitanStore(directory) as server, Wire(server.port) as wire:
        for number, own in enumerate(acknowledged):
            for key, at in own.items():
                if key.startswith("s"):
                    assert wire.ask("SISMEMBER", key, at) == b":1\r\n"
                else:
                    found = wire.ask("GET", key).split(b"\r\n")[1]
                    assert int(found) >= at, f"{key}: {at} was acknowledged, {found!r} is there"
            if own:
                assert int(wire.ask("PTTL", f"e{number}")[1:-2]) > 0


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    for _ in range(2):
        crash(tmp_path / "s", 50, 500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_of_kills_lose_nothing(tmp_path: Path) -> None:
    for _ in range(300):
        crash(tmp_path / "s", 50, 500)


@needs_redis
@pytest.mark.parametrize("replies", ["OFF", "SKIP"])
@pytest.mark.parametrize("version", [2, 3])
def test_who_wants_no_replies_hears_what_it_has_subscribed_to(
    store: TitanStore, tmp_path: Path, replies: str, version: int
) -> None:
    heard = []
    with RealRedis(tmp_path) as redis:
        for port in (store.port, redis.port):
            with Wire(port) as listener, Wire(port) as other:
                assert listener.ask("HELLO", version)
                listener.send("CLIENT", "REPLY", replies)
                listener.send("SUBSCRIBE", "a", "b")
                listener.send("PSUBSCRIBE", "x*")
                listener.send("UNSUBSCRIBE", "a")
                while other.ask("PUBLISH", "xy", "m") == b":0\r\n":
                    pass
                assert other.ask("PUBLISH", "b", "last") == b":1\r\n"
                said = b""
                while not said.endswith(b"$4\r\nlast\r\n"):
                    said += listener.socket.recv(1000)
                heard.append(said)
    assert heard[0] == heard[1] and heard[0].count(b"subscribe") >= 4


def test_what_stands_behind_a_wait_is_done_though_nobody_says_more(tmp_path: Path) -> None:
    with TitanStore(tmp_path) as store, Wire(store.port) as wire:
        wait = bulks([b"BLPOP", b"nothing", b"0.1"])
        wire.socket.sendall(wait + bulks([b"SAVE"]) + wait + bulks([b"SHUTDOWN"]))
        assert [wire.reply() for _ in range(3)] == [b"*-1\r\n", b"+OK\r\n", b"*-1\r\n"]
        assert store.process.wait(SECONDS) == 0


def test_a_unix_socket_has_the_mode_that_was_asked_for_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "store.sock"

    def ping() -> bool:
        return bool(redis.Redis(unix_socket_path=str(path)).ping())

    words = ("--socket", str(path), "--set", "unixsocketperm=0770")
    with TitanStore(tmp_path / "one", *words) as one:
        assert ping() and path.stat().st_mode & 0o777 == 0o770
        one.stop(signal.SIGKILL)
        assert path.exists(), "nobody was left to remove it"
        with TitanStore(tmp_path / "one", *words) as again:
            assert ping()
            assert again.stop() == 0 and not path.exists()
    with TitanStore(tmp_path / "one", *words) as one, TitanStore(tmp_path / "two", *words):
        assert one.stop() == 0
        assert ping(), "it is the other's now"
