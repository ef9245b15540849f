"""maxmemory: what goes when there is too much, and what is refused."""

import tracemalloc
from collections.abc import Callable

import pytest

from tests.store.core import Core
from titan_objects.store import rdb, rdb_writing
from titan_objects.store.resp import CommandError
from titan_objects.store.rewriting import Records, Rewrite

LIMIT = str(100 * 1200)
"""About a hundred keys of a kilobyte."""


def fill(core: Core, first: int, last: int, *more: str) -> list[object]:
    return [core("SET", f"k{at}", b"x" * 1000, *more) for at in range(first, last)]


def keys(core: Core) -> set[int]:
    return {int(key[1:]) for key in core.engine.databases[0].data}


def test_without_a_policy_writes_are_refused_and_reads_are_not() -> None:
    core = Core(maxmemory=LIMIT)
    refused = [reply for reply in fill(core, 0, 300) if isinstance(reply, CommandError)]
    assert refused and refused[0].text.startswith(b"OOM")
    assert core("GET k0") is not None
    assert core("DEL k0") == 1
    assert core("SET k0 short") == b"OK"


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
def test_some_go_and_the_log_has_it(policy: str) -> None:
    core = Core(maxmemory=LIMIT, maxmemory_policy=policy)
    assert set(fill(core, 0, 300)) == {b"OK"}
    assert 60 < core("DBSIZE") < 110  # type: ignore[operator]
    gone = [effect for effect in core.effects() if effect.startswith("DEL")]
    assert len(gone) == core.engine.stats.evicted == 300 - len(keys(core))


def test_what_is_used_stays() -> None:
    for policy in ("allkeys-lru", "allkeys-lfu"):
        core = Core(maxmemory=LIMIT, maxmemory_policy=policy, maxmemory_samples="20")
        fill(core, 0, 80)
        for at in range(80, 300):
            core.now += 100
            for used in range(20):
                core(f"GET k{used}")
            fill(core, at, at + 1)
        assert len(keys(core) & set(range(20))) >= 18, policy


def test_volatile_policies_take_what_expires_alone() -> None:
    core = Core(maxmemory=LIMIT, maxmemory_policy="volatile-ttl", maxmemory_samples="30")
    fill(core, 0, 40)
    for at in range(40, 80):
        fill(core, at, at + 1, "EX", str(1000 + at))
    fill(core, 80, 130)
    left = keys(core)
    assert set(range(40)) <= left and len(left & set(range(40, 60))) < len(left & set(range(60, 80)))
    refused = [reply for reply in fill(core, 130, 300) if isinstance(reply, CommandError)]
    assert refused and not keys(core) & set(range(40, 80))


def _without_memory(core: Core) -> None:
    core("SET k v")
    core("CONFIG SET maxmemory 1")
    core.pass_time(0)


def _without_disk(core: Core) -> None:
    core.engine.refuse_writes = CommandError("MISCONF the disk is full")
    core.engine.look()


def _loading(core: Core) -> None:
    core.engine.loading = core.engine.gate = True


def _nested(core: Core) -> None:
    core("MULTI")


@pytest.mark.parametrize("so", [_without_memory, _without_disk, _loading, _nested])
def test_what_was_refused_is_kept_nowhere(so: Callable[[Core], None]) -> None:
    core = Core()
    so(core)
    command = "WATCH" if so is _nested else "SET"
    tracemalloc.start()
    try:
        for at in range(100):
            refused = core(command, "k", f"{at} {'x' * 10_000}")
            assert isinstance(refused, CommandError)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_a_limit_may_come_later_and_go_again() -> None:
    core = Core()
    fill(core, 0, 300)
    core("CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", LIMIT)
    core.pass_time(0)  # what is there is looked at slice by slice
    core("SET one more")
    assert core("DBSIZE") < 110  # type: ignore[operator]
    core("FLUSHALL")
    assert core.engine.meter is not None and core.engine.meter.measure() == 0
    core("CONFIG SET maxmemory 0")
    assert core.engine.meter is None and not core.engine.gate
    assert core("MEMORY USAGE none") is None


def test_what_has_gone_is_drawn_no_more_and_takes_no_room() -> None:
    core = Core(maxmemory="1gb", maxmemory_policy="allkeys-random")
    for turn in range(30):
        for at in range(40):
            core("SET", f"k{at}", turn)
        core("DEL", *(f"k{at}" for at in range(turn, 40)))
        meter = core.engine.meter
        assert meter is not None
        meter.measure()
        assert {key for _, key in meter.order()} == set(core.engine.databases[0].data)
        assert len(meter.order()) == turn
    core("CONFIG SET maxmemory 1")
    assert core("SET", "one", "more") == b"OK" and core("KEYS *") == [b"one"]


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-random"])
def test_what_a_log_or_a_leader_says_is_executed_whatever_the_limit(policy: str) -> None:
    before = Core()
    before("SET n 100")
    fill(before, 0, 300)
    before("DEL", *(f"k{at}" for at in range(299)))
    before("INCR n")
    log = before.engine.effects
    for execute in (lambda engine: engine.replay(log), lambda engine: engine.apply(log, before.now) or None):
        core = Core(maxmemory=LIMIT, maxmemory_policy=policy)
        assert execute(core.engine) is None
        assert core.engine.databases[0].data == {b"n": b"101", b"k299": b"x" * 1000}


def test_what_comes_in_a_snapshot_takes_memory_too() -> None:
    before = Core()
    fill(before, 0, 300)
    parts = [rdb_writing.header()]
    rewrite = Rewrite(before.engine, parts.append, Records())
    while rewrite.step():
        pass
    core = Core(maxmemory=LIMIT)
    rdb.load(b"".join(parts) + rdb_writing.END, core.engine)
    assert isinstance(core("SET k 1"), CommandError)


@pytest.fixture
def full() -> Core:
    """Above its limit, with nothing to let go."""
    core = Core()
    core("SET k v")
    core("SET gone v")
    core("CONFIG SET maxmemory 1")
    core.pass_time(1)
    core.effects()
    return core


def refused(reply: object) -> bool:
    return isinstance(reply, CommandError) and b"OOM command not allowed" in reply.text


def test_a_transaction_without_memory_is_refused_as_a_whole(full: Core) -> None:
    other = full.connect()
    full("CONFIG SET maxmemory 0")
    for each in ("MULTI", "DEL gone", "SET k w", "EVAL return(1) 0"):
        full(each)
    other("CONFIG SET maxmemory 1")
    full.pass_time(1)
    aborted = full("EXEC")
    assert refused(aborted) and str(aborted).startswith("EXECABORT")
    assert full("EXISTS gone") == 1 and full.effects() == []


def test_where_there_is_no_memory_nothing_is_queued(full: Core) -> None:
    full("MULTI")
    assert refused(full("GET k"))
    assert str(full("EXEC")).startswith("EXECABORT Transaction discarded because of previous errors")


def test_scripts_say_whether_they_run_where_there_is_no_memory(full: Core) -> None:
    write = "return redis.call('SET',KEYS[1],'1')"
    assert refused(full("EVAL", write, "1", "new"))
    assert refused(full("EVAL", "#!lua\nreturn 1", "0"))
    assert full("EVAL", "return 1", "0") == full("EVAL", "#!lua flags=no-writes\nreturn 1", "0") == 1
    assert full("EVAL", f"#!lua flags=allow-oom\n{write}", "1", "new") == b"OK"
    assert full("EVAL", f"redis.call('DEL','gone') {write}", "1", "k") == b"OK", "what has begun to write goes on"


def test_functions_say_whether_they_run_where_there_is_no_memory(full: Core) -> None:
    full("CONFIG SET maxmemory 0")
    register = "redis.register_function{function_name='%s',callback=function(k) return redis.call('%s',k[1]) end%s}"
    plain, saving = register % ("get", "GET", ""), register % ("incr", "INCR", ",flags={'allow-oom'}")
    full("FUNCTION", "LOAD", f"#!lua name=lib\n{plain}\n{saving}")
    full("CONFIG SET maxmemory 1")
    full.pass_time(1)
    assert refused(full("FCALL get 1 k"))
    assert full("FCALL incr 1 n") == 1
    assert refused(full("FUNCTION LOAD x"))


def test_no_key_goes_in_the_middle_of_a_script_or_a_transaction() -> None:
    core = Core(maxmemory=LIMIT, maxmemory_policy="allkeys-lru")
    fill(core, 0, 60)
    core.effects()
    written = "for n = 1, 200 do redis.call('SET', 'k' .. n, string.rep('x', 1000)) end return redis.call('DBSIZE')"
    assert core("EVAL", written, "0") == 201
    core("SET k v")
    assert core.effects()[-1] == "SET k v" and core("DBSIZE") < 110  # type: ignore[operator]
    core("MULTI")
    for at in range(200):
        core("SET", f"m{at}", b"x" * 1000)
    core("EXEC")
    assert core("EXISTS m0 m100 m199") == 3


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-random"])
def test_a_transaction_of_a_log_or_a_leader_is_executed_whatever_the_limit(policy: str) -> None:
    core = Core(maxmemory="1", maxmemory_policy=policy)
    log = [[b"MULTI"], [b"SET", b"a", b"1"], [b"SET", b"b", b"2"], [b"EXEC"]]
    assert core.engine.apply(log, core.now) == []
    assert core("MGET a b") == [b"1", b"2"]


def test_how_fast_a_counter_grows_and_fades_may_be_set() -> None:
    core = Core(maxmemory=LIMIT, maxmemory_policy="allkeys-lfu")
    core("SET k v")
    core("SET other v")
    for setting in ("lfu-log-factor 0", "lfu-decay-time 0"):
        assert core(f"CONFIG SET {setting}") == b"OK"
    for _ in range(100):
        core("GET k")
    assert core("OBJECT FREQ k") == 105, "each use counts"
    core.now += 10 * 60_000
    assert core("OBJECT FREQ k") == 105, "and stays"
    core("CONFIG SET lfu-decay-time 2")
    assert core("OBJECT FREQ k") == 100


def test_to_ask_how_a_key_is_used_is_no_use() -> None:
    core = Core(maxmemory=LIMIT, maxmemory_policy="allkeys-lru")
    core("SET k v")
    core("SET other v")
    core.now += 5000
    assert [core(ask) for ask in ("OBJECT FREQ k", "MEMORY USAGE k", "OBJECT IDLETIME k", "OBJECT IDLETIME k")][2:] == [
        5,
        5,
    ]


def test_a_policy_that_goes_by_uses_counts_them_without_a_limit_too() -> None:
    core = Core()
    core("SET k v")
    assert "not selected" in str(core("OBJECT FREQ k"))
    core("CONFIG SET maxmemory-policy allkeys-lfu lfu-log-factor 0")
    core("SET new v")
    core.pass_time(1)
    for _ in range(5):
        core("GET k")
    assert core("OBJECT FREQ k") == 10 and core("OBJECT FREQ new") == 5
    core("CONFIG SET maxmemory-policy allkeys-lru")
    core.now += 7000
    assert core("OBJECT IDLETIME k") == 7
    core("CONFIG SET maxmemory-policy noeviction")
    assert core.engine.meter is None and not core.engine.gate
    assert core("OBJECT IDLETIME k") == 0
