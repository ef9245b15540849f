"""ACL: what a user may not do is refused, whichever way it is asked."""

import asyncio
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

import titan_overlay as titan
from tests.store.core import Client, Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.config import Config
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError, decode_all
from titan_objects.store.server import Server
from titan_overlay.identity.contacts import IPV4
from titan_overlay.overlay.udp import outgoing_ip


def error(reply: object) -> str:
    assert isinstance(reply, CommandError), reply
    return reply.text.decode()


def user(core: Core, *rules: str) -> Client:
    assert core("ACL", "SETUSER", "ann", "on", ">pw", *rules) == b"OK"
    client = core.connect()
    assert client("AUTH ann pw") == b"OK"
    return client


def test_commands_keys_and_channels() -> None:
    core = Core()
    ann = user(core, "+@read", "+set", "+config|get", "+publish", "~app:*", "%R~shared", "&news")
    assert ann("SET app:x 1") == b"OK" and ann("GET app:x") == b"1"
    assert "run the 'del' command" in error(ann("DEL app:x"))
    assert "one of the keys" in error(ann("SET other 1"))
    assert ann("GET shared") is None
    assert "one of the keys" in error(ann("SET shared 1"))
    assert ann("PUBLISH news x") == 0
    assert "one of the channels" in error(ann("PUBLISH other x"))
    assert isinstance(ann("CONFIG GET port"), list)
    assert "config|set" in error(ann("CONFIG SET maxmemory 1"))


def test_what_is_queued_and_what_a_script_calls_is_checked_too() -> None:
    core = Core()
    ann = user(core, "+@all", "-flushall", "~*")
    ann("MULTI")
    assert "NOPERM" in error(ann("FLUSHALL"))
    assert error(ann("EXEC")).startswith("EXECABORT")
    assert "can't run this command" in error(ann("EVAL", "return redis.call('FLUSHALL')", 0))


def test_a_script_may_ask_what_its_user_may_do() -> None:
    core = Core()
    ann = user(core, "+@all", "-flushall", "~a*")
    for asked, answer in (("'flushall'", b"false"), ("'get','a1'", b"true"), ("'get','b'", b"false")):
        assert ann("EVAL", f"return tostring(redis.acl_check_cmd({asked}))", 0) == answer
    assert "Invalid command" in error(ann("EVAL", "return redis.acl_check_cmd('nosuch')", 0))


def test_a_change_counts_at_once_and_a_deleted_user_is_gone() -> None:
    core = Core()
    ann = user(core, "+@all", "~*")
    assert ann("PING") == b"PONG"
    core("ACL SETUSER ann -ping")
    assert "NOPERM" in error(ann("PING"))
    assert core("ACL DELUSER ann") == 1
    assert error(ann("GET k")).startswith("NOAUTH")
    assert error(core.connect()("AUTH ann pw")).startswith("WRONGPASS")


def test_what_was_queued_is_checked_again_when_it_is_executed() -> None:
    core = Core()
    ann = user(core, "+@all", "~*")
    for each in ("MULTI", "SET k v", "GET k"):
        ann(each)
    core("ACL SETUSER ann -set")
    replies = ann("EXEC")
    assert isinstance(replies, list) and "ACLs rules changed" in error(replies[0]) and replies[1] is None
    assert core.engine.acl.log.entries[0].context == "multi"


@pytest.mark.parametrize("listens", ["SUBSCRIBE news", "PSUBSCRIBE n*", "SSUBSCRIBE news"])
def test_whoever_listens_to_what_it_may_not_hear_any_more_is_let_go(listens: str) -> None:
    core = Core()
    ann = user(core, "+@all", "&*")
    ann(listens)
    core("ACL SETUSER ann resetchannels &news &n*")
    assert not ann.session.closing
    core("ACL SETUSER ann resetchannels &other")
    assert ann.session.closing and ann.session.killed


@pytest.mark.parametrize("rule", ["+nosuch", "-@nosuch", "nonsense", "#123", "<never", "%Q~x", ""])
def test_a_rule_that_is_wrong_changes_nothing(rule: str) -> None:
    core = Core()
    user(core, "+get", "~a")
    before = core("ACL LIST")
    assert "Error in ACL SETUSER" in error(core("ACL", "SETUSER", "ann", "+set", rule))
    assert core("ACL LIST") == before


def test_what_is_shown() -> None:
    core = Core()
    user(core, "+@read", "-get", "~a*", "&c")
    listed = core("ACL LIST")
    assert isinstance(listed, list) and listed[1] == b"user default on nopass ~* &* +@all"
    assert listed[0].startswith(b"user ann on #") and listed[0].endswith(b"~a* resetchannels &c -@all +@read -get")
    assert core("ACL DRYRUN default GET k") == b"OK"
    assert b"no permissions" in core("ACL DRYRUN ann GET k")  # type: ignore[operator]
    assert core("ACL USERS") == [b"ann", b"default"]
    assert core("ACL WHOAMI") == b"default"
    secret = core("ACL GENPASS 64")
    assert isinstance(secret, bytes) and len(secret) == 16


DENIED = """
GET other | GET other | SET app:x 1 | DEL app:x | CONFIG SET maxmemory 1 | PUBLISH other x | MULTI | GET other | DISCARD
EVAL return(redis.pcall('DEL','app:x').err) 0 | AUTH ann wrong | auth nobody pw | HELLO 2 AUTH ann wrong | GET other
"""


@needs_redis
def test_what_was_refused_is_remembered_as_redis_does(tmp_path: Path) -> None:
    core = Core()
    rules = ("+@read", "+set", "+eval", "+multi", "+discard", "+hello", "+publish", "~app:*", "resetchannels", "&news")
    with RealRedis(tmp_path) as redis, Wire(redis.port) as admin, Wire(redis.port) as guest:
        admin.ask("ACL", "SETUSER", "ann", "on", ">pw", *rules)
        guest.ask("AUTH", "ann", "pw")
        ann = user(core, *rules)
        for line in DENIED.strip().replace("|", "\n").splitlines():
            ann(line.strip())
            guest.ask(*line.split())
        theirs = decode_all(admin.ask("ACL", "LOG"))[0]
        assert isinstance(theirs, list)
        ours = core("ACL LOG")
        assert isinstance(ours, list)
        assert [entry[:10] for entry in ours] == [entry[:10] for entry in theirs]
        assert len(ours) == 9 and ours[0][:2] == [b"count", 3]


@needs_redis
def test_what_scripts_and_transactions_may_not_is_told_as_in_redis(tmp_path: Path) -> None:
    core = Core()
    rules = ("+@all", "-flushall", "~app:*", "resetchannels", "&news")
    with RealRedis(tmp_path) as redis, Wire(redis.port) as admin, Wire(redis.port) as guest:
        admin.ask("ACL", "SETUSER", "ann", "on", ">pw", *rules)
        guest.ask("AUTH", "ann", "pw")
        ann = user(core, *rules)

        def compare(*call: str) -> object:
            ours, theirs = ann(*call), decode_all(guest.ask(*call))[0]
            assert repr(ours) == repr(theirs), call
            return ours

        for words in ("'FLUSHALL'", "'GET', 'k'", "'PUBLISH', 'other', 'x'"):
            assert "The user executing the script" in error(compare("EVAL", f"return redis.call({words})", "0"))
        for call, rule in (("GET app:k", "-get"), ("SET app:k 1", "resetkeys"), ("PUBLISH news x", "resetchannels")):
            compare("MULTI")
            compare(*call.split())
            admin.ask("ACL", "SETUSER", "ann", rule)
            core("ACL", "SETUSER", "ann", rule)
            (denied,) = compare("EXEC")  # type: ignore[misc]
            assert "for the following reason: no permission to" in error(denied)


@needs_redis
def test_a_command_belongs_to_the_classes_that_it_has_in_redis(tmp_path: Path) -> None:
    def classes(rows: list[Any]) -> dict[bytes, set[bytes]]:
        found = {}
        for row in rows:
            # Of a command that only contains others, theirs count.
            found |= classes(row[9]) or {row[0]: set(row[6])}
        return found

    ours = classes(Core()("COMMAND"))  # type: ignore[arg-type]
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        (rows,) = decode_all(wire.ask("COMMAND"))
    theirs = classes(rows)
    theirs[b"migrate"].add(b"@blocking")  # here others go on meanwhile
    both = ours.keys() & theirs.keys()
    both = {name for name in both if not name.endswith(b"|help")}
    assert len(both) > 250
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}


ACCESS = """
GET k | SET k v | SET k v GET | GETDEL k | GETEX k | GETSET k v | INCR k | APPEND k v | STRLEN k | EXISTS k l | TYPE k
COPY k l | RENAME k l | LMOVE k l LEFT LEFT | LPOP k | LPUSH k v | SMOVE k l m | SUNIONSTORE k l | ZUNIONSTORE k 1 l
SORT k | SORT k STORE l | BITFIELD k GET u8 0 | BITFIELD k SET u8 0 1 | XREADGROUP GROUP g c STREAMS k > | EVAL x 1 k
DEL k | TTL k | EXPIRE k 1 | PFCOUNT k | ZADD k 1 m | ZINCRBY k 1 m | HDEL k f | GEORADIUS k 0 0 1 m STORE l | DUMP k
"""


@needs_redis
def test_to_read_a_key_and_to_change_it_are_two_rights(tmp_path: Path) -> None:
    core = Core()
    rules = ("on", "nopass", "+@all", "%R~r*", "%W~w*", "%R~b*", "%W~b*")
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for ask in (wire.ask, core):
            ask("ACL", "SETUSER", "ann", *rules)
        for call in ACCESS.strip().replace("|", "\n").splitlines():
            for k in "rwbx":
                for other in "rwbx":
                    args = [k if word == "k" else other if word == "l" else word for word in call.split()]
                    theirs = decode_all(wire.ask("ACL", "DRYRUN", "ann", *args))
                    assert (core("ACL", "DRYRUN", "ann", *args) == b"OK") == (theirs == [b"OK"]), args


SELECTORS = """
on nopass +@read ~a* (+set ~w*) (%R~r* +@all -set) | (+get ~x*) | ( +get  ~b ) | (+set | (+set nosuch) | (+set (+get))
() | (+set on) | (>pw) | (+nosuch) | clearselectors | (allkeys allcommands allchannels)
clearselectors (+copy %R~a %W~b) | (+get ~d &x) | resetkeys | -select|1
+select|1 +select|2 | +get|x|y | +config|get|x | +config|nosuch | +client|id
+select | -select | +select|0 | (+select|7 &n*) | %RW~q %W~q2 %R~q2 | %~q | %RR~q | %WW~q | (+publish &y) +publish &z
-@all | +hget|a -hget
"""
TRIED = """
GET a | GET b | SET w 1 | SET a 1 | GET r | DEL r | COPY a b | COPY b a | PUBLISH x m | PUBLISH y m | PUBLISH z m
SELECT 0 | SELECT 1 | select 7 | SELECT 9 | CLIENT ID | CLIENT LIST | CONFIG GET port | GET x | GET d | PSUBSCRIBE n*
"""


@needs_redis
def test_any_selector_may_allow_as_in_redis(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        for rules in SELECTORS.strip().replace(" | ", "\n").splitlines():
            change = ("ACL", "SETUSER", "ann", *rules.split())
            assert str(core(*change)) == str(decode_all(wire.ask(*change))[0]), rules
            for call in TRIED.strip().replace(" | ", "\n").splitlines():
                dryrun = ("ACL", "DRYRUN", "ann", *call.split())
                assert core(*dryrun) == decode_all(wire.ask(*dryrun))[0], (rules, call)
            told, known = core("ACL GETUSER ann"), decode_all(wire.ask("ACL", "GETUSER", "ann"))[0]
            assert isinstance(told, list) and isinstance(known, list)
            assert told[6:] == known[6:], rules


async def test_selectors_are_kept_and_checked(tmp_path: Path) -> None:
    core = Core()
    ann = user(core, "+get", "~a", "(+set", "~b)", "(+psubscribe &n*)")
    assert ann("SET b 1") == b"OK" and "one of the keys" in error(ann("GET b"))
    assert "SET" not in error(ann("SET a 1")) and "one of the keys" in error(ann("SET a 1"))
    shown = core.engine.acl.users["ann"].described()
    assert shown.endswith(
        b"~a resetchannels -@all +get (~b resetchannels -@all +set) (resetchannels &n* -@all +psubscribe)"
    )
    file = tmp_path / "users.acl"
    file.write_bytes(shown + b"\n")
    store = Store(None, Config(aclfile=str(file)))
    assert store.engine.acl.users["ann"].described() == shown
    await store.close()
    ann("PSUBSCRIBE n*")
    core("ACL SETUSER ann +get")
    assert not ann.session.closing
    core("ACL SETUSER ann clearselectors")
    assert ann.session.closing, "it may not listen any more"


def test_a_selector_that_allows_everything_makes_a_user_unrestricted() -> None:
    core = Core()
    ann = user(core, "(+@all ~* &*)")
    assert not ann.session.gate
    core("ACL SETUSER ann clearselectors")
    assert ann.session.gate and "NOPERM" in error(ann("GET a"))


@pytest.mark.parametrize("command", ["SORT l BY nosort GET *", "SORT l BY * ALPHA", "SORT_RO l BY nosort get s*->f"])
def test_sorting_shows_nobody_keys_that_he_may_not_read(command: str) -> None:
    core = Core()
    core("RPUSH l secret")
    core("SET secret 1")
    ann = user(core, "+@all", "~l", "%W~*")
    assert "denied due to insufficient" in error(ann(command))
    words = ",".join(f"'{word}'" for word in command.split())
    assert "denied due to insufficient" in error(ann("EVAL", f"return redis.call({words})", 0))
    assert ann("SORT l BY nosort GET #") == [b"secret"]
    core("ACL SETUSER ann %R~*")
    assert not isinstance(ann(command), CommandError)


def test_the_log_of_refusals_is_bounded() -> None:
    core = Core(acllog_max_len="3")
    ann = user(core, "+@all", "~app:*")
    for at in range(10):
        ann(f"GET k{at}")
    entries = core("ACL LOG 100")
    assert isinstance(entries, list) and [entry[7] for entry in entries] == [b"k9", b"k8", b"k7"]
    assert core("ACL LOG RESET") == b"OK" and core("ACL LOG") == []


async def test_users_that_were_saved_are_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text("")
    store = Store(None, Config(aclfile=str(file)))
    await store.execute([b"ACL", b"SETUSER", b"ann", b"on", b">pw", b"~app:*", b"+get"])
    store.engine.acl.change("default", [b">secret"])
    store.engine.acl.save()
    expected = [user.described() for _, user in sorted(store.engine.acl.users.items())]
    await store.close()
    again = Store(None, Config(aclfile=str(file)))
    assert again.engine.acl.first_user() is None
    assert [user.described() for _, user in sorted(again.engine.acl.users.items())] == expected
    await again.close()


@pytest.mark.parametrize(
    "line",
    [
        "user ann +nosuch",
        "foo bar",
        "user",
        "user ann (+get",
        "user ann (+nosuch)",
        "user bob on\nuser bob on",
        "\xff\x00",
    ],
)
async def test_a_file_of_users_that_is_wrong_changes_nothing(tmp_path: Path, line: str) -> None:
    file = tmp_path / "users.acl"
    file.write_text("user ann on >pw ~* +get\n")
    store = Store(None, Config(aclfile=str(file)))
    before = await store.execute([b"ACL", b"LIST"])
    file.write_text(f"user carl on\n{line}\n")
    with pytest.raises(CommandError, match=rf"{file}:[23]: "):
        await store.execute([b"ACL", b"LOAD"])
    assert await store.execute([b"ACL", b"LIST"]) == before
    await store.close()
    with pytest.raises(titan.ConfigError, match=rf"{file}:[23]: "):
        Store(None, Config(aclfile=str(file)))
    with pytest.raises(titan.ConfigError, match="No such file"):
        Store(None, Config(aclfile=str(tmp_path / "none")))


@pytest.mark.parametrize("rule", ["~a b", "%R~a b", "&a b", "~a\nb", "&a\0b", "~a\nuser b on"])
def test_a_pattern_that_a_file_of_users_could_not_hold_is_refused(rule: str) -> None:
    assert "Syntax error" in error(Core()("ACL", "SETUSER", "ann", rule))


async def test_patterns_beside_all_patterns_keep_no_file_of_users_from_being_read(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text("user bob on nopass ~* ~x &* &y +@all\n")
    store = Store(None, Config(aclfile=str(file)))
    await store.execute([b"ACL", b"SETUSER", b"ann", b"%R~*", b"~x", b"%W~*"])
    assert store.engine.acl.users["bob"].unrestricted
    assert {*store.engine.acl.users["ann"].root.keys, *store.engine.acl.users["bob"].root.keys} == {b"*"}
    store.engine.acl.save()
    await store.execute([b"ACL", b"LOAD"])
    await store.close()


def test_whoever_is_not_in_the_file_any_more_is_let_go() -> None:
    class Kept:
        data = b"user ann on nopass ~* +get\n"

        def read(self) -> bytes:
            return self.data

        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    core = Core()
    assert "not configured" in error(core("ACL SAVE")) and "not configured" in error(core("ACL LOAD"))
    ann, bob = user(core, "+@all", "~*"), core.connect()
    core("ACL SETUSER bob on nopass +@all")
    bob("AUTH bob x")
    core.engine.acl.keeper = Kept()
    assert core("ACL LOAD") == b"OK"
    assert "NOPERM" in error(ann("SET k v")) and ann("GET k") is None
    assert bob.session.closing and core("GET k") is None
    assert "No space left" in error(core("ACL SAVE"))


async def test_other_machines_are_refused_until_there_is_a_password() -> None:
    remote, local = ("192.0.2.7", 4711), ("127.0.0.1", 4711)
    store = Store(None)
    server = Server(store)
    assert server.refusal(remote).startswith(b"-DENIED ") and server.refusal(("2001:db8::7", 4711, 0, 0))
    assert not server.refusal(local) and not server.refusal("/run/store.sock")
    await store.execute([b"CONFIG", b"SET", b"protected-mode", b"no"])
    assert not server.refusal(remote)
    await store.execute([b"CONFIG", b"SET", b"protected-mode", b"yes"])
    await store.execute([b"CONFIG", b"SET", b"requirepass", b"secret"])
    assert not server.refusal(remote)
    await store.close()


@pytest.mark.loops("node")
async def test_who_has_hung_up_before_he_is_looked_at_is_not_taken_for_somebody_of_this_machine() -> None:
    """uvloop cannot say any more where such a connection came from; what it has brought can still be read."""
    store = Store(None)
    server = Server(store)
    here = outgoing_ip(IPV4)
    port = await server.listen([here], 0)
    try:
        with socket.create_connection((here, port)) as client:
            client.sendall(b"CONFIG SET protected-mode no\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with asyncio.timeout(60):
            while not store.engine.stats.connections or store.sinks:
                await asyncio.sleep(0)
        assert await store.execute([b"CONFIG", b"GET", b"protected-mode"]) == [b"protected-mode", b"yes"]
    finally:
        await server.close()
        await store.close()


@pytest.mark.parametrize("rules", ["off", "on nopass ~* &* -@all +ping"])
async def test_what_others_wrote_is_loaded_whatever_the_default_user_may_do(tmp_path: Path, rules: str) -> None:
    users = tmp_path / "users.acl"
    users.write_text("user default on nopass ~* &* +@all\n")
    store = Store(tmp_path / "store", Config(aclfile=str(users)))
    await store.execute([b"EVAL", b"redis.call('SET', 'a', '1'); redis.call('SET', 'b', '2')", b"0"])  # a transaction
    await store.execute([b"SET", b"c", b"3"])
    await store.close()
    users.write_text(f"user default {rules}\n")
    again = Store(tmp_path / "store", Config(aclfile=str(users)))
    assert again.engine.databases[0].data == {b"a": b"1", b"b": b"2", b"c": b"3"}
    await again.close()


@needs_redis
def test_what_has_no_effect_is_refused_and_everything_is_shown_as_such(tmp_path: Path) -> None:
    core = Core()
    rules = (
        ["~*", "~x"],
        ["allkeys", "%R~x"],
        ["~x", "~*"],
        ["allchannels", "&x"],
        ["&x", "&*"],
        ["%R~*", "~x"],
        ["~*", "%R~*"],
    )
    with RealRedis(tmp_path / "redis") as server, Wire(server.port) as wire:
        for at, words in enumerate(rules):
            command = ["ACL", "SETUSER", f"user{at}", *words]
            assert [str(core(*command))] == list(map(str, decode_all(wire.ask(*command)))), words
        wanted = [each.replace(b" resetkeys", b"") for each in decode_all(wire.ask("ACL", "LIST"))[0]]
        shown: Any = core("ACL LIST")
        assert [each.replace(b" resetkeys", b"") for each in shown] == wanted


def test_where_a_search_stores_is_looked_at_whatever_the_key_is_called() -> None:
    core = Core()
    core("GEOADD g 13.4 52.5 here")
    user(core, "on", "nopass", "+@all", "~g", "~ASC", "~c")
    search = "ACL DRYRUN ann GEORADIUS g 13 52 200 km"
    assert core(f"{search} STORE c") == b"OK"
    for behind in ("STORE STORE ASC", "STORE c STOREDIST STOREDIST", "STORE STOREDIST"):
        assert b"can't" in core(f"{search} {behind}") or b"no permissions" in core(f"{search} {behind}")  # type: ignore[operator]
