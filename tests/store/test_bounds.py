"""What grows with the number of keys, or with what a client leaves unread, is done piece by piece."""

import asyncio
import socket
from collections import Counter
from pathlib import Path

from tests.store.core import NOW, Core
from tests.store.real import TitanStore, Wire
from tests.store.test_log import Asked
from titan_objects.store.connection import WRITE_HIGH_BYTES
from titan_objects.store.engine import SLICE
from titan_objects.store.host import Store
from titan_objects.store.memory import size_of
from titan_objects.store.resp import bulk, bulks, decode_all, integer

BIG = 100_000


def filled(many: int) -> Core:
    core = Core()
    data = core.engine.databases[0].data
    for at in range(many):
        data[b"k%d" % at] = b"v"
    return core


async def test_a_pipeline_goes_on_as_its_replies_are_read() -> None:
    store = Store(None)
    client = Asked(store)
    client.ask("SET", "big", "x" * BIG)
    pipeline = [[b"INCR", b"n"] if at % 2 else [b"GET", b"big"] for at in range(1000)]
    store.run(client.session, pipeline)
    store.run(client.session, [[b"SET", b"after", b"1"]])
    client.full = True
    for _ in range(10):
        await asyncio.sleep(0)
    held = b"".join(client.replies)
    assert WRITE_HIGH_BYTES < len(held) < WRITE_HIGH_BYTES + (SLICE + 1) * BIG
    assert await store.execute([b"GET", b"after"]) is None, "it stands behind the pipeline"
    assert await store.execute([b"CLIENT", b"UNBLOCK", b"%d" % client.session.id]) == 0
    client.full = False
    store.drained()
    while client.session.waiter is not None or client.session.out:
        await asyncio.sleep(0)
    replies = decode_all(b"".join(client.replies))
    assert replies[1::2] == [*range(1, 501)] and replies[-1] == b"OK" and len(replies) == 1001
    await store.close()


async def test_who_halts_and_leaves_is_forgotten() -> None:
    store = Store(None)
    client = Asked(store)
    client.ask("SET", "big", "x" * BIG)
    store.run(client.session, [[b"GET", b"big"]] * 100)
    held = sum(map(len, client.session.out))
    assert WRITE_HIGH_BYTES < held < 3 * WRITE_HIGH_BYTES, "a pipeline need not have many commands"
    store.disconnect(client.session)
    store.flush()
    await asyncio.sleep(0)
    assert not store.engine.halted and store.engine.waiting.count == 0
    await store.close()


def test_a_server_does_not_answer_ahead_of_who_reads(tmp_path: Path) -> None:
    many = 600
    with TitanStore(tmp_path / "store", "--memory-only") as server, Wire(server.port) as other:
        other.ask("SET", "big", "x" * BIG)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as greedy:
            greedy.sendall((bulks([b"GET", b"big"]) + bulks([b"INCR", b"n"])) * many)
            file = greedy.makefile("rb")
            first = file.read(1)
            counted = int(other.ask("GET", "n").split()[1])
            assert counted < many // 2, "what is not executed takes no room"
            expected = b"".join(bulk(b"x" * BIG) + integer(at + 1) for at in range(many))
            rest = file.read(len(expected) - 1)
        assert first + rest == expected


def test_keys_by_chance_are_all_as_likely_and_never_such_as_are_gone() -> None:
    core = filled(12_000)
    for _ in range(10):
        core("RANDOMKEY")
        core.pass_time(10)
    drawn = Counter(core("RANDOMKEY") for _ in range(1100))
    halves = sum(count for key, count in drawn.items() if int(key[1:]) < 6000)
    assert 450 < halves < 650 and len(drawn) > 900
    gone = [b"k%d" % at for at in range(0, 12_000, 2)]
    core("DEL", *gone)
    core("SET", "new", 1)
    again = Counter(core("RANDOMKEY") for _ in range(12_000))
    assert not set(gone) & set(again)
    assert b"new" in again, "what came later is listed in time"
    core("FLUSHALL")
    assert core("RANDOMKEY") is None
    core("MSET", *[word for at in range(2000) for word in (f"other{at}", 1)])
    assert core("RANDOMKEY").startswith(b"other")  # type: ignore[attr-defined]


def test_a_scan_lets_go_of_what_it_has_passed_and_takes_a_page_again() -> None:
    core = filled(30_000)
    found: list[bytes] = []
    cursor, pages = b"0", []
    while not pages or cursor != b"0":
        pages.append(cursor)
        cursor, names = core("SCAN", cursor, "COUNT", 100)  # type: ignore[misc]
        found += names
        if len(pages) == 200:
            assert core("SCAN", pages[-1], "COUNT", 100) == [cursor, names]
            kept = next(iter(core.engine.scans._open.values()))[1]
            assert len(kept._kept) < 16_000
            assert core("SCAN", pages[1])[1], "a page that is long gone begins a scan"  # type: ignore[index]
    assert sorted(found) == sorted(core.engine.databases[0].data)


def test_a_limit_counts_what_was_there_in_slices_and_databases_may_change_places() -> None:
    core = filled(3000)
    core("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "100mb")
    meter = core.engine.meter
    assert meter is not None and meter.total == 0
    core.engine.tick(core.now)
    assert 0 < len(meter._sizes) < 3000
    core("SWAPDB", 0, 1)
    core.pass_time(0)
    whole = sum(size_of(key, value) for key, value in core.engine.databases[1].data.items())
    assert core.engine.meter is meter and meter.measure() == whole
    core("SELECT", 1)
    core("GET", "k7")
    core.now = NOW + 5000
    core("SWAPDB", 0, 1)
    core("SELECT", 0)
    assert core("OBJECT", "IDLETIME", "k7") == 5


async def test_a_replica_that_reads_no_more_of_its_snapshot_is_cut_off_and_the_next_is_served() -> None:
    clock = NOW
    store = Store(None, now=lambda: clock)
    stuck, other = Asked(store), Asked(store)
    stuck.full = True
    for client in (stuck, other):
        client.ask("REPLCONF", "capa", "eof", "rdb-only", 1)
        client.ask("SYNC")
        if client is stuck:
            while stuck.session not in store.engine.replication.replicas or not stuck.replies:
                await asyncio.sleep(0)
    async with asyncio.timeout(60):
        while not stuck.session.killed:
            clock += 1000
            await asyncio.sleep(0)
        while not other.session.closing:
            await asyncio.sleep(0)
    assert clock > NOW + 60_000, "it was given as long as `repl-timeout` says"
    assert not other.session.killed
    await store.close()
