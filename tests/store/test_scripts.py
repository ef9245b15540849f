"""Lua scripts: what they may do, what they may not, and how they end."""

import shlex
from pathlib import Path

import pytest

from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store import resp
from titan_objects.store.lua import scripts as lua_scripts
from titan_objects.store.resp import CommandError, decode_all

pytest.importorskip("lupa")

RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


def error(reply: object) -> str:
    assert isinstance(reply, CommandError), reply
    return reply.text.decode()


@pytest.mark.parametrize(
    ("script", "reply"),
    [
        ("return 1", 1),
        ("return 3.99", 3),
        ("return 'x'", b"x"),
        ("return true", 1),
        ("return false", None),
        ("return {1, 'a', {2}, nil, 5}", [1, b"a", [2]]),
        ("return {ok='FINE'}", b"FINE"),
        ("return {KEYS[1], ARGV[1], ARGV[2]}", [b"k", b"a", b"\xff\x00"]),
        ("return redis.call('SET', KEYS[1], 1)", b"OK"),
        ("return redis.call('SET', KEYS[1], 1)['ok']", b"OK"),
        ("redis.call('RPUSH', 'l', 1, 2) return redis.call('LRANGE', 'l', 0, -1)", [b"1", b"2"]),
        ("return redis.call('GET', 'none') == false and 1 or 0", 1),
        ("local r = redis.pcall('INCR', 'l', 1) return r.err ~= nil and 'caught'", b"caught"),
        ("local ok = pcall(redis.call, 'NOSUCH') return ok and 1 or 0", 0),
        ("return cjson.encode({a={1,2},b='x'})", b'{"a":[1,2],"b":"x"}'),
        ('return cjson.decode(\'{"a": [1, "x"]}\').a[2]', b"x"),
        ("return cmsgpack.unpack(cmsgpack.pack({1, 'x'}))[2]", b"x"),
        ("return bit.band(12, 10) + bit.lshift(1, 4)", 24),
        ("return type(os.time) .. type(redis.nothing)", b"nilnil"),
        ("return redis.sha1hex('') .. redis.REDIS_VERSION", b"da39a3ee5e6b4b0d3255bfef95601890afd807097.0.15"),
        ("local ok, why = pcall(redis.call, 'NOSUCH') return why", b"ERR Unknown Redis command called from script"),
        ("return {pcall(function() return 1, nil, 'x' end)}", [1, 1]),
        ("return {select('#', pcall(function() return 1, nil, nil end))}", [4]),
        ("return {select(2, pcall(error, {1}))}", [[1]]),
        ("local t = {} for i = 1, 3 do t[#t + 1] = tostring(i) end return table.concat(t, ',')", b"1,2,3"),
        ("return coroutine.wrap(function() coroutine.yield(7) end)()", 7),
        ("return {_G, string, {redis}}", [[], [], [[]]]),
    ],
)
def test_a_script_answers(script: str, reply: object) -> None:
    core = Core()
    found = core("EVAL", script, 1, "k", "a", b"\xff\x00")
    assert found == reply


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("return", ""),
        ("local t = {} t[1] = t return t", "nested 64 deep"),
        ("return cjson.decode('{')", "Expected object key string but found T_END at character 2"),
        ("local ok, why = pcall(cjson.decode, '{') error(why .. type(why))", "T_END at character 2string"),
        ("return bit.band({})", "bad argument #1 to 'band' (number expected, got table)"),
        ("this is not lua", "Error compiling script"),
        ("return redis.call('NOSUCH')", "Unknown Redis command"),
        ("return redis.call('SUBSCRIBE', 'c')", "not allowed from script"),
        ("return redis.call()", "at least one argument"),
        ("return redis.call('SET', 'k', {})", "must be strings or integers"),
        ("return redis.error_reply('MY fault')", "MY fault"),
        ("return redis.error_reply('-fault')", "ERR fault"),
        ("return redis.error_reply({})", "wrong number or type"),
        ("return redis.status_reply()", "wrong number or type"),
        ("return redis.sha1hex()", "wrong number"),
        ("return redis.sha1hex({})", "must be strings or integers"),
        ("return misspelt", "user_script:1: Script attempted to access nonexistent global variable 'misspelt'"),
        ("return io", "nonexistent global variable 'io'"),
        ("return python", "nonexistent global variable 'python'"),
        ("return debug", "nonexistent global variable 'debug'"),
        ("error('oops')", "oops"),
        ("x = 1", "global variable 'x'"),
        ("return redis.call('SET', 'k')", "Wrong number"),
        ("local s = 'x' while true do s = s .. s end", "ERR"),
    ],
)
def test_a_script_that_fails_says_why(script: str, says: str) -> None:
    core = Core()
    reply = core("EVAL", script, 0)
    assert reply is None if not says else says in error(reply)
    assert core("EVAL", "return 1", 0) == 1


@pytest.mark.parametrize(
    "table",
    ["for i = 1, 99 do t[i] = 1 end t[100] = t", "for i = 1, 40 do t = {t, t} end", "for i = 1, 2000 do t[i] = i end"],
)
@pytest.mark.parametrize("use", ["return t", "return cjson.encode(t)", "return cmsgpack.pack(t)"])
def test_what_a_script_gives_is_bounded_however_its_tables_are_nested(
    table: str, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lua_scripts, "ITEMS_MAX", 1000)
    core = Core()
    assert "more than 1000 elements" in error(core("EVAL", f"local t = {{}} {table} {use}", 0))
    assert core("EVAL", "return {1, cjson.encode({2})}", 0) == [1, b"[2]"]


@pytest.mark.parametrize(
    "command",
    [
        "MGET k k k",
        "HMGET h f f f",
        "SRANDMEMBER s -3",
        "HRANDFIELD h -3 WITHVALUES",
        "ZRANDMEMBER z -3",
        "SORT l BY none GET # GET # GET #",
        "EVAL return{ARGV[1],ARGV[1],ARGV[1]} 0 " + "v" * 400,
    ],
)
def test_a_reply_is_bounded_that_names_a_value_many_times(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resp, "REPLY_BYTES_MAX", 1000)
    core, value = Core(), "v" * 400
    core("SET", "k", value)
    core("HSET", "h", "f", value)
    core("SADD", "s", value)
    core("ZADD", "z", 1, value)
    core("RPUSH", "l", value)
    assert "more than 1000 bytes" in error(core(command))
    core("MULTI")
    for _ in range(4):
        core("GET", "k")
    core("SET", "k", "new")
    replies = core("EXEC")
    assert isinstance(replies, list) and replies[:2] == [value.encode()] * 2
    assert "more than 1000 bytes" in error(replies[2])
    assert core("GET", "k") == b"new"


@pytest.mark.parametrize(
    "script",
    [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "local function f() return f() end return f()",
    ],
)
def test_a_loop_without_an_end_is_ended(script: str) -> None:
    core = Core(lua_time_limit="5")
    assert "over its limit" in error(core("EVAL", script, 0))
    assert core("EVAL", "return 1", 0) == 1, "others run as before"


@pytest.mark.parametrize("way", ["return {%s}", "return %s", "error(%s)"])
@pytest.mark.parametrize("word", ["__index", "__tostring", "__len"])
def test_nothing_runs_when_a_script_has_ended(way: str, word: str) -> None:
    core = Core(lua_time_limit="5")
    trap = f"setmetatable({{}}, {{{word} = function() while true do end end, __metatable = 1}})"
    core("EVAL", way % trap, 0)
    assert core("EVAL", "return 1", 0) == 1


@pytest.mark.parametrize(
    "script",
    [
        "redis.call = function() return 'mine' end",
        "string.rep = nil",
        "_G.leak = 1",
        "_G._G.leak = 1",
        "rawset(_G, 'leak', 1)",
        "rawset(string, 'rep', false)",
        "setmetatable(_G, nil)",
        "getmetatable(_G).__newindex = nil",
        "getmetatable('').__index = nil",
        "loadstring('leak = 1')()",
        "coroutine.wrap(loadstring('leak = 1'))()",
        "loadstring(string.dump(function() end))()",
    ],
)
def test_no_script_changes_what_others_see(script: str) -> None:
    core = Core()
    assert error(core("EVAL", script, 0))
    core("EVAL", "return {string, redis, _G}", 0)
    after = "return {('x'):rep(2), redis.call('PING'), redis.call('EXISTS', 'k'), leak}"
    assert "nonexistent global variable 'leak'" in error(core("EVAL", after, 0))
    assert core("EVAL", after.replace("leak", "1"), 0) == [b"xx", b"PONG", 0, 1]


def test_what_a_script_wrote_is_a_transaction_of_the_log() -> None:
    core = Core()
    core("EVAL", "redis.call('SET', 'a', 1, 'EX', 5) redis.call('SADD', 's', 'x') return redis.call('SPOP', 's')", 0)
    assert core.effects() == ["MULTI", "SET a 1 PXAT 4000000005000", "SADD s x", "DEL s", "EXEC"]
    core("EVAL", "return redis.call('GET', 'a')", 0)
    assert core.effects() == []


def test_scripts_are_found_by_their_hash() -> None:
    core = Core()
    digest = core("SCRIPT", "LOAD", RELEASE)
    core("SET lock me")
    assert core("EVALSHA", digest, 1, "lock", "you") == 0
    assert core("EVALSHA", digest, 1, "lock", "me") == 1
    assert core("SCRIPT", "EXISTS", digest, "x") == [1, 0]
    core("SCRIPT FLUSH")
    assert error(core("EVALSHA", digest, 0)).startswith("NOSCRIPT")


def test_a_read_only_script_writes_nothing() -> None:
    core = Core()
    assert "read-only" in error(core("EVAL_RO", "return redis.call('SET', 'k', 1)", 0))


DECLARED = """
EVAL "#!lua flags=no-writes;return 2" 0 | EVAL "#!lua flags=no-writes,allow-oom;return 2" 0 | EVAL "#!lua;return 1" 0
EVAL "#!lua flags=x;return 1" 0 | EVAL "#!js;return 1" 0 | EVAL "#!lua return 1" 0 | EVAL "#!lua name=x;return 1" 0
EVAL_RO "#!lua;return 1" 0 | EVAL_RO "#!lua flags=no-writes;return 1" 0 | EVAL_RO "return 1" 0
EVAL "#!lua flags=;return 3" 0
SCRIPT LOAD "#!lua flags=x;return 1" | EVAL "#!" 0 | EVAL "#!;return 1" 0
"""


@needs_redis
def test_what_scripts_say_of_themselves_counts_as_in_redis(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for line in DECLARED.strip().replace("|", "\n").splitlines():
            args = [word.replace(";", "\n") for word in shlex.split(line)]
            ours, (theirs,) = core(*args), decode_all(wire.ask(*args))
            assert getattr(ours, "text", ours) == getattr(theirs, "text", theirs), args
    assert "read-only" in error(core("EVAL", "#!lua flags=no-writes\nreturn redis.call('SET', 'k', 1)", 0))


def test_a_script_that_selects_leaves_the_client_where_it_was() -> None:
    core = Core()
    core("EVAL", "redis.call('SELECT', 3) redis.call('SET', 'k', 1)", 0)
    assert core("GET k") is None
    core("SELECT 3")
    assert core("GET k") == b"1"


def test_what_a_script_pushes_serves_those_that_wait() -> None:
    core = Core()
    client = core.connect()
    client("BLPOP k 0")
    core("EVAL", "redis.call('RPUSH', 'k', 'a') return redis.call('LLEN', 'k')", 0)
    assert client.heard() == [[b"k", b"a"]]


REPLIES = """
HGETALL h | ZRANGE z 0 -1 WITHSCORES | ZSCORE z a | GET none | SMEMBERS s | LRANGE none 0 -1 | CONFIG GET maxmemory
"""
RETURNED = """
return true | return false | return nil | return {double=3.5} | return {1,false,'x'} | return type
redis.setresp(3) return true | redis.setresp(3) return false | redis.setresp(3) return {false,true}
redis.setresp(3) return redis.call('HGETALL','h').map.f | redis.setresp(3) return redis.call('ZSCORE','z','a').double
redis.setresp(3) return type(redis.call('GET','none')) | redis.setresp(3) return redis.call('SMEMBERS','s').set.x
return {map={f='v'}} | return {set={x=true}} | return {double='x'} | return {err={}} | return {map=1}
redis.setresp(3) redis.setresp(2) return redis.call('ZSCORE','z','a')
return {big_number='12345678901234567890'} | return {big_number='1'..string.char(13,10)..'2'}
return {big_number=5} | return {1,{big_number='7'}}
return {verbatim_string={format='txt',string='a'}} | return {verbatim_string={format='mkd',string=''}}
return {verbatim_string={string='a'}} | return {verbatim_string='a'} | return {big_number='1',ok='x'}
"""


@needs_redis
@pytest.mark.parametrize("version", [2, 3])
def test_a_script_finds_the_replies_that_it_asks_for_whatever_its_client_speaks(tmp_path: Path, version: int) -> None:
    core = Core()
    scripts = [each.strip() for each in RETURNED.strip().replace("|", "\n").splitlines()]
    for command in REPLIES.strip().split("|"):
        words = ",".join(f"'{word}'" for word in command.split())
        scripts += [f"return redis.call({words})", f"redis.setresp(3) return redis.call({words})"]
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for setup in (f"HELLO {version}", "HSET h f v", "ZADD z 1.5 a", "SADD s x"):
            wire.ask(*setup.split())
            core(setup)
        for script in scripts:
            theirs = wire.ask("EVAL", script, 0)
            core.engine.run(core.client.session, [[b"EVAL", script.encode(), b"0"]], core.now)
            ours = b"".join(core.client.session.out)
            core.client.session.out.clear()
            assert ours == theirs or ours[:1] == theirs[:1] == b"-", script
    assert "must be 2 or 3" in error(core("EVAL", "redis.setresp(4)", 0))


LIBRARIES = r"""
struct.pack('bBhHlLiITfd',1,2,3,4,5,6,7,8,9,1.5,2.5)
struct.pack('>bBhHlLiITfd',1,2,3,4,5,6,7,8,9,1.5,2.5)
struct.pack('!i4bi4',1,2,3) .. struct.pack('!8bd',1,2) .. struct.pack('!bl',1,2)
struct.pack('i3i8I8BBb',-2,-2,2^53,-1,300,1.9)
struct.pack('c3scBc0xBx','abcd','ab','abcd',3,'abc',3)
struct.pack('>H<H B',1,1,'7') | struct.pack('i0',1) | struct.pack('i33',1) | struct.pack('c5','abcd') | struct.pack('B')
{struct.unpack('dLc0',struct.pack('dLc0',2,3,'abc'))}
{struct.unpack('Lc0Lc0',struct.pack('Lc0Lc0',1,'a',2,'bb'))}
{struct.unpack('bBhHs',struct.pack('bBhHs',-1,255,-2,65535,'x'))}
{struct.unpack('>i3','\255\255\254')} | struct.unpack('f',struct.pack('f',1.5))*2
{struct.unpack('i8',('\255'):rep(8))}
{struct.unpack('B','abc',2)} | {struct.unpack('B','abc',4)} | {struct.unpack('B','abc',0)} | {struct.unpack('I4','abc')}
{struct.unpack('s','abc')} | {struct.unpack('c0','abc')} | {struct.unpack('c2','abc')} | {struct.unpack('x','abc')}
struct.size('!bi4') | struct.size('bi4hldTfxc5') | struct.size('s') | struct.size('c0') | struct.size('!3i')
cmsgpack.pack(127,128,255,256,65535,65536,2^32,2^53,1e19,-1,-32,-33,-128,-129,-32768,-32769,-2^31,-2^40,1.5,0.1,1e300)
cmsgpack.pack('a',('a'):rep(31),('a'):rep(32),('a'):rep(256),'\255\254',true,false,nil,cjson.null) | cmsgpack.pack()
cmsgpack.pack({},{1,'a'},{x=1},{[5]=true},{[1.5]='a'},{[2]='a'},{{{}}}) | cmsgpack.pack(('a'):rep(65536)) == nil
{cmsgpack.unpack('\1\2\146\1\2')} | {cmsgpack.unpack('')} | cmsgpack.unpack('\163a') | cmsgpack.unpack('\193')
cmsgpack.unpack(cmsgpack.pack({[5]='x'}))[5] | cmsgpack.unpack(cmsgpack.pack({{a=1},{b='\255'}}))[2].b
{cmsgpack.unpack(cmsgpack.pack(127,65536,2^53,-33,-2^40,true,'x'))} | cmsgpack.unpack(cmsgpack.pack(0.5))*4
{cmsgpack.unpack_one(cmsgpack.pack(1,2,3))} | {cmsgpack.unpack_one(cmsgpack.pack(1,2,3),1)}
{cmsgpack.unpack_limit(cmsgpack.pack(1,2,3),2)} | {cmsgpack.unpack_limit(cmsgpack.pack(1,2,3),2,1)}
cjson.encode({1,nil,3}) | cjson.encode({[2]=1}) | cjson.encode({[4]=1}) | cjson.encode({[20]=1}) | cjson.encode({[0]=1})
cjson.encode({[1.5]=1,[-1]=2}):len() | cjson.encode({[true]=1}) | cjson.encode({}) | cjson.encode({{},{a=cjson.null}})
cjson.encode(cjson.decode('[1,null,{"a":null}]')) | cjson.decode('[null]')[1] == cjson.null | type(cjson.null)
{cjson.null,1} | cjson.encode(0/0) | cjson.encode(nil) | cjson.encode(1.5) | cjson.encode(type) | cjson.decode('1') + 1
cjson.decode('12345678901234567890') == 12345678901234567890
cjson.encode({1/3,1e15,2^53,1e14,0.1,-0.5e-7,5e-324,1e300,123456789012345678})
cjson.encode({[1e15]=1,[0.1]=2,[1/3]=3})
cjson.encode('\0\1\8\9\10\11\12\13\31 "\\/\127\128\255') | cjson.encode({['a/b']=1}) | cjson.encode({[2^31]=1,[2^40]=2})
cjson.encode({[2^40]=1,[3]=2}) | cjson.encode({1,2,[10]=3}) | cjson.encode({a={1,{b=2}},[1]=2}) | cjson.encode({{},{}})
cjson.encode(cjson.decode('{"a":1,"b":2,"a":3,"c":[],"d":{},"e":null}')) | cjson.decode('10\0 x') | cjson.decode(5)
cjson.decode('"\1\n\127\\b\\f\\n\\r\\t\\/\\\\\\"\\u0000"') | cjson.decode('"\\ud83d\\ude00\\u20ac\\u00C9\255"')
cjson.decode('+5') | cjson.decode('0x.8p3') | cjson.decode('-0x10') | cjson.decode('01') | cjson.decode('-.5')*2
cjson.decode('1.e2') | tostring(cjson.decode('[nan]')[1]) | tostring(cjson.decode('-iNfinity'))
tostring(cjson.decode('NaN'))
tostring(cjson.decode('nan(ab_1)')) | tostring(cjson.decode('0x1p20000')) | tostring(cjson.decode('-0'))
#cjson.encode(cjson.decode(('['):rep(1000)..(']'):rep(1000))) | cjson.encode(cjson.decode('[[],{},[[]]]'))
(function() local t = {} for i = 1, 20 do t = {t} end return cmsgpack.pack(t) end)()
(function() local t = {} for i = 1, 15 do t = {x=t} end return cmsgpack.pack(t) end)()
cmsgpack.pack({[true]=1}) | cmsgpack.pack(type,{type}) | cmsgpack.pack(1/0,-1/0,2^63,-2^63,2^64,3.4028234663852886e38)
tostring(cmsgpack.unpack('\207\255\255\255\255\255\255\255\255')) | cmsgpack.unpack('\130\1\2\195\3')[true]
#cmsgpack.unpack('\147\1\192\2') | #cmsgpack.unpack('\149\1\2\3\192\5') | cmsgpack.unpack('\130\161a\1\161a\192').a
{cmsgpack.unpack_limit('\1\2\3',0)} | {cmsgpack.unpack_limit('\1\2\3',0,1)} | {cmsgpack.unpack_one('')}
cmsgpack.unpack(5)
type(cmsgpack.unpack(('\145'):rep(3999)..'\1')) | type(next(cmsgpack.unpack('\129\144\1')))
struct.pack('!i3',1) | struct.pack('b!i3b!8i5',1,2,3,4) | struct.pack('I',' 0x10 ') | struct.pack('B\0z',7)
struct.pack('llllll',2^63,2^64,-2^63,-2^64,1/0,1e300) | struct.pack('ff',1e300,-1e300) | struct.pack('s',1/3)
{struct.unpack('>i9','\1\2\3\4\5\6\7\8\9')} | {struct.unpack('<I9','\1\2\3\4\5\6\7\8\9')}
{struct.unpack('c1c0','2abc')}
{struct.unpack('dc0',struct.pack('d',1e300)..'abc')} | {struct.unpack('','a',-1)} | struct.size('z')
struct.size('bi3!i3')
bit.tobit(2^51+1) | bit.tobit(-2^53+1) | bit.tobit(1e300) | bit.tobit(0/0) | bit.tohex(-1,-99) | bit.band('1\0x')
bit.rol(1,33) | bit.ror(1,1) | bit.bswap(1) | bit.tohex(255,4) | bit.tohex(255,-4) | bit.tohex(-1)
bit.bnot(0) | bit.band()
bit.tobit(2^40+5) | bit.tobit(1.5) | bit.tobit(2.5) | bit.tobit(-1.5) | bit.arshift(-8,1) | bit.band('12',10)
"""


@needs_redis
def test_the_libraries_of_scripts_are_those_of_redis(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for value in LIBRARIES.strip().replace(" | ", "\n").splitlines():
            script = f"return {value}"
            ours, (theirs,) = core("EVAL", script, 0), decode_all(wire.ask("EVAL", script, 0))
            assert ours == theirs or (isinstance(ours, CommandError) and isinstance(theirs, CommandError)), script


@pytest.mark.parametrize(
    "script",
    [
        "return cmsgpack.unpack(('\\1'):rep(9000))",
        "return struct.unpack(('b'):rep(9000), ('b'):rep(9000))",
        "return cmsgpack.unpack('\\221\\221\\221')",
        "return cmsgpack.unpack(('\\145'):rep(4000) .. '\\1')",
        "return cjson.decode(('['):rep(1001) .. (']'):rep(1001))",
        "local t = {} for i = 1, 1000 do t = {t} end return cjson.encode(t)",
        "cjson.null.x = 1",
    ],
)
def test_what_libraries_take_apart_is_bounded(script: str) -> None:
    core = Core()
    assert isinstance(core("EVAL", script, 0), CommandError)
    assert core("EVAL", "return 1", 0) == 1


def test_a_script_sees_nothing_that_differs_between_members() -> None:
    script = "return {math.random(1000000), math.random(1000000), tostring({}), tostring(next), os.clock() < 1}"
    ones = [Core(seed=1)("EVAL", script, 0), Core(seed=2)("EVAL", script, 0)]
    again = Core()
    again("EVAL", "math.randomseed(7) return math.random(9)", 0)
    ones.append(again("EVAL", script, 0))
    assert ones[0] == ones[1] == ones[2]
    assert isinstance(ones[0], list)
    assert ones[0][0] != ones[0][1]
    assert ones[0][2:] == [b"table", b"function", 1]


def test_chance_in_scripts_stays_in_its_bounds() -> None:
    script = "local t = {} for i = 1, 1000 do t[i] = math.random(3, 5) end table.sort(t) return {t[1], t[1000]}"
    assert Core()("EVAL", script, 0) == [3, 5]
    assert "interval is empty" in error(Core()("EVAL", "return math.random(5, 3)", 0))
