"""Scripts that want too much: memory, time; and what members of a group must not see differently."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.lua import running, sandbox, scripts
from titan_objects.store.lua.scripts import Scripts
from titan_objects.store.resp import CommandError, decode

pytest.importorskip("lupa")

GREEDY = [
    "local t = {} while true do t[#t + 1] = 'x' .. #t end",
    "local s = 'x' while true do s = s .. s end",
    "return #string.rep('x', 1e10)",
    "local ok = pcall(function() local s = 'x' while true do s = s .. s end end) return 1",
    "return xpcall(function() local s = 'x' while true do s = s .. s end end, function() return 1 end)",
    "coroutine.wrap(function() local t = {} while true do t[#t + 1] = {} end end)() return 1",
    "return coroutine.resume(coroutine.create(function() local t = {} while true do t[#t + 1] = {} end end))",
    "local t = {} while true do t[#t + 1] = redis.call('ECHO', ('x'):rep(1e5) .. #t) end",
    "local t = {} while true do t[#t + 1] = redis.pcall('LRANGE', 'l', 0, -1) end",
    "local t = {} while true do t[#t + 1] = cjson.decode('[[1, 2], {}]') end",
    "local t = {} while true do t[#t + 1] = redis.sha1hex(#t) end",
    "local function f(t) return f({t}) end return f({})",
    "local t = {} while true do t[#t + 1] = t for i = 1, 100 do t[{}] = i end end",
]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MEMORY_MAX", 5 << 20)
    monkeypatch.setattr(sandbox, "GARBAGE_MAX", 2 << 20)
    monkeypatch.setattr(scripts, "FIRST_BYTES", 1 << 20)


def agreeing(history: Iterable[str] = ()) -> Core:
    """A store as members of a group run it, after these scripts."""
    core = Core()
    core.engine.scripts = Scripts(core.engine, agreed=True)
    for script in history:
        core("EVAL", script, 0)
    core("FLUSHALL")
    return core


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("script", GREEDY)
@pytest.mark.parametrize("make", [Core, agreeing])
def test_a_script_whose_memory_ends_is_ended_and_nothing_else(make: type[Core], script: str) -> None:
    core = make()
    core("RPUSH", "l", *range(100))
    for _ in range(2):
        reply = core("EVAL", script, 0)
        assert isinstance(reply, CommandError) and "too much memory" in str(reply)
        assert core("EVAL", "return {#KEYS, redis.call('LLEN', 'l'), cjson.encode({1})}", 0) == [0, 100, b"[1]"]


@pytest.mark.usefixtures("little_memory")
def test_what_one_script_leaves_behind_is_not_the_next_ones_burden() -> None:
    core = Core()
    for _ in range(10):
        assert core("EVAL", "local t = {} for i = 1, 2e4 do t[i] = {} end return #t", 0) == 20_000


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "script",
    [
        "local t = {} while true do t[#t + 1] = 'x' .. #t redis.call('INCR', 'n') end",
        "local t = {} while true do t[#t + 1] = ('x' .. #t):rep(100) redis.call('INCR', 'n') end",
        "local t = {} for i = 1, 60 do t[i] = redis.call('ECHO', ('z'):rep(1000 * i)) redis.call('INCR', 'n') end",
        "redis.setresp(3) local t = {redis.call('HGETALL', 'h').map.f, redis.call('INCR', 'n')}"
        " redis.call('SELECT', 3) redis.call('INCR', 'n') for i = 1, 2e4 do t[#t + 1] = {} end"
        " t = {t[1], t[2], redis.call('INCR', 'n')} return t",
    ],
)
def test_members_end_a_script_at_the_same_place_whatever_they_ran_before(script: str) -> None:
    busy = ["local t = {} for i = 1, 5e4 do t[i] = 'x' .. i end return 1", "error('x')", GREEDY[0]]
    busy += [f"local x = {number} return x" for number in range(50)]
    seen = []
    for history in ([], busy, busy[::-1]):
        member = agreeing(history)
        member("HSET", "h", "f", "v")
        reply = member("EVAL", script, 0)
        seen.append((reply.text if isinstance(reply, CommandError) else reply, member("GET n"), member.effects()[-3:]))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1] is not None


@pytest.mark.parametrize(
    ("history", "script"),
    [
        (["table.insert(redis, 'leak')"], "return redis.call('SET', 'n', tostring(redis[1]))"),
        (["table.insert(_G, 'leak')"], "return redis.call('SET', 'n', tostring(pcall(function() return _G[1] end)))"),
        ([], "return redis.call('SET', 'n', tostring(setmetatable({}, {__metatable = {__tostring = true}})))"),
        (
            [],
            "local t, s = {1}, '' for i = 1, 20 do t[{}] = i end local k, v = next(t, 1)"
            " while k do s = s .. v .. ' ' k, v = next(t, k) end return redis.call('SET', 'n', s)",
        ),
        (
            [],
            "local t, s, walk = {}, '', pairs({}) for i = 1, 20 do t[{}] = i end"
            " for _, v in walk, t do s = s .. v .. ' ' end return redis.call('SET', 'n', s)",
        ),
        ([], "redis.setresp(3) local t = {} for i = 1, 20 do t[{i}] = true end return {set = t}"),
        ([], "redis.setresp(3) local t = {} for i = 1, 20 do t[{i}] = i end return {map = t}"),
        (
            ["for i = 1, 45000 do local s = 'abcdefghijklmnopqrstuvwxyz0123456789' .. i end"],
            "local w = setmetatable({}, {__mode = 'v'}) w[1] = {}"
            " for i = 1, 45000 do local s = 'abcdefghijklmnopqrstuvwxyz0123456789' .. i end"
            " return redis.call('SET', 'n', tostring(w[1] ~= nil))",
        ),
        (
            ["for i = 1, 20000 do local s = 'abcdefghijklmnopqrstuvwxyz0123456789' .. i end"],
            "for i = 1, 20000 do local s = 'abcdefghijklmnopqrstuvwxyz0123456789' .. i end"
            " local f, why = loadstring(('a=1 '):rep(65000))"
            " return redis.call('SET', 'n', tostring(f) .. tostring(why))",
        ),
    ],
)
def test_what_a_member_ran_before_and_where_its_tables_lie_shows_nowhere(history: list[str], script: str) -> None:
    busy = ["local t = {} for i = 1, 3e3 do t[i] = {i} end", *(f"local x = {{{at}}} return {{x}}" for at in range(37))]
    seen = []
    for before in ([], history + busy, busy + history + busy):
        member = agreeing(before)
        reply = member("EVAL", script, 0)
        seen.append((reply.text if isinstance(reply, CommandError) else reply, member("GET n")))
    assert seen[0] == seen[1] == seen[2]
    assert "leak" not in str(seen) and "0x" not in str(seen)


def test_a_weak_table_is_one_on_one_node_and_refused_in_a_group() -> None:
    script = "local t, w = {}, setmetatable({}, {__mode = 'k'}) w[t] = 1 return w[t]"
    assert Core()("EVAL", script, 0) == 1
    assert "weak tables" in str(agreeing()("EVAL", script, 0))


@pytest.mark.parametrize(
    "script",
    [
        "while true do (''):rep(2^31 - 1) end",
        "while true do table.insert({1}, -1e6, 1) end",
        "local t = {} for i = 1, 3e4 do t['k' .. i] = i end while true do table.maxn(t) end",
        "local s = ('a=1 '):rep(1e5) while true do loadstring(s) end",
        "local s = (' '):rep(1e6) while true do tonumber(s) end",
        "local s = ('x'):rep(1e6) while true do s:sub(2) end",
    ],
)
def test_what_c_does_counts(script: str) -> None:
    core = Core(lua_time_limit="20")
    assert "over its limit" in str(core("EVAL", script, 0))
    script = "return {table.maxn({1, 2, [9] = 1, x = 20}), ('ab'):rep(2), tonumber('7'), ('abc'):sub(2)}"
    assert core("EVAL", script, 0) == [9, b"abab", 7, b"bc"]


@pytest.mark.parametrize(
    "script",
    [
        "return xpcall(function() while true do end end, function() while true do end end)",
        "return xpcall(function() error('x') end, function() while true do end end)",
        "return {map = {[setmetatable({}, {__index = function() while true do end end})] = 1}}",
        "return {set = {[setmetatable({}, {__index = function() redis.call('SET', 'n', 1) end})] = 1}}",
        "local s = ('b'):rep(4e6) while true do struct.size(s) end",
        "local s = ('b'):rep(4e6) while true do redis.sha1hex(s) end",
    ],
)
def test_nothing_of_a_script_runs_without_its_limits(script: str) -> None:
    core = Core(lua_time_limit="20")
    reply = core("EVAL", script, 0)
    assert "over its limit" in str(reply) or "return {" in script
    assert core("EVAL", "return 7", 0) == 7 and core("GET n") is None


@needs_redis
@pytest.mark.parametrize(
    "script",
    [
        "return {xpcall(function() error('a') end, function(why) return why .. 'b' end)}",
        "return {xpcall(function() error({err = 'z'}) end, function(why) return type(why) end)}",
        "return {xpcall(function() return redis.call('NOSUCH') end, function(why) return type(why) end)}",
        "return {xpcall(function() error('a') end, function() error('b') end)}",
        "return {xpcall(function() return 1, 2 end, function() return 3 end)}",
        "return {pcall(xpcall, function() error('a') end, function(why) return why end)}",
    ],
)
def test_handlers_of_errors_are_called_as_in_redis(script: str, tmp_path: Path) -> None:
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        shown = "return cjson.encode" + script.removeprefix("return ")
        assert str(Core()("EVAL", shown, 0)) == str(decode(wire.ask("EVAL", shown, 0)))


@pytest.mark.parametrize("at", [0.0495, 0.0497, 0.0498, 0.0499, 0.04995])
def test_a_script_whose_memory_ends_as_its_time_does_leaves_no_limit_behind(at: float) -> None:
    core = Core(lua_time_limit="50")
    core.engine.scripts = Scripts(core.engine, agreed=True)
    script = f"local s = ('x'):rep(1e6) while os.clock() < {at} do end while true do cmsgpack.pack(s) end"
    assert "over its limit" in str(core("EVAL", script, 0))
    assert core("EVAL", "return #ARGV[1]", 0, b"z" * (5 << 20)) == 5 << 20


def test_commands_are_executed_once_though_a_script_runs_anew() -> None:
    member = agreeing()
    script = (
        "for i = 1, 3 do redis.call('RPUSH', 'l', i) end local s = ('x'):rep(%s) redis.call('RPUSH', 'l', 4) return #s"
    )
    assert member("EVAL", script % 10, 0) == 10
    assert member("EVAL", script % "3e6", 0) == 3_000_000
    assert member("LRANGE l 0 -1") == [b"1", b"2", b"3", b"4"] * 2


def test_large_replies_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "KEPT_BYTES_MAX", 1000)
    member = agreeing()
    member("SET", "k", "v" * 100)
    script = "for i = 1, 100 do redis.call('INCR', 'n') redis.call('GET', 'k') end return redis.call('GET', 'n')"
    assert member("EVAL", script, 0) == b"100"


@pytest.mark.parametrize(
    "use", ["for k in pairs(t) do end", "next(t)", "for k in next, t do end", "table.foreach(t, type)"]
)
@pytest.mark.parametrize("key", ["{}", "type", "coroutine.create(type)", "cjson.null"])
def test_members_do_not_walk_in_the_order_of_addresses(use: str, key: str) -> None:
    member = agreeing()
    reply = member("EVAL", f"local t = {{a = 1, [{key}] = 2}} {use}", 0)
    assert isinstance(reply, CommandError) and "not the same on all members" in str(reply)
    walk = "local n = 0 for k, v in pairs({1, 2, x = 3, [true] = 4, [0.5] = 5}) do n = n + v end return {n, next({})}"
    assert member("EVAL", walk, 0) == [15]
    assert member("EVAL", f"local t = {{}} t[{key}] = 1 return t[{key}] or 2", 0) in (1, 2), "as a key it is fine"
    assert Core()("EVAL", f"local t = {{a = 1, [{key}] = 2}} {use} return 1", 0) == 1, "one store alone may"


def test_a_library_of_a_group_begins_anew_with_each_call() -> None:
    source = "#!lua name=l\nlocal n = 0\nredis.register_function('f', function() n = n + 1 return n end)"
    alone, member = Core(), agreeing()
    for core in (alone, member):
        core("FUNCTION", "LOAD", source)
    assert [alone("FCALL f 0") for _ in range(3)] == [1, 2, 3]
    assert [member("FCALL f 0") for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("work", "instructions"),
    [
        ("", 350),
        ("local s = ('x'):rep(1e6)", 60_000),
        ("local s = text:upper()", 30_000),
        ("local s = text:find('nothing', 1, true)", 30_000),
        ("table.sort(list)", 6_000),
        ("table.concat(list)", 1_000),
        ("table.insert(list, 1, 1)", 1_000),
        ("table.remove(list, 1) list[#list + 1] = 1", 1_000),
        ("cjson.encode(list)", 4_000),
        ("cjson.decode(numbers)", 4_000),
        ("coroutine.wrap(function() for i = 1, 1000 do end end)()", 1_000),
        ("redis.call('SUNION', 'set')", 5_000),
        ("redis.call('SORT', 'set', 'LIMIT', 0, 1)", 5_000),
        ("redis.call('GETRANGE', 'text', 0, -1)", 30_000),
        ("redis.call('KEYS', 'x')", 1_000),
        ("redis.call('DEL', unpack(list))", 40_000),
        ("redis.call('LRANGE', 'list', 0, -1)", 50_000),
        ("redis.call('ZUNIONSTORE', 'zset2', 2, 'zset', 'zset')", 80_000),
        ("redis.call('GEOSEARCH', 'zset', 'FROMLONLAT', 0, 0, 'BYRADIUS', 1, 'm')", 300_000),
        ("redis.call('PFCOUNT', 'hll', 'hll')", 100_000),
        ("redis.call('SETBIT', 'bits', 8e6, 1) redis.call('DEL', 'bits')", 60_000),
        ("redis.call('SSCAN', 'set', 0, 'COUNT', 1000, 'MATCH', 'x')", 20_000),
        ("redis.call('MEMORY', 'USAGE', 'set', 'SAMPLES', 0)", 5_000),
        ("redis.call('RESTORE', 'copy', 0, redis.call('DUMP', 'list'), 'REPLACE')", 40_000),
        ("redis.call('COMMAND')", 100_000),
        ("cjson.decode('[+1' .. (',1'):rep(1000) .. ']')", 200_000),
        ("cjson.encode(('\\n'):rep(10000))", 100_000),
        ("bit.band(unpack(list))", 20_000),
        ("local a, b = unpack(list)", 990),
    ],
)
def test_what_is_slow_counts_however_few_instructions_it_has(work: str, instructions: int) -> None:
    core = Core(lua_time_limit="4")
    core("SET", "text", "x" * 500_000)
    core("SADD", "set", *range(1000))
    core("RPUSH", "list", *range(1000))
    core("ZADD", "zset", *(word for number in range(1000) for word in (number, number)))
    core("PFADD", "hll", *range(1000))
    for number in range(200):
        core("SET", f"key:{number}", 1)
    setup = "local text, list = redis.call('GET', 'text'), {} for i = 1, 1000 do list[i] = i % 7 end"
    setup += " local numbers = '[' .. ('1,'):rep(5e4) .. '1]'"
    reply = core("EVAL", f"{setup} redis.call('SET', 'n', 0) while true do {work} redis.call('INCR', 'n') end", 0)
    assert isinstance(reply, CommandError) and "over its limit" in str(reply)
    times = core("GET n")
    assert isinstance(times, bytes) and int(times) <= 4 * sandbox.PER_MS // instructions
