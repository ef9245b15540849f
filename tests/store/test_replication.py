"""A real redis-server follows the store, and the store follows a real one: both hold the same, key by key."""

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.store.commands_by_chance import GROUPS, Word, commands
from tests.store.core import Core
from tests.store.real import SECONDS, RealRedis, TitanStore, Wire, needs_redis
from titan_objects.store import rdb
from titan_objects.store.resp import bulks

pytestmark = needs_redis

EVERYTHING = tuple(name for name in GROUPS if name not in ("blocking", "counts"))
"""Not what Redis keeps in two forms (HyperLogLog)."""
PIPELINE = 200
TRANSACTION = ("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH")
Server = RealRedis | TitanStore
Client = redis.Redis


def ask(server: Server) -> Client:
    return redis.Redis(port=server.port, socket_timeout=SECONDS)


def write(server: Server, seed: int, count: int) -> None:
    """Random commands, in the databases that they choose; errors are part of it."""
    drawn = commands(seed, count, EVERYTHING)
    script = "redis.call('sadd', KEYS[1], ARGV[1]); redis.call('spop', KEYS[1])"
    with Wire(server.port) as wire:
        for at in range(0, count, PIPELINE):
            batch: list[tuple[Word, ...]] = [args for args in drawn[at : at + PIPELINE] if args[0] not in TRANSACTION]
            batch += [("MULTI",), ("INCR", "in:transactions"), ("RPUSH", "in:list", at), ("EXEC",)]
            batch += [("SET", f"t{at % 7}", at, "PX", 10_000_000), ("EVAL", script, 1, "in:script", at)]
            wire.socket.sendall(b"".join(bulks([as_bytes(word) for word in args]) for args in batch))
            for _ in batch:
                wire.reply()


def as_bytes(word: Word) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def contents(client: Client) -> dict[object, object]:
    found: dict[object, object] = {}
    for db in (0, 1):
        client.execute_command("SELECT", db)
        for key in client.keys("*"):
            kind = client.type(key).decode()
            readers: dict[str, Callable[[], object]] = {
                "string": lambda key=key: client.get(key),
                "list": lambda key=key: client.lrange(key, 0, -1),
                "set": lambda key=key: sorted(client.smembers(key)),
                "hash": lambda key=key: client.hgetall(key),
                "zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),
                "stream": lambda key=key: (client.xrange(key), client.xinfo_groups(key), client.xinfo_stream(key)),
            }
            found[db, key] = (kind, readers[kind](), client.execute_command("PEXPIRETIME", key))
    client.execute_command("SELECT", 0)
    for value in found.values():
        if value[0] == "stream":  # how Redis stores it is its own business
            for name in ("radix-tree-keys", "radix-tree-nodes"):
                value[1][2].pop(name, None)
    return found


def in_step(leader: Client, follower: Client) -> None:
    """Both hold the same, once the follower has all that the leader had."""
    while not leader.info("replication")["connected_slaves"]:
        time.sleep(0.01)  # what Redis writes before anybody follows it has no offset that could be waited for
    leader.incr("in:step")  # what a client waits for is what it has written itself
    assert leader.wait(1, SECONDS * 1000) == 1
    mine, theirs = contents(leader), contents(follower)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert value == theirs[key], (key, value, theirs[key])


def follow(follower: Client, port: int) -> None:
    follower.replicaof("127.0.0.1", port)


class Cable:
    """A way to a server that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += (near, far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            each.close()

    def cut(self) -> None:
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def titan(tmp_path: Path) -> Iterator[TitanStore]:
    with TitanStore(tmp_path / "titan", "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealRedis]:
    with RealRedis(tmp_path / "redis") as server:
        yield server


def replicate(leader: Server, follower: Server, count: int, seed: int) -> None:
    with ask(leader) as above, ask(follower) as below:
        cable = Cable(leader.port)
        try:
            write(leader, seed, count // 4)
            follow(below, cable.port)  # a snapshot, while commands go on
            write(leader, seed + 1, count // 4)
            in_step(above, below)
            write(leader, seed + 2, count // 4)
            in_step(above, below)
            full = synchronisations(above)
            cable.cut()
            write(leader, seed + 3, count // 4)
            in_step(above, below)
            if full is not None:
                assert synchronisations(above) == full, "the link that was cut took a whole snapshot"
        finally:
            cable.close()


def synchronisations(leader: Client) -> int:
    return int(leader.info("stats")["sync_full"])


def test_redis_follows_the_store(titan: TitanStore, real: RealRedis) -> None:
    replicate(titan, real, 4_000, 1)


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_the_store_follows_redis(titan: TitanStore, real: RealRedis, diskless: str) -> None:
    with ask(real) as above:
        above.config_set("repl-diskless-sync", diskless)
        above.config_set("repl-diskless-sync-delay", 0)
        above.config_set("repl-backlog-size", "16mb")
    replicate(real, titan, 4_000, 2)


def redis_cli(server: Server, *words: str | Path) -> str:
    """What `redis-cli` says of what it does."""
    done = subprocess.run(
        ["redis-cli", "-p", str(server.port), *words], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def loaded(file: Path) -> Core:
    """A store that holds what is in a snapshot."""
    core = Core()
    data = file.read_bytes()
    assert rdb.load(data, core.engine) == len(data)
    return core


def test_redis_cli_fetches_snapshots_while_clients_write(titan: TitanStore, tmp_path: Path) -> None:
    library = "#!lua name=lib\nredis.register_function('one', function() return 1 end)"
    enough = threading.Event()

    def write_on() -> None:
        with ask(titan) as client:
            while not enough.is_set():
                client.mset({f"k:{at}": at for at in range(100)})

    with ask(titan) as client:
        client.function_load(library)
        client.mset({f"before:{at}": "x" * 100 for at in range(20_000)})
    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(3):
            assert "finished with success" in redis_cli(titan, "--rdb", tmp_path / "all.rdb")
        assert "finished with success" in redis_cli(titan, "--functions-rdb", tmp_path / "functions.rdb")
    finally:
        enough.set()
        writer.join()
    everything, functions = loaded(tmp_path / "all.rdb"), loaded(tmp_path / "functions.rdb")
    assert everything("DBSIZE") == 20_100
    assert functions("DBSIZE") == 0
    for core in (everything, functions):
        assert core("FCALL", "one", 0) == 1


def test_whoever_asks_by_sync_alone_finds_the_end_of_its_snapshot(titan: TitanStore) -> None:
    """Nothing comes behind it before it was acknowledged, even where nobody writes."""
    with ask(titan) as client, Wire(titan.port) as replica:
        client.config_set("repl-ping-replica-period", 1)
        client.set("k", "v")
        assert replica.ask("REPLCONF", "capa", "eof") == b"+OK\r\n"
        replica.send("SYNC")
        mark = replica.file.readline().removeprefix(b"$EOF:").strip()
        heard = b""
        while not heard.endswith(mark):
            heard += replica.file.read(1)
        client.set("k", "later")
        pinged = client.info("replication")["master_repl_offset"]
        while client.info("replication")["master_repl_offset"] == pinged:
            time.sleep(0.01)  # until a PING is in the stream
        replica.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            replica.socket.recv(1)
        replica.socket.settimeout(SECONDS)
        replica.send("REPLCONF", "ACK", 0)
        assert replica.reply() == bulks([b"SET", b"k", b"later"])
        assert replica.reply() == bulks([b"PING"])


def test_a_snapshot_is_of_what_was_asked_for() -> None:
    core = Core()
    for words, says in (
        ("rdb-filter-only functions", "OK"),
        ("rdb-filter-only keys", "ERR Unsupported rdb-filter-only option: keys"),
        ('rdb-filter-only "', "ERR Missing rdb-filter-only values"),
        ("rdb-only 2", "ERR value is out of range, value must between 0 and 1"),
        ("rdb-only x", "ERR value is not an integer or out of range"),
        ("rdb-only 1", "OK"),
    ):
        reply = core(f"REPLCONF {words}")
        assert (reply.decode() if isinstance(reply, bytes) else str(reply)) == says


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ours_leads", [True, False])
def test_a_million_commands(titan: TitanStore, real: RealRedis, ours_leads: bool) -> None:
    leader, follower = (titan, real) if ours_leads else (real, titan)
    with ask(leader) as above:
        above.config_set("repl-backlog-size", "256mb")
    replicate(leader, follower, 1_000_000, random.Random(3).randrange(1000))
