"""The increments of the log as they lie on the disk: what a power failure tears, what is damaged, what Redis adds."""

import errno
import logging
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.store.core import Core
from tests.store.real import RealRedis, TitanStore, Wire, needs_redis
from titan_objects.store import aof, batches
from titan_objects.store.aof import AppendLog
from titan_objects.store.batches import MAGIC, ROOM_BYTES, BatchReader
from titan_objects.store.engine import Engine
from titan_objects.store.resp import bulks

NAME = "appendonly.aof"
SECTOR = 512


def incr(directory: Path, seq: int = 1) -> Path:
    return directory / "appendonlydir" / f"{NAME}.{seq}.incr.aof"


def opened(directory: Path) -> tuple[AppendLog, Engine]:
    log, engine = AppendLog(directory), Core().engine
    log.open(engine)
    return log, engine


def write(log: AppendLog, *commands: list[bytes], sync: bool = True) -> None:
    log.pending.append(b"".join(map(bulks, commands)))
    log.write_out(sync)


def keys(directory: Path) -> dict[bytes, object]:
    """What the log holds, which is as it was afterwards but for what is cut."""
    log, engine = opened(directory)
    log.close()
    return dict(engine.databases[0].data)


def killed(log: AppendLog) -> None:
    """The process is gone: what it has written is there, and nothing is tidied."""
    assert log._increment is not None
    os.close(log._increment._fd)
    os.close(log._lock)


def annotations_hold(data: bytes) -> bool:
    """Whether redis-server, which reads lines in pieces of 127 bytes, finds commands and annotations alone."""
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"#":
            newline = data.find(b"\n", at, at + 127)
            at = newline + 1 if newline >= 0 else at + 127
        elif data[at : at + 1] == b"*":
            words, at = int(data[at + 1 : (end := data.index(b"\r\n", at))]), end + 2
            for _ in range(words):
                size, at = int(data[at + 1 : (end := data.index(b"\r\n", at))]), end + 2
                at += size + 2
        else:
            return False
    return True


def test_batches_of_any_length_leave_a_file_that_redis_can_read(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    for size in range(200):
        write(log, [b"SET", b"%d" % size, b"v" * size])
        assert annotations_hold(incr(tmp_path).read_bytes()[: log.size + 300])
    data = incr(tmp_path).read_bytes()
    assert len(data) == ROOM_BYTES and annotations_hold(data)
    killed(log)
    assert keys(tmp_path) == {b"%d" % size: b"v" * size for size in range(200)}
    assert incr(tmp_path).stat().st_size == log.size, "the room is given back"


def test_room_is_made_again_when_it_is_full_and_given_back_at_the_end(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    for number in range(5):
        write(log, [b"SET", b"%d" % number, b"v" * (ROOM_BYTES * 2 // 5)])
    assert incr(tmp_path).stat().st_size == 3 * ROOM_BYTES
    write(log, [b"SET", b"large", b"v" * (3 * ROOM_BYTES)])
    assert incr(tmp_path).stat().st_size == 6 * ROOM_BYTES
    log.close()
    assert incr(tmp_path).stat().st_size == log.size
    assert len(keys(tmp_path)) == 6


def test_room_may_begin_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fdatasync = os.fdatasync

    class KilledError(Exception):
        """Room is there, and the batch that it was made for is not."""

    def killed_at_room(fd: int) -> None:
        fdatasync(fd)
        if os.fstat(fd).st_size == ROOM_BYTES:
            raise KilledError

    for size in range(64):
        root = tmp_path / f"{size}"
        log, _ = opened(root)
        write(log, [b"SET", b"k", b"v" * size])
        log.close()
        log, _ = opened(root)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", killed_at_room)
            with pytest.raises(KilledError):
                write(log, [b"SET", b"k", b"new"])
        killed(log)
        assert annotations_hold(incr(root).read_bytes())
        assert keys(root) == {b"k": b"v" * size}


def test_where_each_batch_is_not_confirmed_the_file_has_no_room(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    write(log, [b"SET", b"k", b"1"], sync=False)
    assert incr(tmp_path).stat().st_size == log.size
    write(log, [b"SET", b"k", b"2"])  # what stands before is not confirmed yet: a sync for the room might fail
    assert incr(tmp_path).stat().st_size == log.size
    write(log, [b"SET", b"k", b"3"])
    assert incr(tmp_path).stat().st_size == ROOM_BYTES
    write(log, [b"SET", b"k", b"4"], sync=False)  # of what is written over room, the disk may keep the last alone
    assert incr(tmp_path).stat().st_size == log.size
    killed(log)
    assert keys(tmp_path) == {b"k": b"4"}


@pytest.mark.parametrize("fails", ["pwrite", "fdatasync"])
def test_a_disk_without_room_takes_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    log, _ = opened(tmp_path)
    real = getattr(os, fails)
    calls = 0

    def first_fails(fd: int, *rest: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            return real(fd, *rest)
        if fails == "pwrite":
            os.write(fd, b"#" * 1000)  # a part of it
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, first_fails)
        write(log, [b"SET", b"k", b"1"])
    assert incr(tmp_path).stat().st_size == log.size
    write(log, [b"SET", b"k", b"2"])
    assert incr(tmp_path).stat().st_size == ROOM_BYTES
    killed(log)
    assert keys(tmp_path) == {b"k": b"2"}


def test_room_counts_for_nothing_in_the_size_of_the_log(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    base = log.begin_rewrite()
    base.write_bytes(bulks([b"SET", b"k", b"1"]))
    write(log, [b"SET", b"k", b"2"])
    log.end_rewrite(base)
    size = log.size
    log.close()
    assert size == sum(each.stat().st_size for each in (tmp_path / "appendonlydir").glob("*.2.*")) + log.base_size


# ---- power failures ----------------------------------------------------------------------------------------------


class Torn:
    """A file before and after its last batch was written over room."""

    def __init__(self, root: Path, before: int, size: int) -> None:
        self.directory = root
        log, _ = opened(root)
        write(log, [b"SET", b"before", b"b" * before])
        write(log, [b"SET", b"k", b"old"])
        self.old = incr(root).read_bytes()
        self.begin = log.size
        # Lines that look like commands, as many as there can be: whatever sector is first, it may begin with one.
        write(log, *[[b"SET", b"k", b"new"], [b"SET", b"l", b"*1\r\n$8\r\nFLUSHALL\r\n" * 3]] * size)
        self.new = incr(root).read_bytes()
        self.end = log.size
        log.close()


@settings(max_examples=60, deadline=None)
@given(before=st.integers(0, 1100), size=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_a_batch_whose_sectors_are_written_in_part_is_there_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, before: int, size: int, seed: int
) -> None:
    torn = Torn(tmp_path_factory.mktemp("torn"), before, size)
    chance = random.Random(seed)
    data = bytearray(torn.old)
    kept = 0
    sectors = range(torn.begin // SECTOR * SECTOR, torn.end + 1, SECTOR)
    for at in sectors:
        if chance.random() < 0.7:
            kept += 1
            data[at : at + SECTOR] = torn.new[at : at + SECTOR]
    incr(torn.directory).write_bytes(data)
    whole = bytes(data[: torn.end]) == torn.new[: torn.end]
    assert keys(torn.directory)[b"k"] == (b"new" if whole else b"old")
    assert whole or incr(torn.directory).read_bytes() == torn.old[: torn.begin]
    assert keys(torn.directory)[b"k"] == (b"new" if whole else b"old"), "and it can be gone on with"


def test_what_is_written_after_a_rewrite_could_not_begin_may_be_torn_as_any_end_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    log, _ = opened(tmp_path)
    write(log, [b"SET", b"k", b"old"])
    with monkeypatch.context() as patched:
        patched.setattr(aof, "sync_directory", fails)
        with pytest.raises(OSError, match="Input"):
            log.begin_rewrite()
    assert incr(tmp_path, 2).read_bytes() == MAGIC
    write(log, [b"SET", b"k", b"new"])
    end = log.size
    write(log, [b"SET", b"k", b"torn"])
    killed(log)
    data = incr(tmp_path).read_bytes()
    incr(tmp_path).write_bytes(data[: end + 9])
    assert keys(tmp_path)[b"k"] == b"new"
    log, _ = opened(tmp_path)
    write(log, [b"SET", b"k", b"later"])
    log.close()
    assert keys(tmp_path)[b"k"] == b"later"


FLUSHALL = bulks([b"FLUSHALL"])


def test_a_torn_batch_across_the_end_of_older_room_is_not_taken_for_what_redis_has_added(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    write(log, [b"SET", b"before", b""])
    write(log, [b"SET", b"before", b"b" * (ROOM_BYTES - log.size - 700)])
    begin = log.size
    head = len(batches.encode(bulks([b"SET", b"k", b"v" * 2000]), begin)) - 2002
    value = b"v" * (ROOM_BYTES - begin - head) + FLUSHALL * 28
    write(log, [b"SET", b"k", value + b"v" * (2000 - len(value))])
    data = bytearray(incr(tmp_path).read_bytes())
    killed(log)
    assert data[ROOM_BYTES:].startswith(FLUSHALL)
    data[begin:ROOM_BYTES] = batches.room_from(begin)
    data[ROOM_BYTES + SECTOR :] = batches.room_from(ROOM_BYTES + SECTOR)
    incr(tmp_path).write_bytes(data)
    assert keys(tmp_path).keys() == {b"before"}
    assert incr(tmp_path).stat().st_size == begin


@pytest.mark.parametrize("lost", [[0], [1], [0, 2]])
def test_room_whose_sectors_are_written_in_part_is_cut(tmp_path: Path, lost: list[int]) -> None:
    log, _ = opened(tmp_path)
    value = b"v" * 405
    write(log, [b"SET", b"k", b""], sync=False)
    write(log, [b"SET", b"k", value], sync=False)
    killed(log)
    whole = incr(tmp_path).read_bytes()
    assert len(whole) == SECTOR, "what follows begins with a sector"
    room = bytearray(batches.room_from(SECTOR))
    for each in lost:
        room[each * SECTOR : (each + 1) * SECTOR] = bytes(SECTOR)
    incr(tmp_path).write_bytes(whole + room)
    assert keys(tmp_path) == {b"k": value}
    assert incr(tmp_path).read_bytes() == whole


@pytest.mark.parametrize("room", [0, 4096, ROOM_BYTES, 3 * ROOM_BYTES])
def test_what_redis_has_added_behind_room_of_any_length_counts(tmp_path: Path, room: int) -> None:
    log, _ = opened(tmp_path)
    write(log, [b"SET", b"ours", b"1"], sync=False)
    killed(log)
    whole = incr(tmp_path).read_bytes()
    made = b"".join(batches.room_from(at) for at in (len(whole), 0, 0))
    incr(tmp_path).write_bytes(whole + made[: max(0, room - len(whole))] + bulks([b"SET", b"theirs", b"1"]))
    assert keys(tmp_path).keys() == {b"ours", b"theirs"}


@pytest.mark.parametrize(
    "tail", [b"\0" * 3000, b"#batch 10", b"#batch 59 14 00000000\n*1\r\n$4\r\nPING\r\n", b"#", b"##\nx"]
)
def test_an_end_that_is_no_batch_is_cut(tmp_path: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    log, _ = opened(tmp_path)
    write(log, [b"SET", b"k", b"1"])
    log.close()
    whole = incr(tmp_path).read_bytes()
    incr(tmp_path).write_bytes(whole + tail)
    with caplog.at_level(logging.WARNING):
        assert keys(tmp_path) == {b"k": b"1"}
    assert incr(tmp_path).read_bytes() == whole
    assert ("dropped" in caplog.text) == (tail != b"#"), "room is no loss"


def places(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """Some bytes of the second of three batches, and the file around it."""
    log, _ = opened(tmp_path)
    for number in range(3):
        write(log, [b"SET", b"%d" % number, b"v" * 30])
    log.close()
    whole = incr(tmp_path).read_bytes()
    begins = [at for at in range(len(whole)) if whole.startswith(b"#batch", at)]
    for at in range(begins[1], begins[2]):
        yield at, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.mark.parametrize("torn", [0, 5])
def test_of_a_snapshot_that_was_not_taken_in_whole_nothing_stays(tmp_path: Path, torn: int) -> None:
    log, _ = opened(tmp_path)
    write(log, [b"SELECT", b"5"], [b"SET", b"before", b"1"], sync=False)
    write(log, [b"SELECT", b"0"], [b"MULTI"], [b"FLUSHALL"], sync=False)
    write(log, [b"SET", b"theirs", b"1"], sync=False)
    killed(log)
    os.truncate(incr(tmp_path), incr(tmp_path).stat().st_size - torn)
    for at in range(2):
        log, engine = opened(tmp_path)
        assert engine.databases[5].data.keys() == {b"before", *(b"after%d" % each for each in range(at))}
        write(log, [b"SELECT", b"5"], [b"SET", b"after%d" % at, b"1"])
        log.close()
    log, engine = opened(tmp_path)
    assert engine.databases[5].data.keys() == {b"before", b"after0", b"after1"}
    log.close()


def test_a_byte_that_was_changed_anywhere_before_the_last_batch_is_found(tmp_path: Path) -> None:
    for at, data in places(tmp_path):
        incr(tmp_path).write_bytes(data)
        with pytest.raises(titan.StorageError, match="damaged at byte"):
            opened(tmp_path)
        assert incr(tmp_path).read_bytes() == data, f"byte {at}: nothing was changed"


def test_a_batch_holds_in_its_place_alone() -> None:
    batch = batches.encode(bulks([b"SET", b"k", b"1"]), len(MAGIC))
    for data, count in ((MAGIC + batch, 1), (MAGIC + batch + batch, 1), (MAGIC + b"#\n" + batch, 0)):
        assert len(list(BatchReader(data))) == count


# ---- with the real thing -----------------------------------------------------------------------------------------


@needs_redis
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_redis_goes_on_with_the_log_and_the_store_with_that(tmp_path: Path, how: signal.Signals) -> None:
    with TitanStore(tmp_path) as ours, Wire(ours.port) as wire:
        for number in range(300):
            wire.ask("SET", f"k{number}", "#\r\n" * (number % 41))
        ours.stop(how)
    manifest = tmp_path / "appendonlydir" / f"{NAME}.manifest"
    checked = subprocess.run(["redis-check-aof", str(manifest)], capture_output=True, text=True, timeout=60)
    assert "All AOF files and manifest are valid" in checked.stdout, checked.stdout + checked.stderr
    with (
        RealRedis(tmp_path, "--appendonly", "yes", "--aof-timestamp-enabled", "yes") as redis,
        Wire(redis.port) as wire,
    ):
        assert wire.ask("DBSIZE") == b":300\r\n"
        assert wire.ask("SET", "theirs", "1") == b"+OK\r\n"
        assert wire.ask("DEL", "k0") == b":1\r\n"
        redis.stop()  # killed, it might not have written what it confirmed: it waits while the disk syncs
    with TitanStore(tmp_path) as again, Wire(again.port) as wire:
        assert wire.ask("GET", "theirs") == b"$1\r\n1\r\n"
        assert wire.ask("DBSIZE") == b":300\r\n"
        assert wire.ask("SET", "ours", "2") == b"+OK\r\n"
        again.stop(signal.SIGKILL)
    with RealRedis(tmp_path, "--appendonly", "yes") as redis, Wire(redis.port) as wire:
        assert wire.ask("MGET", "theirs", "ours") == b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n"
