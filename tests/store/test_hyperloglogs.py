"""HyperLogLogs: small while they hold little, and read by Redis whichever way they are kept."""

import tracemalloc
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store import hyperloglog
from titan_objects.store.resp import CommandError, decode


def test_few_elements_take_few_bytes() -> None:
    core = Core()
    sizes = []
    for at in range(2000):
        core("PFADD", "h", at)
        sizes.append(core("STRLEN h"))
    assert sizes[0] == 21 and max(sizes[:400]) < 1000  # type: ignore[type-var]
    assert sizes[-1] == hyperloglog.SIZE and core("PFDEBUG ENCODING h") == b"dense"
    assert sizes == sorted(sizes)  # type: ignore[type-var]


@pytest.mark.parametrize("limit", ["0", "1000", "100000"])
@pytest.mark.parametrize("together", [1, 7, 100])
def test_the_way_in_which_it_is_kept_changes_no_answer(limit: str, together: int) -> None:
    core, other = Core(hll_sparse_max_bytes=limit), Core(hll_sparse_max_bytes="0")
    chance = Random(together)
    for _ in range(600 // together):
        elements = [chance.randrange(800) for _ in range(together)]
        assert core("PFADD", "h", *elements) == other("PFADD", "h", *elements)
    assert core("PFDEBUG GETREG h") == other("PFDEBUG GETREG h")
    assert core("PFCOUNT h") == other("PFCOUNT h")
    assert other("PFDEBUG ENCODING h") == b"dense"
    assert core("PFSELFTEST") == b"OK"


def test_what_is_merged_is_small_if_it_can_be() -> None:
    core = Core()
    core("PFADD a 1 2 3")
    core("PFADD b 3 4 5")
    core("PFMERGE c a b")
    assert core("PFDEBUG ENCODING c") == b"sparse" and core("PFCOUNT c") == 5 == core("PFCOUNT a b")
    core("PFADD", "large", *range(3000))
    core("PFMERGE c large")
    assert core("PFDEBUG ENCODING c") == b"dense"


def test_a_level_that_no_run_can_have_makes_it_dense() -> None:
    value = hyperloglog.EMPTY
    assert hyperloglog.with_register(value, 16383, 33) is None
    after, changed = hyperloglog.added(value, [(16383, 33), (0, 32)], 1000)
    assert changed and not hyperloglog.is_sparse(after)
    assert hyperloglog.registers(after)[0::16383] == [32, 33]


STALE = bytes(10) + b"\x80"
WRONG = [b"", b"x", b"HYLL\1" + STALE, b"HYLL\2" + bytes(12300), b"HYLL" + bytes(20)]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_hyperloglog_is_refused(value: bytes) -> None:
    core = Core()
    core("SET", "k", value)
    for call in ("PFADD k a", "PFCOUNT k", "PFMERGE t k", "PFDEBUG DECODE k"):
        found = core(call)
        assert isinstance(found, CommandError) and found.text.split()[0] in (b"WRONGTYPE", b"INVALIDOBJ"), call
    assert core("GET k") == value


def test_a_long_value_that_is_none_costs_no_memory() -> None:
    value = b"HYLL\1" + bytes(11) + bytes(4 << 20)
    tracemalloc.start()
    with pytest.raises(CommandError, match="Corrupted"):
        hyperloglog.added(value, [(16383, 1)] * 3, 1000)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_random_bytes_are_refused_or_counted() -> None:
    chance = Random(1)
    for _ in range(300):
        value = b"HYLL\1" + bytes(11) + chance.randbytes(chance.randrange(400))
        with suppress(CommandError):
            after, _ = hyperloglog.added(value, [(chance.randrange(16384), 3)], 1000)
            assert len(after) <= hyperloglog.SIZE


@needs_redis
def test_a_count_is_kept_in_the_value_as_redis_keeps_it(tmp_path: Path) -> None:
    core = Core()
    dense = b"HYLL" + bytes(11) + b"%b" + bytes(12288)
    odd = [b"HYLL\1" + bytes(11), b"HYLL\1" + STALE + b"\x7f\xfe", dense % b"\0", dense % b"\x80"]
    calls = ("PFCOUNT k", "GET k", "PFCOUNT k", "PFCOUNT k k", "PFADD k a", "GET k", "PFCOUNT k", "GET k", "PFADD k a")
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for value in (None, *odd, *WRONG):
            for ask in (core, wire.ask):
                ask("DEL", "k")
                ask("PFADD", "k") if value is None else ask("SET", "k", value)
            for call in calls:
                assert str(core(call)) == str(decode(wire.ask(*call.split()))), (value, call)
    core("DEL k")
    core("PFADD k a b")
    core.effects()
    watcher = core.connect()
    watcher("WATCH k")
    assert core("PFCOUNT k") == 2 and core.effects() == ["PFCOUNT k"], "a log and replicas have it, too"
    assert core("PFCOUNT k") == 2 and core.effects() == []
    watcher("MULTI")
    assert watcher("EXEC") is None


@needs_redis
def test_a_sparse_value_is_that_of_redis_to_the_byte(tmp_path: Path) -> None:
    core, chance = Core(), Random(5)
    near = [at for at in range(60_000) if hyperloglog.place_of(b"%d" % at)[0] < 60]
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for key in range(60):
            elements = near if key % 2 else range(10**9)
            for _ in range(chance.randrange(30)):
                some = [chance.choice(elements) for _ in range(chance.randrange(1, 4))]
                core("PFADD", key, *some)
                wire.ask("PFADD", key, *some)
            assert core("GET", key) == decode(wire.ask("GET", key))


@needs_redis
def test_redis_reads_what_is_sparse_here_and_the_other_way_round(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for count in (0, 1, 3, 40, 300, 450):
            for ask in (core, wire.ask):
                ask("DEL", "h")
                ask("PFADD", "h", *range(count // 2))
                for at in range(count // 2, count):
                    ask("PFADD", "h", at)
            mine, theirs = core("GET h"), decode(wire.ask("GET", "h"))
            assert isinstance(mine, bytes) and hyperloglog.is_sparse(mine)
            assert len(mine) <= len(theirs) + 100
            wire.ask("SET", "mine", mine)
            core("SET", "theirs", theirs)
            assert decode(wire.ask("PFCOUNT", "mine")) == core("PFCOUNT h") == core("PFCOUNT theirs")
            assert decode(wire.ask("PFDEBUG", "DECODE", "mine")) == core("PFDEBUG DECODE h")
            assert decode(wire.ask("PFDEBUG", "GETREG", "mine")) == core("PFDEBUG GETREG theirs")
            assert decode(wire.ask("PFADD", "mine", "new")) == core("PFADD theirs new") == 1
        for call in ("PFDEBUG ENCODING nosuch", "PFDEBUG NOSUCH h", "PFDEBUG TODENSE h", "PFSELFTEST"):
            assert str(core(*call.split())) == str(decode(wire.ask(*call.split())))


@pytest.mark.parametrize("seed", range(4))
def test_a_log_gives_the_same_bytes_whatever_was_set_then_or_is_set_now(seed: int) -> None:
    """Also one that was written anew on the way, so that a value is read instead of made."""
    chance = Random(seed)
    core, again = Core(), Core(hll_sparse_max_bytes=chance.choice(("0", "3000")))
    again.engine.now = again.now
    for turn in range(150):
        key, other = chance.choice("abc"), chance.choice("abc")
        core(
            *chance.choice(
                (
                    ("PFADD", key, *(chance.randrange(900) for _ in range(chance.choice((1, 3, 40))))),
                    ("PFMERGE", key, other),
                    ("PFCOUNT", key),
                    ("PFDEBUG", "TODENSE", key),
                    ("CONFIG", "SET", "hll-sparse-max-bytes", chance.choice((0, 200, 1000, 3000))),
                    ("SETRANGE", key, 20, "zzz") if not chance.randrange(8) else ("PERSIST", key),
                    ("DEL", key) if not chance.randrange(4) else ("PEXPIRE", key, 10_000_000),
                )
            )
        )
        assert again.engine.replay([list(effect) for effect in core.engine.effects]) is None
        core.engine.effects.clear()
        for name in "abc":
            assert core("GET", name) == again("GET", name), turn
            assert core("PTTL", name) == again("PTTL", name), turn
        if turn % 40 == 20:
            data = again.engine.databases[0].data
            data.update({name: bytes(value) for name, value in data.items()})
