"""Following a server that sends what it should not, and stops."""

import asyncio
from pathlib import Path

from titan_objects.store import rdb_writing
from titan_objects.store.config import Config
from titan_objects.store.following import MARK_BYTES
from titan_objects.store.host import Store

MARK = b"m" * MARK_BYTES


async def test_a_snapshot_that_cannot_be_read_leaves_a_log_that_takes_what_comes_later(tmp_path: Path) -> None:
    good = b"".join(rdb_writing.record(b"k", b"theirs", None))
    snapshot = rdb_writing.header(replicated=True) + good + b"\x99" + rdb_writing.END
    asked: asyncio.Queue[None] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.strip() in (b"PING", b"REPLCONF"):
                writer.write(b"+OK\r\n")
            elif line.strip() == b"PSYNC":
                asked.put_nowait(None)
                writer.write(b"+FULLRESYNC %b 0\r\n$EOF:%b\r\n%b%b" % (MARK, MARK, snapshot, MARK))
        writer.close()

    leader = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = leader.sockets[0].getsockname()[1]
    store = Store(tmp_path, Config(replicaof=f"127.0.0.1 {port}"))
    for _ in range(2):
        await asyncio.wait_for(asked.get(), 60)
    assert await store.execute([b"REPLICAOF", b"NO", b"ONE"]) == b"OK"
    assert await store.execute([b"SET", b"mine", b"1"]) == b"OK"
    kept = await store.execute([b"KEYS", b"*"])
    await store.close()
    leader.close()
    await leader.wait_closed()
    again = Store(tmp_path)
    assert await again.execute([b"GET", b"mine"]) == b"1"
    assert sorted(await again.execute([b"KEYS", b"*"])) == sorted(kept)
    await again.close()
