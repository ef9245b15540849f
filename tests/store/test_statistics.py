"""What a store counts of its own work is what was done, and is shown as Redis shows it."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.config import Config
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError, decode
from titan_objects.store.stats import Rate, Stats, human
from titan_objects.store.usage import ALL_TIMED, STRIDE, Usage


def info(core: Core, *sections: str) -> dict[str, str]:
    text = core("INFO", *sections)
    assert isinstance(text, bytes)
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


def counted(core: Core, command: str) -> tuple[int, int, int]:
    """Calls, rejected calls, failed calls."""
    found = re.findall(r"calls=(\d+)", info(core, "commandstats").get(f"cmdstat_{command}", "calls=0" * 3))
    return int(found[0]), int(found[1]), int(found[2])


def test_calls_are_counted_wherever_they_come_from() -> None:
    core = Core()
    for line in ("SET k 1", "set k 2", "MULTI", "SET k 3", "SET k 4", "EXEC"):
        core(line)
    core("EVAL", "return redis.call('SET', 'k', '5')", 0)
    core("CONFIG GET port")
    core("XINFO STREAM nosuch")
    assert counted(core, "set") == (5, 0, 0)
    assert counted(core, "eval") == (1, 0, 0)
    assert counted(core, "config|get") == (1, 0, 0)
    assert counted(core, "xinfo|stream") == (1, 0, 1)
    assert "cmdstat_config" not in info(core, "commandstats")
    assert int(info(core, "stats")["total_commands_processed"]) > 10


def test_what_was_refused_and_what_failed_are_two_things() -> None:
    core = Core()
    core("SET k v")
    core("SET k")
    core("LPUSH k v")
    core("ACL SETUSER ann on nopass +set +multi +exec ~a")
    ann = core.connect()
    ann("AUTH ann x")
    for line in ("SET b 1", "MULTI", "SET b 1", "SET a", "EXEC"):
        ann(line)
    core("EVAL", "redis.pcall('LPUSH', 'k', 'v') redis.pcall('LPUSH', 'k')", 0)
    core("CONFIG NOSUCH")
    assert counted(core, "set") == (1, 4, 0)
    assert counted(core, "lpush") == (2, 1, 2)
    assert "cmdstat_config" not in info(core, "commandstats")
    errors = info(core, "errorstats")
    assert errors["errorstat_WRONGTYPE"] == "count=2" and errors["errorstat_NOPERM"] == "count=2"
    assert errors["errorstat_EXECABORT"] == "count=1"


@needs_redis
def test_errors_of_scripts_are_counted_as_in_redis(tmp_path: Path) -> None:
    core = Core()
    scripts = (
        "return redis.call('LPOP', 'k')",
        "return redis.pcall('LPOP', 'k')",
        "redis.pcall('LPOP', 'k') return 1",
        "redis.pcall('LPOP', 'k') error('x')",
        "return redis.error_reply('MY own')",
    )
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for ask in (wire.ask, core):
            ask("SET", "k", "v")
        for script in scripts:
            core("EVAL", script, 0)
            wire.ask("EVAL", script, 0)
            assert core("INFO errorstats") == decode(wire.ask("INFO", "errorstats")), script
            theirs = re.search(rb"cmdstat_eval:.*failed_calls=(\d+)", wire.ask("INFO", "commandstats"))
            assert theirs is not None and counted(core, "eval")[2] == int(theirs[1]), script


def test_error_codes_that_scripts_make_up_are_bounded() -> None:
    stats = Stats()
    for at in range(1000):
        stats.note_error(b"CODE%d is new" % at)
    assert len(stats.error_codes) == Stats.ERROR_CODES_MAX and stats.errors == 1000


def test_few_calls_are_all_timed_and_of_many_one_stands_for_others() -> None:
    core = Core()
    moment = 0.0

    def clock() -> float:  # every look at it takes a millisecond
        nonlocal moment
        moment += 0.001
        return moment

    core.engine.seconds = clock
    for _ in range(ALL_TIMED):
        core("GET k")
    usage = core.engine.usages.by_name["get"]
    assert (usage.calls, round(usage.micros)) == (ALL_TIMED, ALL_TIMED * 1000)
    before = moment
    for _ in range(10 * STRIDE):
        core("GET k")
    assert round(moment - before, 6) == 0.020, "ten were timed"
    assert (usage.calls, round(usage.micros)) == (ALL_TIMED + 10 * STRIDE, (ALL_TIMED + 10 * STRIDE) * 1000)
    assert usage.histogram() == [(1056, usage.calls)]


def test_the_distribution_of_times_is_that_of_redis() -> None:
    usage = Usage()
    for micros in (3, 10, 10, 142, 3_000_000):
        usage.left = 0
        usage.timed(micros / 1e6)
    # Redis's own figures for such times: 10 is among those up to 16, 142 among those up to 264.
    assert usage.histogram() == [(4, 1), (16, 3), (264, 4), (1082130, 5)]
    assert usage.percentiles([50.0, 70.0]) == [10.047, 142.335]


def test_statistics_begin_anew() -> None:
    core = Core()
    for line in ("SET k v", "SET k", "GET nosuch"):
        core(line)
    assert core("CONFIG RESETSTAT") == b"OK"
    assert counted(core, "set") == (0, 0, 0)
    assert info(core, "errorstats") == {} and info(core, "stats")["keyspace_misses"] == "0"
    assert core("LATENCY HISTOGRAM set") == []


def test_a_rate_is_the_mean_of_the_latest_samples() -> None:
    rate = Rate()
    for at in range(100):
        rate.sample(at / 10, at * at)
    assert round(rate.per_second) == round(sum(10 * (2 * at + 1) for at in range(83, 99)) / 16)
    rate.sample(9.9, 10_000)
    assert rate.per_second > 0, "a clock that stood still is no division by zero"


def test_bytes_for_people() -> None:
    assert [human(each) for each in (0, 1023, 1024, 991 * 1024 + 645, 25276502016)] == [
        "0B",
        "1023B",
        "1.00K",
        "991.63K",
        "23.54G",
    ]


async def test_what_a_log_holds_was_called_by_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path, Config())
    await store.execute([b"SET", b"k", b"v"])
    assert b"rdb_changes_since_last_save:1\r" in await store.execute([b"INFO", b"persistence"])
    await store.close()
    store = Store(tmp_path, Config())
    found = await store.execute([b"INFO", b"commandstats", b"memory", b"server"])
    assert b"cmdstat_set" not in found
    run_id, peak, used = re.search(rb"run_id:(\w+)", found), re.search(rb"peak:(\d+)", found), b"used_memory:"
    assert run_id and len(run_id[1]) == 40 and peak and used in found
    assert int(peak[1]) >= int(found.partition(used)[2].split()[0])
    await store.close()


ASKED = [
    [],
    ["default"],
    ["all"],
    ["everything"],
    ["cpu", "KEYSPACE"],
    ["nosuch"],
    ["all", "modules"],
    ["stats", "all"],
]


@needs_redis
def test_sections_are_chosen_as_in_redis(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for sections in ASKED:
            theirs, ours = decode(wire.ask("INFO", *sections)), core("INFO", *sections)
            assert isinstance(ours, bytes)
            assert re.findall(rb"^# .*", ours, re.M) == re.findall(rb"^# .*", theirs, re.M), sections


@needs_redis
@pytest.mark.parametrize("section", ["commandstats", "errorstats", "latencystats"])
def test_statistics_have_the_fields_of_redis(tmp_path: Path, section: str) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for ask in (wire.ask, core):
            for line in ("SET k v", "SET k", "LPUSH k v", "CONFIG GET port", "NOSUCH"):
                ask(*line.split())

        def shown(text: object) -> set[bytes]:
            assert isinstance(text, bytes)
            measured = re.sub(rb"(usec=|usec_per_call=|p[\d.]+=)[\d.]+", rb"\1", text)
            lines = set(measured.split(b"\r\n")) - {b""}
            return {line for line in lines if b"_info" not in line}  # it counts itself here, and not there

        assert shown(core("INFO", section)) == shown(decode(wire.ask("INFO", section)))


def test_a_graph_of_what_took_long() -> None:
    core = Core()
    second = core.now // 1000
    for at, ms in ((second - 7200, 10), (second - 65, 100), (second - 3, 50)):
        core.engine.stats.latency.note("command", at, ms)
    text = core("LATENCY GRAPH command")
    assert isinstance(text, bytes)
    head, line, *rows = text.decode().splitlines()
    assert head == "command - high 100 ms, low 10 ms (all time high 100 ms)" and set(line) == {"-"}
    assert rows == [" #", " #", " ##", " ##", "###", "", "213", "hms"]
    assert b"No samples" in core("LATENCY GRAPH nosuch").text  # type: ignore[attr-defined]


@needs_redis
def test_memory_stats_have_the_fields_of_redis(tmp_path: Path) -> None:
    core = Core()
    core.engine.surroundings = lambda: {"memory": {"used_memory": 1000, "used_memory_peak": 2000}}
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for ask in (wire.ask, core):
            ask("HELLO", 3)
            ask("SET", "k", "v")
        theirs, ours = decode(wire.ask("MEMORY", "STATS")), core("MEMORY STATS")
    assert isinstance(ours, dict) and list(ours) == list(theirs)
    assert {name: type(each) for name, each in ours.items()} == {name: type(each) for name, each in theirs.items()}
    assert list(ours[b"db.0"]) == list(theirs[b"db.0"])
    assert (ours[b"total.allocated"], ours[b"peak.percentage"], ours[b"keys.count"]) == (1000, 50.0, 1)


async def test_save_is_answered_once_the_log_is_rewritten(tmp_path: Path) -> None:
    store = Store(tmp_path, Config())
    await store.execute([b"SET", b"k", b"v"])
    assert await store.execute([b"SAVE"]) == b"OK"
    assert len(list((tmp_path / "appendonlydir").glob("*base*"))) == 1
    assert b"rdb_changes_since_last_save:0\r" in await store.execute([b"INFO", b"persistence"])
    with pytest.raises(CommandError, match="not allowed from script"):
        await store.execute([b"EVAL", b"return redis.call('SAVE')", b"0"])
    waiting = asyncio.ensure_future(store.execute([b"SAVE"]))
    await asyncio.sleep(0)
    with pytest.raises(CommandError, match="already in progress"):
        await store.execute([b"SAVE"])
    await store.close()
    with pytest.raises(CommandError, match="could not be rewritten"):
        await waiting
    store = Store(None, Config())
    assert await store.execute([b"SAVE"]) == b"OK", "where nothing is kept, nothing is waited for"
    await store.close()


def test_the_first_line_on_memory_is_the_one_that_tools_take() -> None:
    lines = list(info(Core(), "memory"))
    assert lines[0] == "used_memory"


@needs_redis
def test_commands_of_a_cluster_are_answered_as_by_who_is_in_none(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for call in ("CLUSTER INFO", "CLUSTER SLOTS", "ASKING", "READONLY", "READWRITE"):
            assert str(core(call)) == str(decode(wire.ask(*call.split())))


def test_calls_of_a_pipeline_are_counted_whatever_is_between_them() -> None:
    core = Core()
    client = core.client.session
    lines = (
        "GET k",
        "GET k",
        "get k",
        "NOSUCH",
        "GET",
        "GET k",
        "SET k v",
        "",
        "GET k",
        "MULTI",
        "GET k",
        "EXEC",
        "GET k",
    )
    core.engine.run(client, [line.encode().split() or [b""] for line in lines], core.now)
    assert (counted(core, "get"), counted(core, "set"), counted(core, "exec")) == ((7, 1, 0), (1, 0, 0), (1, 0, 0))
    other = core.connect()
    core.engine.run(other.session, [[b"BLPOP", b"l", b"0"], [b"GET", b"k"], [b"GET", b"k"]], core.now)
    assert counted(core, "get")[0] == 7, "they wait"
    core("RPUSH l a")
    assert (counted(core, "get")[0], counted(core, "blpop")[0]) == (9, 1)
    core.engine.run(other.session, [[b"GET", b"k"], [b"QUIT"], [b"GET", b"k"]], core.now)
    assert counted(core, "get")[0] == 10


def test_calls_of_a_pipeline_are_timed_together() -> None:
    moment = 0.0

    def clock() -> float:
        nonlocal moment
        moment += 0.016
        return moment

    core = Core()
    core.engine.seconds = clock
    core.engine.run(core.client.session, [[b"GET", b"k"]] * 16, core.now)
    usage = core.engine.usages.by_name["get"]
    assert (usage.calls, round(usage.micros)) == (16, 16_000)
