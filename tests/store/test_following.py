"""Following servers that send what they should not, or follow others themselves; and a disk that is full meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.store import wires
from tests.store.core import NOW
from titan_objects.store import following, host, rdb_writing
from titan_objects.store.aof import AppendLog
from titan_objects.store.config import Config
from titan_objects.store.following import MARK_BYTES
from titan_objects.store.host import Store
from titan_objects.store.resp import bulks

MARK = b"m" * MARK_BYTES


def whole(snapshot: bytes) -> bytes:
    """What PSYNC is answered with."""
    return b"+FULLRESYNC %b 0\r\n$EOF:%b\r\n%b%b" % (MARK, MARK, snapshot, MARK)


@asynccontextmanager
async def leading(answer: bytes) -> AsyncIterator[tuple[int, "asyncio.Queue[asyncio.StreamWriter]"]]:
    """A server that answers PSYNC with that; its port, and the links on which it was asked."""
    asked: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    links: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        links[writer] = asyncio.current_task()
        follows = False
        while line := await reader.readline():
            if line.strip() in (b"PING", b"REPLCONF") and not follows:  # what a replica says later has no answer
                writer.write(b"+OK\r\n")
            elif line.strip() == b"PSYNC":
                follows = True
                asked.put_nowait(writer)
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()
        for link, task in links.items():
            link.close()
            if task is not None:
                await task
        await server.wait_closed()


async def shown(store: Store, key: bytes, db: int = 0) -> object:
    """A key, once it is there."""
    async with asyncio.timeout(60):
        while (found := store.engine.databases[db].data.get(key)) is None:
            await asyncio.sleep(0)
    return found


async def test_a_snapshot_that_cannot_be_read_leaves_a_log_that_takes_what_comes_later(tmp_path: Path) -> None:
    good = b"".join(rdb_writing.record(b"k", b"theirs", None))
    snapshot = rdb_writing.header(replicated=True) + good + b"\x99" + rdb_writing.END
    async with leading(whole(snapshot)) as (port, asked):
        store = Store(tmp_path, Config(replicaof=f"127.0.0.1 {port}"))
        for _ in range(2):
            await asyncio.wait_for(asked.get(), 60)
        assert await store.execute([b"REPLICAOF", b"NO", b"ONE"]) == b"OK"
        assert await store.execute([b"SET", b"mine", b"1"]) == b"OK"
        kept = await store.execute([b"KEYS", b"*"])
        await store.close()
    again = Store(tmp_path)
    assert await again.execute([b"GET", b"mine"]) == b"1"
    assert sorted(await again.execute([b"KEYS", b"*"])) == sorted(kept)
    await again.close()


async def test_the_stream_of_a_server_that_follows_another_goes_on_in_its_database(tmp_path: Path) -> None:
    auxiliary = b"\xfa" + rdb_writing.string(b"repl-stream-db") + rdb_writing.string(b"3")
    snapshot = rdb_writing.header() + auxiliary + rdb_writing.END
    async with leading(whole(snapshot) + bulks([b"SET", b"k", b"1"])) as (port, _):
        store = Store(tmp_path, Config(replicaof=f"127.0.0.1 {port}"))
        assert await shown(store, b"k", db=3) == b"1"
        await store.close()
    again = Store(tmp_path)
    assert again.engine.databases[3].data == {b"k": b"1"}
    await again.close()


async def test_what_belongs_into_a_database_that_is_not_here_comes_into_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    stream = b"".join(map(bulks, ([b"SET", b"k", b"1"], [b"SELECT", b"9"], [b"SET", b"k", b"2"])))
    async with leading(whole(rdb_writing.header(replicated=True) + rdb_writing.END)) as (port, asked):
        store = Store(tmp_path, Config(replicaof=f"127.0.0.1 {port}", databases="4"))
        link = await asyncio.wait_for(asked.get(), 60)
        link.write(bulks([b"SET", b"first", b"0"]))
        assert await shown(store, b"first") == b"0"
        link.write(stream)
        await asyncio.wait_for(asked.get(), 60)
        assert not any(b"k" in each.data for each in store.engine.databases)
        await store.close()
    assert "set databases to more than 4" in caplog.text


async def test_what_comes_while_the_disk_is_full_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    full: OSError | None = None

    def write(self: AppendLog, sync: bool) -> None:
        if full is not None:
            raise full
        original(self, sync)

    original = AppendLog.write_out
    monkeypatch.setattr(AppendLog, "write_out", write)
    snapshot = rdb_writing.header() + rdb_writing.END
    async with leading(whole(snapshot)) as (port, asked), asyncio.timeout(60):
        store = Store(tmp_path, Config(replicaof=f"127.0.0.1 {port}"), now=count(NOW).__next__)
        leader = store.engine.replication.leader
        assert leader is not None
        link = await asked.get()
        link.write(bulks([b"SET", b"a", b"1"]))
        await shown(store, b"a")
        full = OSError(28, "No space left on device")
        store.on_full_disk(full)
        heard = leader.heard_ms
        link.write(bulks([b"MULTI"]) + bulks([b"SET", b"b", b"2"]) + bulks([b"EXEC"]) + bulks([b"SET", b"c", b"3"]))
        while leader.heard_ms == heard:
            await asyncio.sleep(0)
        full = None
        assert await shown(store, b"c") == b"3"
        await store.close()
    again = Store(tmp_path)
    assert again.engine.databases[0].data == {b"a": b"1", b"b": b"2", b"c": b"3"}
    await again.close()


@pytest.mark.loops("real", "node")
async def test_a_server_that_cuts_the_link_while_the_disk_is_full_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    links = wires.opened(monkeypatch)
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    async with leading(whole(rdb_writing.header(replicated=True) + rdb_writing.END)) as (port, asked):
        store = Store(None, Config(replicaof=f"127.0.0.1 {port}"))
        leader = store.engine.replication.leader
        assert leader is not None
        try:
            async with asyncio.timeout(10):
                link = await asked.get()
                while leader.link != "connected":
                    await asyncio.sleep(0)
                store.writable.clear()  # as with a full disk
                heard = leader.heard_ms
                link.write(bulks([b"SET", b"a", b"1"]) + bulks([b"REPLCONF", b"GETACK", b"*"]))
                while leader.heard_ms == heard:
                    await asyncio.sleep(0)
                wires.reset(link)
                with pytest.raises(ConnectionError):
                    await links[0].wait_closed()
                store.writable.set()
                assert await shown(store, b"a") == b"1"
                await asked.get()
        finally:
            await store.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"+\r\n",
        b"+FULLRESYNC %b soon\r\n" % MARK,
        b"+FULLRESYNC %b 0\r\n$0\r\n" % MARK,
        b"x" * (1 << 17),
    ],
)
async def test_a_server_that_answers_nonsense_is_asked_again(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    async with leading(answer) as (port, asked), asyncio.timeout(60):
        store = Store(None, Config(replicaof=f"127.0.0.1 {port}"))
        for _ in range(2):
            await asked.get()
        await store.close()


async def test_a_host_that_no_name_can_be_is_tried_again_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: asyncio.Queue[str] = asyncio.Queue()
    connect = asyncio.open_connection

    async def noted(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        tried.put_nowait(host)
        return await connect(host, port)

    monkeypatch.setattr(following, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(asyncio, "open_connection", noted)
    async with asyncio.timeout(60):
        store = Store(None, Config(replicaof=f"{'x' * 64} 6379"))
        for _ in range(2):
            await tried.get()
        await store.close()
