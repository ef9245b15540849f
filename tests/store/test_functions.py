"""Functions: Lua that is part of the data."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.core import Core
from tests.store.real import RealRedis, TitanStore, Wire, needs_redis
from titan_objects.store.group.places import door_table, group_table
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError, decode_all
from titan_objects.store.table import Group

pytest.importorskip("lupa")

LIBRARY = """#!lua name=bank
local function key(name) return 'account:' .. name end

redis.register_function('deposit', function(keys, args)
    return redis.call('INCRBY', key(keys[1]), args[1])
end)
redis.register_function{
    function_name='balance', description='what is there', flags={'no-writes'},
    callback=function(keys, args) return redis.call('GET', key(keys[1])) end,
}
redis.register_function{
    function_name='liar', flags={'no-writes'}, callback=function(keys) return redis.call('SET', keys[1], 1) end,
}
redis.register_function('endless', function() while true do end end)
"""


def test_functions_are_called_and_what_they_write_is_logged() -> None:
    core = Core()
    assert core("FUNCTION", "LOAD", LIBRARY) == b"bank"
    assert core("FCALL", "deposit", 1, "ann", 5) == 5
    assert core("FCALL_RO", "balance", 1, "ann") == b"5"
    assert core.effects() == [f"FUNCTION LOAD {LIBRARY}", "INCRBY account:ann 5"]


def test_a_library_registers_nothing_once_it_is_loaded() -> None:
    core = Core()
    late = "#!lua name=x\nlocal r = redis.register_function r('f', function() r('g', function() return 1 end) end)"
    core("FUNCTION", "LOAD", late)
    assert "can only be called on FUNCTION LOAD command" in str(core("FCALL f 0"))
    assert core("FCALL g 0") != 1 and core("FUNCTION DELETE x") == b"OK"
    core("FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('f', string.len)")
    assert "(string expected, got table)" in str(core("FCALL f 0"))


def test_a_library_that_cannot_be_loaded_changes_nothing() -> None:
    core = Core(lua_time_limit="5")
    core("FUNCTION", "LOAD", LIBRARY)
    for source in ("", "#!lua name=bank\nboo boo", "#!lua name=x\nredis.register_function('deposit', print)"):
        assert isinstance(core("FUNCTION", "LOAD", "REPLACE", source), CommandError)
    endless = core("FUNCTION", "LOAD", "#!lua name=x\nwhile true do end")
    assert isinstance(endless, CommandError) and "over its limit" in str(endless)
    assert len(core.effects()) == 1 and core("FCALL", "deposit", 1, "ann", 5) == 5
    assert core(
        "FUNCTION", "LOAD", "REPLACE", "#!lua name=bank\nredis.register_function('one', function() return 1 end)"
    )
    assert core("FCALL", "one", 0) == 1
    assert str(core("FCALL", "deposit", 1, "ann", 5)) == "ERR Function not found"


def test_functions_end_at_their_limit_and_reach_nothing_but_the_store() -> None:
    core = Core(lua_time_limit="5")
    core("FUNCTION", "LOAD", LIBRARY)
    assert "over its limit" in str(core("FCALL", "endless", 0))
    assert "read-only" in str(core("FCALL", "liar", 1, "k")) and core("EXISTS", "k") == 0
    for body in ("return io", "return python", "return debug", "return redis.register_function"):
        core("FUNCTION", "LOAD", "REPLACE", f"#!lua name=x\nredis.register_function('x', function() {body} end)")
        found = core("FCALL", "x", 0)
        assert found is None or "nonexistent global" in str(found), body
    core("FUNCTION", "LOAD", "REPLACE", "#!lua name=x\nredis.register_function('x', function() leak = 1 end)")
    assert "modify a global" in str(core("FCALL", "x", 0))


def test_a_dump_is_restored_whole_or_not_at_all() -> None:
    core, other = Core(), Core()
    core("FUNCTION", "LOAD", LIBRARY)
    dump = core("FUNCTION", "DUMP")
    assert isinstance(dump, bytes)
    assert other("FUNCTION", "RESTORE", dump) == b"OK" and other("FCALL", "deposit", 1, "ann", 1) == 1
    assert str(other("FUNCTION", "RESTORE", dump)) == "ERR Library 'bank' already exists"
    assert other("FUNCTION", "RESTORE", dump, "REPLACE") == other("FUNCTION", "RESTORE", dump, "FLUSH") == b"OK"
    other("FUNCTION", "FLUSH")
    other("FUNCTION", "LOAD", "#!lua name=mine\nredis.register_function('deposit', function() end)")
    for broken in (dump[:-1], b"", core("DUMP", "none") or b"x", dump[:3] + b"?" + dump[4:]):
        assert isinstance(other("FUNCTION", "RESTORE", broken), CommandError)
    assert "already exists" in str(other("FUNCTION", "RESTORE", dump, "REPLACE"))
    found = other("FUNCTION", "LIST")
    assert isinstance(found, list) and [each[1] for each in found] == [b"mine"]


async def test_the_log_has_functions_before_and_after_a_rewrite(tmp_path: Path) -> None:
    for rewrite in (False, True, True):
        store = Store(tmp_path)
        await store.execute([b"FUNCTION", b"LOAD", b"REPLACE", LIBRARY.encode()])
        if rewrite:
            store.rewrite()
            while store.engine.stats.rewriting:
                await asyncio.sleep(0.001)
        await store.close()
        again = Store(tmp_path)
        assert len(await again.execute([b"FUNCTION", b"LIST"])) == 1
        await again.close()


def test_a_group_has_functions_for_users_who_may_do_everything() -> None:
    assert {"fcall", "fcall_ro", "function|load", "function|list"} <= set(group_table().commands)
    assert all(door_table(Group("door")).commands[name].unchecked for name in ("fcall", "fcall_ro"))


# ---- beside Redis ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with RealRedis(tmp_path_factory.mktemp("redis"), "--repl-diskless-sync-delay", "0") as server:
        yield server


SOURCES = """
x | #!lua | #!lua name=a b=c | #!js name=a | #!lua name=a-b | #!lua name=a name=b | #!lua name=a
#!lua name=a;local x = 1
#!lua name=a;redis.register_function("f")
#!lua name=a;redis.register_function("f", 1)
#!lua name=a;redis.register_function("f", function() end, 1)
#!lua name=a;redis.register_function{function_name="f"}
#!lua name=a;redis.register_function{callback=function() end}
#!lua name=a;redis.register_function{function_name="f", callback=1}
#!lua name=a;redis.register_function{function_name="f", callback=function() end, flags={"x"}}
#!lua name=a;redis.register_function{function_name="f", callback=function() end, flags=1}
#!lua name=a;redis.register_function{function_name="f", callback=function() end, x=1}
#!lua name=a;redis.register_function{function_name={}, callback=function() end}
#!lua name=a;redis.register_function{function_name="f", callback=function() end, description={}}
#!lua name=a;redis.register_function("f-", function() end)
#!lua name=a;for i = 1, 2 do redis.register_function("f", function() end) end
"""
WORDS = """
FUNCTION LOAD REPLACE {library} | FUNCTION LOAD {library} | FUNCTION LOAD REPLAC {library} | FCALL deposit 1 ann 7
FCALL balance 1 ann | FCALL_RO balance 1 ann | FCALL_RO deposit 1 ann 1 | FCALL none 0 | FCALL deposit 2 ann
FCALL deposit x | FCALL deposit -1 | FUNCTION LIST x | FUNCTION LIST LIBRARYNAME | FUNCTION STATS | FUNCTION KILL
FUNCTION LIST LIBRARYNAME z* | FUNCTION LIST LIBRARYNAME b* WITHCODE | FUNCTION DELETE none | FUNCTION RESTORE x
FUNCTION RESTORE x BAD | FUNCTION FLUSH x | FUNCTION DELETE bank | FUNCTION FLUSH ASYNC | FUNCTION LIST
"""


@needs_redis
def test_replies_are_those_of_redis(redis: RealRedis) -> None:
    sources = [line.strip().replace(";", "\n") + "\n" for line in SOURCES.strip().replace("|", "\n").splitlines()]
    calls = [line.split() for line in WORDS.strip().replace("|", "\n").splitlines()]
    core = Core()
    with Wire(redis.port) as wire:
        for call in [["HELLO", "3"], *(["FUNCTION", "LOAD", source] for source in sources), *calls]:
            args = [word.format(library=LIBRARY) if word == "{library}" else word for word in call]
            ours, theirs = core(*args), decode_all(wire.ask(*args))[-1]
            if call[0] != "HELLO":
                assert _shown(ours) == _shown(theirs), args


@needs_redis
def test_names_of_functions_are_the_same_in_any_case_and_a_flag_counts_once(redis: RealRedis) -> None:
    core = Core()
    flags = "flags={'no-writes','allow-oom','no-writes'}"
    named = "#!lua name=%s\nredis.register_function{function_name='%s',callback=function() return 1 end,%s}"
    with Wire(redis.port) as wire:
        wire.ask("FUNCTION", "FLUSH")
        for command in (
            ("FUNCTION", "LOAD", named % ("a", "Get", flags)),
            ("FUNCTION", "LOAD", named % ("b", "gET", flags)),
            ("FCALL", "GET", "0"),
            ("FUNCTION", "LIST"),
            ("FUNCTION", "DELETE", "a"),
            ("FCALL", "get", "0"),
        ):
            session = core.client.session
            core.engine.run(session, [[word.encode() for word in command]], core.now)
            assert b"".join(session.out) == wire.ask(*command), command
            session.out.clear()


@needs_redis
def test_dumps_go_both_ways(redis: RealRedis) -> None:
    core = Core()
    core("FUNCTION", "LOAD", LIBRARY)
    with Wire(redis.port) as wire:
        dump = core("FUNCTION", "DUMP")
        assert isinstance(dump, bytes)
        assert wire.ask("FUNCTION", "RESTORE", dump, "FLUSH") == b"+OK\r\n"
        assert wire.ask("FCALL", "deposit", 1, "both", 3) == b":3\r\n"
        (theirs,) = decode_all(wire.ask("FUNCTION", "DUMP"))
    again = Core()
    assert again("FUNCTION", "RESTORE", theirs) == b"OK" and again("FCALL", "deposit", 1, "ann", 3) == 3


@needs_redis
def test_replicas_have_functions_either_way(redis: RealRedis, tmp_path: Path) -> None:
    call = ("FCALL_RO", "balance", 1, "ann")
    with TitanStore(tmp_path / "store", "--appendfsync", "no") as store, Wire(store.port) as ours:
        with RealRedis(tmp_path / "copy", "--replicaof", "127.0.0.1", str(store.port)) as copy, Wire(copy.port) as wire:
            ours.ask("FUNCTION", "LOAD", LIBRARY)
            ours.ask("FCALL", "deposit", 1, "ann", 4)
            ours.ask("WAIT", 1, 20_000)
            assert wire.ask(*call) == b"$1\r\n4\r\n"
        with (
            RealRedis(tmp_path / "again", "--replicaof", "127.0.0.1", str(store.port)) as copy,
            Wire(copy.port) as wire,
        ):
            ours.ask("SET", "k", 1)
            ours.ask("WAIT", 1, 20_000)
            assert wire.ask(*call) == b"$1\r\n4\r\n", "the snapshot has them"
        with Wire(redis.port) as theirs:
            theirs.ask("FUNCTION", "LOAD", "REPLACE", LIBRARY)
            theirs.ask("SET", "account:ann", 9)
            ours.ask("REPLICAOF", "127.0.0.1", redis.port)
            theirs.ask("SET", "k", 1)
            while theirs.ask("WAIT", 1, 20_000) != b":1\r\n":
                pass
            assert ours.ask(*call) == b"$1\r\n9\r\n"


def _shown(value: object) -> object:
    if isinstance(value, CommandError):
        return value.text
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted((sorted((key, _shown(each)) for key, each in item.items()) for item in value), key=str)
    return value
