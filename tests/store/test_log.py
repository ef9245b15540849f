"""The append-only file: what a crash leaves, what Redis makes of it, and a rewrite while commands go on."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.store import disks
from tests.store.commands_by_chance import commands
from tests.store.core import Core
from tests.store.real import SECONDS, RealRedis, TitanStore, Wire, needs_redis
from tests.store.test_beside_redis import EVERYTHING, contents
from titan_objects.store import host, log_care, system
from titan_objects.store.aof import PIECE_BYTES, AppendLog, remove
from titan_objects.store.batches import MAGIC, BatchReader, encode
from titan_objects.store.config import Config
from titan_objects.store.host import Store
from titan_objects.store.parser import scan
from titan_objects.store.resp import CommandError, bulks
from titan_objects.store.stats import Latencies

NAME = "appendonly.aof"
SET = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n"


class Asked:
    """A store in this process, asked as a server is; used where `contents` takes a server."""

    full = False

    def __init__(self, store: Store) -> None:
        self.engine = store.engine
        self.store = store
        self.replies: list[bytes] = []
        self.session = store.connect(self)

    def send(self, data: bytes) -> None:
        self.replies.append(data)

    def unanswered(self) -> None:
        pass

    def close(self) -> None:
        pass

    def fill(self, *rows: tuple[object, ...]) -> None:
        """Many commands in one write, whose replies nobody reads."""
        self.store.run(self.session, [[str(word).encode() for word in row] for row in rows])
        self.store.flush()
        self.replies = []

    def ask(self, *args: object) -> bytes:
        words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        self.store.run(self.session, [words])
        self.store.flush()
        data, self.replies = b"".join(self.replies), []
        return data


def incr(directory: Path, seq: int = 1) -> Path:
    return directory / "appendonlydir" / f"{NAME}.{seq}.incr.aof"


def lay_out(directory: Path, data: bytes) -> None:
    """A log with this in its one increment."""
    folder = directory / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.manifest").write_text(f"file {NAME}.1.incr.aof seq 1 type i\n")
    incr(directory).write_bytes(data)


def logged(path: Path) -> bytes:
    """The commands in an increment of ours."""
    return b"".join(BatchReader(path.read_bytes()))


async def loaded(directory: Path) -> dict[object, object]:
    store = Store(directory)
    try:
        return contents(Asked(store))  # type: ignore[arg-type]
    finally:
        await store.close()


async def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = Asked(store)
    for args in commands(5, 2000, EVERYTHING):
        asked.ask(*args)
    asked.ask("RESET")
    before = contents(asked)  # type: ignore[arg-type]
    await store.close()
    assert await loaded(tmp_path) == before


@pytest.mark.parametrize(
    ("tail", "left"),
    [
        (b"*3\r\n$3\r\nSE", b"1"),
        (b"*", b"1"),
        (b"*3\r\n", b"1"),
        (b"*3\r\n$3\r\nSET\r\n", b"1"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nabc", b"1"),
        (b"\0" * 4096, b"1"),
        (b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n2\r\n", b"1"),
        (b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1", b"1"),
    ],
)
async def test_a_torn_end_is_cut(tmp_path: Path, tail: bytes, left: bytes, caplog: pytest.LogCaptureFixture) -> None:
    lay_out(tmp_path, SET + tail)
    with caplog.at_level(logging.WARNING):
        store = Store(tmp_path)
    assert "dropped" in caplog.text
    assert await store.execute([b"GET", b"k"]) == left
    await store.close()
    assert incr(tmp_path).read_bytes() == SET


FIRST = bulks([b"SELECT", b"5"]) + bulks([b"SET", b"first", b"1"])
TO_0 = bulks([b"SELECT", b"0"])


@pytest.mark.parametrize(
    "data",
    [
        FIRST,  # of Redis: another file is begun
        FIRST + TO_0,
        MAGIC + encode(FIRST, len(MAGIC)),
        MAGIC + encode(FIRST + TO_0, len(MAGIC)),  # a replica was sent a snapshot
        MAGIC + encode(bulks([b"MULTI"]) + FIRST + TO_0 + bulks([b"EXEC"]), len(MAGIC)),  # one was taken
    ],
)
async def test_what_is_written_after_a_start_is_in_its_database_after_the_next(tmp_path: Path, data: bytes) -> None:
    lay_out(tmp_path, data)
    for _ in range(2):
        store = Store(tmp_path)
        asked = Asked(store)
        asked.ask("SELECT", 5)
        asked.ask("APPEND", "later", "x")
        await store.close()
    store = Store(tmp_path)
    assert [db.data for db in store.engine.databases if db.data] == [{b"first": b"1", b"later": b"xx"}]
    await store.close()


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8\r\n1\r\n",
        b"*2\r\n$6\r\nNOSUCH\r\n$1\r\nk\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$999999\r\n1\r\n",
        b"*2\r\n$4\r\nINCR\r\n",
        b"*1\r\n:5\r\n",
    ],
)
async def test_a_damaged_middle_is_refused_and_named(tmp_path: Path, damage: bytes) -> None:
    lay_out(tmp_path, SET * 3 + damage + SET * 3)
    with pytest.raises(titan.StorageError, match=rf"damaged at byte {3 * len(SET)}\b"):
        Store(tmp_path)
    assert incr(tmp_path).read_bytes() == SET * 3 + damage + SET * 3, "nothing was changed"


async def test_why_a_command_cannot_be_executed_is_said(tmp_path: Path) -> None:
    lay_out(tmp_path, SET + b"*2\r\n$6\r\nSELECT\r\n$2\r\n20\r\n" + SET)
    with pytest.raises(titan.StorageError, match="'SELECT' cannot be executed here: ERR DB index is out of range"):
        Store(tmp_path)
    store = Store(tmp_path, Config(databases="21"))
    assert store.engine.databases[20].data == {b"k": b"1"}
    await store.close()


async def test_a_command_that_is_not_the_last_files_may_not_be_torn(tmp_path: Path) -> None:
    lay_out(tmp_path, SET[:-3])
    (tmp_path / "appendonlydir" / f"{NAME}.manifest").write_text(
        f"file {NAME}.1.incr.aof seq 1 type i\nfile {NAME}.2.incr.aof seq 2 type i\n"
    )
    incr(tmp_path, 2).write_bytes(SET)
    with pytest.raises(titan.StorageError, match="not the last file"):
        Store(tmp_path)


async def test_timestamps_and_odd_headers_are_understood(tmp_path: Path) -> None:
    odd = b"*03\r\n$3\r\nSET\r\n$01\r\nj\r\n$1\r\n2\r\n"
    lay_out(tmp_path, b"#TS:1700000000\r\n" + SET + b"#TS:1700000001\r\n" + odd + SET + SET[:9])
    store = Store(tmp_path)
    assert await store.execute([b"MGET", b"k", b"j"]) == [b"1", b"2"]
    await store.close()
    assert incr(tmp_path).read_bytes().endswith(odd + SET)


def test_whatever_a_client_sends_the_log_holds_arrays_of_strings_alone(tmp_path: Path) -> None:
    sent = b"*3\r\n$3\r\nSET\r\n$1\r\n%b\r\n%b"
    with TitanStore(tmp_path / "s") as server:
        for kind in (bytes([each]) for each in range(33, 127)):
            odd = (
                sent % (b"a", kind + b"1\r\n"),
                sent % (b"b", kind + b"4\r\ntxt:\r\n"),
                kind + sent[1:] % (b"c", b"$1\r\n1\r\n"),
                kind + b"1\r\n$4\r\nINCR\r\n$1\r\nd\r\n",
            )
            for last in odd:
                for value in (b"$1\r\n1\r\n", b"$2\r\n\r\n\r\n"):  # the second has one more end of a line
                    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
                        connection.sendall(sent % (b"k", value) + last)
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(1000):
                            pass
        server.stop(signal.SIGKILL)
    log = logged(incr(tmp_path / "s"))
    commands = [args for args, _ in scan(log, 0)]
    assert b"".join(map(bulks, commands)) == log
    assert {args[1] for args in commands} == {b"k", b"b", b"c"}  # the others are refused in any type
    assert commands.count([b"SET", b"k", b"1"]) == commands.count([b"SET", b"k", b"\r\n"]) == 94 * 4


@pytest.mark.parametrize("rest", [b"X", b"PING", b"*1000001\r", b"*2\r\n", b"*1\r\n$1", b"\r\n", b"XY", b"XY*2\r\n"])
def test_what_stands_behind_a_command_does_not_reach_the_log(tmp_path: Path, rest: bytes) -> None:
    whole = SET[:-2] if rest.startswith(b"XY") else SET  # there, the word has no end
    with TitanStore(tmp_path / "s") as server, Wire(server.port) as other:
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
            connection.sendall(SET + whole + rest)
            assert connection.recv(1000).startswith(b"+OK\r\n")
            assert other.ask("SET", "k", 2) == b"+OK\r\n"
        server.stop(signal.SIGKILL)
    assert logged(incr(tmp_path / "s")).count(b"SET") == (2 if rest.startswith(b"XY") else 3)
    with TitanStore(tmp_path / "s") as server, Wire(server.port) as other:
        assert other.ask("GET", "k") == b"$1\r\n2\r\n"


async def test_a_batch_that_ends_within_a_command_is_damage(tmp_path: Path) -> None:
    lay_out(tmp_path, MAGIC + encode(SET + b"*2\r\n", len(MAGIC)))
    with pytest.raises(titan.StorageError, match="no command"):
        Store(tmp_path)


async def test_what_a_script_writes_is_part_of_its_transaction(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = Asked(store)
    asked.ask("MULTI")
    asked.ask("EVAL", "redis.call('SET', KEYS[1], 1) redis.call('INCR', KEYS[1])", 1, "k")
    asked.ask("INCR", "k")
    asked.ask("EXEC")
    await store.close()
    log = logged(incr(tmp_path))
    assert [args[0] for args, _ in scan(log, 0)] == [b"MULTI", b"SET", b"INCR", b"INCR", b"EXEC"]
    again = Store(tmp_path)
    assert await again.execute([b"GET", b"k"]) == b"3"
    await again.close()


async def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(titan.ConfigError, match="in use"):
        Store(tmp_path)
    await store.close()


async def test_a_rewrite_shows_one_moment_while_commands_go_on(tmp_path: Path) -> None:
    store = Store(tmp_path, Config(auto_aof_rewrite_percentage="0"))
    asked = Asked(store)
    asked.fill(*(("RPUSH", f"list{at}", at) for at in range(6000)))
    asked.ask("HSET", "h", "f", 1)
    store.rewrite()
    await asyncio.sleep(0)
    for at in range(60):
        pushed = [("RPUSH", f"list{(at * 50 + each) * 2}", "more") for each in range(50)]
        asked.fill(*pushed, ("HINCRBY", "h", "f", 1), ("RENAME", f"list{5999 - at * 2}", f"renamed{at}"))
        await asyncio.sleep(0.001)
    asked.ask("SWAPDB", 0, 1)
    asked.ask("SET", "in0", "x")
    while store.engine.stats.rewriting:
        await asyncio.sleep(0.01)
    asked.ask("FLUSHDB")
    asked.ask("SET", "in0", "y")
    before = contents(asked)  # type: ignore[arg-type]
    await store.close()
    files = sorted(each.name for each in (tmp_path / "appendonlydir").iterdir() if each.name != "lock")
    assert files == [f"{NAME}.1.base.aof", f"{NAME}.2.incr.aof", f"{NAME}.manifest"]
    assert await loaded(tmp_path) == before
    assert len(before) > 6000


async def test_flushing_everything_during_a_rewrite_is_in_the_log(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = Asked(store)
    asked.fill(*(("SET", f"k{at}", at) for at in range(5000)))
    store.rewrite()
    await asyncio.sleep(0.005)
    asked.ask("FLUSHALL")
    asked.ask("SET", "k1", "new")
    while store.engine.stats.rewriting:
        await asyncio.sleep(0.01)
    await store.close()
    assert len(await loaded(tmp_path)) == 1


async def test_a_rewrite_that_was_cut_short_leaves_a_log_that_loads(tmp_path: Path) -> None:
    store = Store(tmp_path)
    asked = Asked(store)
    asked.fill(*(("SET", f"k{at}", at) for at in range(5000)))
    store.rewrite()
    await asyncio.sleep(0.003)
    asked.ask("SET", "after", 1)
    shutil.copytree(tmp_path, tmp_path / "copy")
    await store.close()
    assert len(await loaded(tmp_path / "copy")) == 5001


async def test_a_rewrite_that_finds_no_room_gives_back_what_it_took_and_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(log_care.Rewrite):
        def step(self) -> bool:
            self._write(b"x" * 100_000)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log_care, "Rewrite", Full)
    now = system.unix_ms()
    store = Store(tmp_path, Config(**{"auto-aof-rewrite-min-size": "1000"}), now=lambda: now)
    assert await store.execute([b"SET", b"k", b"x" * 2000]) == b"OK"
    stats = store.engine.stats

    async def tried() -> bool:
        """Whether the log is being rewritten by itself; until that has failed."""
        store._care.look(sync=False)  # type: ignore[union-attr]
        began = stats.rewriting
        while stats.rewriting:
            await asyncio.sleep(0)
        return began

    assert await tried()
    files = sorted(each.name for each in (tmp_path / "appendonlydir").iterdir())
    assert not [name for name in files if name.startswith("temp")]
    assert not await tried(), "it would fill the disk again, and begin another file each time"
    now += 3_600_000
    assert await tried()
    assert not await tried()
    store.rewrite()
    assert stats.rewriting, "whoever asks for it need not wait"
    await store.close()


async def test_what_a_rewrite_left_behind_half_removed_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(files: list[Path]) -> None:
        os.truncate(files[0], files[0].stat().st_size // 2)
        raise OSError(5, "the machine is gone")

    monkeypatch.setattr(log_care, "remove", dies)
    store = Store(tmp_path)
    asked = Asked(store)
    asked.fill(*(("SET", f"k{at}", at) for at in range(100)))
    store.rewrite()
    while store.engine.stats.rewriting:
        await asyncio.sleep(0.01)
    asked.ask("SET", "after", 1)
    await store.close()
    assert incr(tmp_path, 1).exists(), "nobody came to remove it"
    assert len(await loaded(tmp_path)) == 101
    assert not incr(tmp_path, 1).exists()
    assert " type h" not in (tmp_path / "appendonlydir" / f"{NAME}.manifest").read_text()


async def test_a_large_file_is_removed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "truncate", lambda path, size: sizes.append(size))
    (tmp_path / "large").write_bytes(bytes(3 * PIECE_BYTES + 1))
    remove([tmp_path / "large", tmp_path / "not there"])
    assert sizes == [2 * PIECE_BYTES + 1, PIECE_BYTES + 1, 1]
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_refuses_writes_and_keeps_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    await store.execute([b"SET", b"k", b"1"])
    full = True

    def write(self: AppendLog, sync: bool) -> None:
        if full:
            raise OSError(28, "No space left on device")
        original(self, sync)

    original = AppendLog.write_out
    monkeypatch.setattr(AppendLog, "write_out", write)
    for command in ([b"SET", b"k", b"2"], [b"SET", b"k", b"3"]):
        with pytest.raises(CommandError, match=r"MISCONF.*No space left"):
            await store.execute(command)
    assert await store.execute([b"GET", b"k"]) == b"2", "what was executed stays, but nobody was told it is safe"
    full = False
    store.flush()
    assert await store.execute([b"SET", b"k", b"4"]) == b"OK"
    await store.close()
    restored = Store(tmp_path)
    assert await restored.execute([b"GET", b"k"]) == b"4"
    await restored.close()


async def passed(store: Store, error: OSError | None) -> None:
    """Until the store refuses writes (or does so no more), as an error of the disk has it."""
    while (store.engine.refuse_writes is None) == (error is not None):
        await asyncio.sleep(0)


async def fails_to_confirm(store: Store, how: str) -> None:
    """A write that the disk does not confirm; who does not wait for that is told that it was executed."""
    if how == "always":
        with pytest.raises(CommandError, match="MISCONF"):
            await store.execute([b"SET", b"k", b"1"])
    else:
        assert await store.execute([b"SET", b"k", b"1"]) == b"OK"


@pytest.mark.parametrize("how", ["always", "everysec"])
async def test_a_disk_that_confirms_again_takes_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.0)
    store = Store(tmp_path, Config(appendfsync=how))
    error: OSError | None = OSError(28, "No space left on device")

    def fdatasync(fd: int) -> None:
        if error is not None:
            raise error

    disks.confirms_by(monkeypatch, fdatasync)
    await fails_to_confirm(store, how)
    async with asyncio.timeout(60):
        await passed(store, error)
        with pytest.raises(CommandError, match="MISCONF"):
            await store.execute([b"SET", b"k", b"2"])
        error = None
        await passed(store, error)
    assert await store.execute([b"SET", b"k", b"3"]) == b"OK"
    await store.close()


@pytest.mark.parametrize("how", ["always", "everysec"])
async def test_what_a_failed_sync_may_have_lost_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.0)
    store = Store(tmp_path, Config(appendfsync=how))
    assert await store.execute([b"SET", b"k", b"0"]) == b"OK"
    while how == "everysec" and not store._log._increment.is_durable:  # type: ignore[union-attr]
        await asyncio.sleep(0.01)
    durable = store.engine.stats.log_bytes
    error: OSError | None = OSError(5, "Input/output error")

    def fdatasync(fd: int) -> None:
        """Linux marks pages clean that it could not write; what stood there before is found instead."""
        if error is not None:
            with incr(tmp_path, 1).open("r+b") as file:
                file.seek(durable)
                file.write(bytes(incr(tmp_path, 1).stat().st_size - durable))
            raise error
        disks.fdatasync(fd)

    disks.confirms_by(monkeypatch, fdatasync)
    await fails_to_confirm(store, how)
    async with asyncio.timeout(60):
        await passed(store, error)
        error = None
        await passed(store, error)
    assert await store.execute([b"SET", b"l", b"2"]) == b"OK"
    size = store.engine.stats.log_bytes
    await store.close()
    assert size == incr(tmp_path, 1).stat().st_size
    assert {key: value for (_, key), (_, value, _) in (await loaded(tmp_path)).items()} == {b"k": b"1", b"l": b"2"}


async def test_a_sync_that_began_before_a_failure_confirms_nothing_of_what_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AppendLog(tmp_path)
    log.open(Core().engine)
    begun, goes_on = threading.Event(), threading.Event()
    synced = 0

    def fdatasync(fd: int) -> None:
        nonlocal synced
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            assert goes_on.wait(60)
        elif goes_on.is_set():
            synced += 1
        else:
            raise OSError(5, "Input/output error")

    disks.confirms_by(monkeypatch, fdatasync)
    log.pending.append(SET)
    log.write_out(sync=False)
    elsewhere = asyncio.create_task(log.sync_elsewhere())
    assert await asyncio.to_thread(begun.wait, 60)
    with pytest.raises(OSError, match="Input"):
        log.write_out(sync=True)
    goes_on.set()
    await elsewhere
    log.write_out(sync=True)
    assert synced == 1 and logged(incr(tmp_path)) == SET
    log.close()


async def test_of_a_write_that_failed_halfway_nothing_stays_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "RETRY_SECONDS", 0.0)
    store = Store(tmp_path)
    pwrite, ftruncate, broken = os.pwrite, os.ftruncate, True

    def half(fd: int, data: bytes, offset: int) -> int:
        if broken:
            pwrite(fd, data[:9], offset)
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, offset)

    def refuses(fd: int, size: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")
        ftruncate(fd, size)

    monkeypatch.setattr(os, "pwrite", half)
    monkeypatch.setattr(os, "ftruncate", refuses)
    with pytest.raises(CommandError, match="MISCONF"):
        await store.execute([b"SET", b"k", b"1"])
    broken = False
    async with asyncio.timeout(60):
        await passed(store, None)
    await store.close()
    assert list(await loaded(tmp_path)) == [(0, b"k")]


async def test_what_takes_long_is_noted_where_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    clock = iter(range(1_000_000))
    monkeypatch.setattr(system, "monotonic", lambda: next(clock))  # everything takes a second
    await store.execute([b"SET", b"k", b"1"])
    assert await store.execute([b"LATENCY", b"LATEST"]) == []
    await store.execute([b"CONFIG", b"SET", b"latency-monitor-threshold", b"1000"])
    await store.execute([b"SET", b"k", b"1"])
    latest = await store.execute([b"LATENCY", b"LATEST"])
    assert [b"aof-fsync-always", 1000, 1000] in [[event, ms, worst] for event, _, ms, worst in latest]
    assert await store.execute([b"LATENCY", b"RESET", b"aof-fsync-always", b"none"]) == 1
    await store.execute([b"CONFIG", b"SET", b"latency-monitor-threshold", b"1001"])
    await store.execute([b"LATENCY", b"RESET"])
    await store.execute([b"SET", b"k", b"1"])
    assert await store.execute([b"LATENCY", b"LATEST"]) == []
    await store.close()


def test_samples_of_what_takes_long_are_bounded_and_one_for_a_second() -> None:
    found = Latencies()
    for at in range(1000):
        found.note("command", at // 2, at % 2 + 5)
    assert len(found.samples["command"]) == Latencies.SAMPLES_MAX
    assert found.samples["command"][-1] == (499, 6) and found.worst == {"command": 6}


# ---- with the real thing -----------------------------------------------------------------------------------------


@needs_redis
async def test_redis_check_aof_accepts_the_log_and_redis_loads_it(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    store = Store(ours)
    asked = Asked(store)
    for at, args in enumerate(commands(11, 3000, EVERYTHING)):
        asked.ask(*args)
        if at == 1500:
            store.rewrite()
            await asyncio.sleep(0)
        if at % 100 == 0:
            await asyncio.sleep(0.001)
    asked.ask("RESET")
    while store.engine.stats.rewriting:
        await asyncio.sleep(0.01)
    before = contents(asked)  # type: ignore[arg-type]
    await store.close()
    manifest = ours / "appendonlydir" / f"{NAME}.manifest"
    checked = await asyncio.to_thread(
        subprocess.run, ["redis-check-aof", str(manifest)], capture_output=True, text=True, timeout=60
    )
    assert "All AOF files and manifest are valid" in checked.stdout, checked.stdout + checked.stderr
    with RealRedis(ours, "--appendonly", "yes") as redis, Wire(redis.port) as wire:
        assert contents(wire) == before


@needs_redis
@pytest.mark.parametrize("preamble", ["yes", "no"])
async def test_a_log_of_redis_is_loaded_here(tmp_path: Path, preamble: str) -> None:
    with (
        RealRedis(tmp_path / "theirs", "--appendonly", "yes", "--aof-use-rdb-preamble", preamble) as redis,
        Wire(redis.port) as wire,
    ):
        wire.ask("EVAL", "for i = 1, 3000 do redis.call('ZADD', 'big', i * 1.5, 'member' .. i) end", 0)
        wire.ask("EVAL", "for i = 1, 700 do redis.call('RPUSH', 'long', string.rep(tostring(i), 40)) end", 0)
        wire.ask("EVAL", "for i = -50, 50 do redis.call('SADD', 'numbers', i * 1000003) end", 0)
        wire.ask("EVAL", "for i = 1, 300 do redis.call('HSET', 'h', i, i * i) end", 0)
        wire.ask("EVAL", "for i = 1, 300 do redis.call('XADD', 'events', i .. '-1', 'n', i, 'm', i * 7) end", 0)
        wire.ask("SET", "packed", "abc" * 1000)
        for at, args in enumerate(commands(12, 2000, EVERYTHING)):
            if args[0] != "FLUSHDB":
                wire.ask(*args)
            if at == 1500:
                wire.ask("DISCARD")
                wire.ask("BGREWRITEAOF")
        wire.ask("RESET")
        while b"aof_rewrite_in_progress:1" in wire.ask("INFO", "persistence"):
            await asyncio.sleep(0.05)
        before = contents(wire)
        wire.send("SHUTDOWN")
        await asyncio.to_thread(redis.process.wait, 30)
    assert len(before) > 8
    assert await loaded(tmp_path / "theirs") == before


@needs_redis
async def test_a_snapshot_that_is_damaged_is_refused(tmp_path: Path) -> None:
    with RealRedis(tmp_path / "theirs", "--appendonly", "yes") as redis, Wire(redis.port) as wire:
        for at in range(100):
            wire.ask("RPUSH", f"l{at % 7}", at, "x" * 50)
        wire.ask("BGREWRITEAOF")
        while b"aof_rewrite_in_progress:1" in wire.ask("INFO", "persistence"):
            await asyncio.sleep(0.05)
    (base,) = (tmp_path / "theirs" / "appendonlydir").glob("*.base.rdb")
    whole = base.read_bytes()
    for cut in range(6, len(whole), 37):
        base.write_bytes(whole[:cut])
        with pytest.raises(titan.StorageError, match="damaged at byte"):
            Store(tmp_path / "theirs")


def test_what_a_client_sent_behind_a_call_that_waited_is_logged_when_another_ends_that(tmp_path: Path) -> None:
    with TitanStore(tmp_path / "store") as server, Wire(server.port) as waiting, Wire(server.port) as other:
        known = waiting.ask("CLIENT", "ID")[1:-2]
        waiting.socket.sendall(b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n" + SET)
        while b"blocked_clients:1" not in other.ask("INFO", "clients"):
            pass
        # As long as the call that it follows, and with as many words.
        assert other.ask("CLIENT", "UNBLOCK", known) == b":1\r\n"
        assert (waiting.reply(), waiting.reply()) == (b"*-1\r\n", b"+OK\r\n")
    with TitanStore(tmp_path / "store") as server, Wire(server.port) as again:
        assert again.ask("GET", "k") == b"$1\r\n1\r\n"
