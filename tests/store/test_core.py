"""The store without disk and network: time is handed in, nothing waits."""

import re
from pathlib import Path
from random import Random

import pytest

from tests.store.core import NOW, Client, Core
from titan_objects.store.resp import CommandError, decode, decode_all


def error(reply: object) -> str:
    assert isinstance(reply, CommandError), reply
    return reply.text.decode()


# ---- effects: what the log gets needs neither clock nor chance ---------------------------------------------------


@pytest.mark.parametrize(
    ("before", "command", "effects"),
    [
        ([], "SET k v EX 10", ["SET k v PXAT 4000000010000"]),
        ([], "SETEX k 10 v", ["SET k v PXAT 4000000010000"]),
        (["SET k v"], "EXPIRE k 10", ["PEXPIREAT k 4000000010000"]),
        (["SET k v"], "EXPIRE k -1", ["DEL k"]),
        (["SET k v"], "GETEX k PX 5", ["PEXPIREAT k 4000000000005"]),
        (["SET k v"], "GETDEL k", ["DEL k"]),
        (["SADD k a"], "SPOP k", ["DEL k"]),
        (["SET k 1"], "INCRBYFLOAT k 0.5", ["SET k 1.5 KEEPTTL"]),
        ([], "HINCRBYFLOAT k f 0.5", ["HSET k f 0.5"]),
        (["RPUSH k a"], "BLPOP k 0", ["LPOP k"]),
        (["RPUSH k a"], "BRPOPLPUSH k q 0", ["LMOVE k q RIGHT LEFT"]),
        (["ZADD k 1 a"], "BZPOPMIN k 0", ["ZREM k a"]),
        ([], "SET k v", ["SET k v"]),
        (["SET k v"], "SET k w NX", []),
        (["SADD k a"], "SADD k a", []),
        ([], "DEL k", []),
        ([], "GET k", []),
    ],
)
def test_effects_of_a_command(before: list[str], command: str, effects: list[str]) -> None:
    core = Core()
    for each in before:
        core(each)
    core.effects()
    core(command)
    assert core.effects() == effects


def test_what_was_drawn_is_what_is_removed() -> None:
    core = Core()
    core("SADD k a b c d")
    core.effects()
    drawn = core("SPOP k 2")
    assert isinstance(drawn, list)
    (effect,) = core.effects()
    assert effect.split() == ["SREM", "k", *(each.decode() for each in drawn)]


def test_the_same_seed_draws_the_same() -> None:
    def drawn(seed: int) -> list[object]:
        core = Core(seed)
        core("SADD", "k", *range(50))
        return [core("SPOP k"), core("SRANDMEMBER k 3"), core("RANDOMKEY"), core("SPOP k 5")]

    assert drawn(7) == drawn(7) != drawn(8)


def test_a_transaction_is_one_in_the_log() -> None:
    core = Core()
    for each in ("MULTI", "SET a 1", "SELECT 1", "INCR b", "GET b", "EXEC"):
        core(each)
    assert core.effects() == ["MULTI", "SET a 1", "SELECT 1", "INCR b", "EXEC"]


def test_verbatim_says_whether_the_bytes_may_be_logged_as_they_came() -> None:
    core = Core()
    core("SET a 1")
    assert core.engine.verbatim
    core("SET a 1 EX 5")
    assert not core.engine.verbatim


# ---- expiry ------------------------------------------------------------------------------------------------------


def test_a_key_is_gone_at_its_time_and_not_before() -> None:
    core = Core()
    core("SET k v PX 25")
    core.effects()
    core.now += 24
    assert core("GET k") == b"v"
    core.now += 1
    assert core("GET k") is None
    assert core.effects() == ["DEL k"]


def test_keys_expire_without_being_looked_at_in_the_bucket_of_their_time() -> None:
    core = Core()
    for ms in range(1, 200):
        core("SET", f"k{ms}", "v", "PX", ms)
    for _ in range(25):
        core.pass_time(10)
        left = [int(key[1:]) for key in core.engine.databases[0].data]
        assert all(ms > core.now - 4_000_000_000_000 for ms in left)
    assert core("DBSIZE") == 0


def test_a_renewed_key_lives_on() -> None:
    core = Core()
    core("SET k v PX 30")
    for _ in range(10):
        core.pass_time(20)
        core("PEXPIRE k 30")
    assert core("GET k") == b"v"
    core.pass_time(40)
    assert core("EXISTS k") == 0


def test_an_expiry_brought_forward_is_kept() -> None:
    core = Core()
    core("SET k v EX 100")
    core("PEXPIRE k 20")
    core.pass_time(30)
    assert core("DBSIZE") == 0


def test_keys_leave_in_an_order_that_does_not_show_when_their_end_was_set() -> None:
    one, other = Core(), Core()
    for name in "cab":
        one("SET", name, 1, "PX", 25)
    for name in "bca":
        other("SET", name, 1, "PX", 5)
        other("PEXPIRE", name, 25)  # moved back, so that it stands in an earlier bucket
    for core in (one, other):
        core.effects()
        core.pass_time(1000)
    assert one.effects() == other.effects() == ["DEL a", "DEL b", "DEL c"]


def test_nothing_expires_while_a_log_is_replayed() -> None:
    core = Core()
    core.engine.now = core.engine.keyspace.now = 0
    assert core.engine.replay([[b"SET", b"k", b"v", b"PXAT", b"1000"], [b"PERSIST", b"k"]]) is None
    assert core("GET k") == b"v"


def test_what_was_put_off_in_time_is_there_whenever_the_log_is_replayed_or_the_leader_followed() -> None:
    log = [
        command.encode().split()
        for command in (
            "SET k v", "PEXPIREAT k 1000", "PERSIST k",
            "HSET h f 1", "HPEXPIREAT h 1000 FIELDS 1 f", "HPERSIST h FIELDS 1 f",
            "SET gone v", "PEXPIREAT gone 1000",
        )
    ]  # fmt: skip
    replayed, follower = Core(), Core()
    replayed.engine.now = NOW
    assert replayed.engine.replay(log) is None
    assert follower.engine.apply(log, NOW) == []
    for core in (replayed, follower):
        assert core("GET k") == b"v"
        assert core("HGET h f") == b"1"
        assert core("GET gone") is None


# ---- blocking ----------------------------------------------------------------------------------------------------


def test_the_first_who_waits_is_served_first() -> None:
    core = Core()
    first, second = core.connect(), core.connect()
    assert first("BLPOP k 0") is ... and second("BLPOP k 0") is ...
    core("RPUSH k a b c")
    assert (first.heard(), second.heard()) == ([[b"k", b"a"]], [[b"k", b"b"]])
    assert core.effects() == ["RPUSH k a b c", "LPOP k", "LPOP k"]
    assert core("LRANGE k 0 -1") == [b"c"]


def test_a_wait_ends_at_its_time() -> None:
    core = Core()
    client = core.connect()
    client("BLPOP k 0.05")
    core.pass_time(49)
    assert client.heard() == []
    core.pass_time(1)
    assert client.heard() == [None]


def test_what_a_waiting_client_sends_meanwhile_is_done_afterwards() -> None:
    core = Core()
    client = core.connect()
    session = client.session
    core.engine.run(session, [[b"BLPOP", b"k", b"0"], [b"PING"]], core.now)
    core.engine.run(session, [[b"ECHO", b"x"]], core.now)
    assert client.heard() == []
    core("LPUSH k v")
    assert client.heard() == [[b"k", b"v"], b"PONG", b"x"]


def test_in_a_transaction_nobody_waits() -> None:
    core = Core()
    for each in ("MULTI", "BLPOP k 0", "LPUSH k v"):
        core(each)
    assert core("EXEC") == [None, 1]


def test_a_transaction_serves_those_that_wait_once_it_is_done() -> None:
    core = Core()
    client = core.connect()
    client("BLPOP k 0")
    for each in ("MULTI", "RPUSH k a", "RPUSH k b"):
        core(each)
    assert core("EXEC") == [1, 2]
    assert client.heard() == [[b"k", b"a"]]
    assert core.effects() == ["MULTI", "RPUSH k a", "RPUSH k b", "EXEC", "LPOP k"]


def test_moves_that_wait_can_feed_each_other() -> None:
    core = Core()
    first, second = core.connect(), core.connect()
    first("BLMOVE a b LEFT RIGHT 0")
    second("BLPOP b 0")
    core("RPUSH a x")
    assert (first.heard(), second.heard()) == ([b"x"], [[b"b", b"x"]])


def test_who_leaves_waits_no_more() -> None:
    core = Core()
    client = core.connect()
    client("BLPOP k 0")
    core.engine.disconnect(client.session)
    core("RPUSH k v")
    assert core("LLEN k") == 1 and core.engine.waiting.count == 0


def test_a_key_of_another_type_wakes_nobody() -> None:
    core = Core()
    client = core.connect()
    client("BLPOP k 0")
    core("SADD k v")
    assert client.heard() == []
    core("DEL k")
    core("RPUSH k v")
    assert client.heard() == [[b"k", b"v"]]


# ---- transactions ------------------------------------------------------------------------------------------------


def test_a_watched_key_that_changes_ends_the_transaction() -> None:
    core = Core()
    other = core.connect()
    core("SET k 1")
    core("WATCH k")
    other("SET k 2")
    core("MULTI")
    core("SET k 3")
    assert core("EXEC") is None
    assert core("GET k") == b"2"


@pytest.mark.parametrize("change", ["FLUSHALL", "SWAPDB 0 1", "DEL k", "EXPIRE k 100", "APPEND k x"])
def test_every_way_of_changing_a_key_counts(change: str) -> None:
    core = Core()
    other = core.connect()
    core("SET k 1")
    core("WATCH k")
    other(change)
    core("MULTI")
    assert core("EXEC") is None


def test_a_watched_key_that_expires_has_changed() -> None:
    core = Core()
    core("SET k 1 PX 10")
    core("WATCH k")
    core.now += 20
    core("MULTI")
    assert core("EXEC") is None


def test_a_refused_command_ends_the_transaction_and_a_failed_one_does_not() -> None:
    core = Core()
    core("MULTI")
    assert error(core("NOSUCH")).startswith("ERR unknown command")
    assert error(core("EXEC")).startswith("EXECABORT")
    core("SET k x")
    for each in ("MULTI", "INCR k", "SET j 1"):
        core(each)
    reply = core("EXEC")
    assert isinstance(reply, list)
    assert error(reply[0]).startswith("ERR value is not an integer") and reply[1] == b"OK"


@pytest.mark.parametrize("refused", ["DISCARD now", "MULTI now", "WATCH", "RESET now"])
def test_what_begins_and_ends_transactions_may_be_what_is_refused(refused: str) -> None:
    core = Core()
    for each in ("MULTI", "SET k x"):
        core(each)
    assert error(core(refused)).startswith("ERR wrong number of arguments")
    assert error(core("EXEC")).startswith("EXECABORT")
    assert core("GET k") is None
    for each in ("MULTI", "SET k x", "MULTI", "WATCH k"):
        core(each)
    assert core("EXEC") == [b"OK"], "as in Redis, these two change nothing"


def test_an_exec_that_is_refused_ends_its_transaction_at_once() -> None:
    core = Core()
    for each in ("WATCH w", "MULTI", "SET k x"):
        core(each)
    assert error(core("EXEC now")) == (
        "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
    )
    assert core("SET k y") == b"OK" and not core.client.session.watched
    assert error(core("EXEC")) == "ERR EXEC without MULTI"


# ---- publish and subscribe ---------------------------------------------------------------------------------------


def test_messages_reach_channels_and_patterns_in_both_protocols() -> None:
    core = Core()
    old, new = core.connect(), core.connect()
    new("HELLO 3")
    assert old("SUBSCRIBE news") == [b"subscribe", b"news", 1]
    assert new("PSUBSCRIBE n*") == [b"psubscribe", b"n*", 1]
    assert core("PUBLISH news hello") == 2
    assert old.heard() == [[b"message", b"news", b"hello"]]
    assert b"".join(new.session.out).startswith(b">4\r\n")
    assert new.heard() == [[b"pmessage", b"n*", b"news", b"hello"]]


def test_a_subscriber_may_do_little_else_in_resp2_and_anything_in_resp3() -> None:
    core = Core()
    client = core.connect()
    client("SUBSCRIBE c")
    assert "only (P|S)SUBSCRIBE" in error(client("GET k"))
    assert client("PING") == [b"pong", b""]
    client("RESET")
    client("HELLO 3")
    client("SUBSCRIBE c")
    assert client("GET k") is None


def test_keyspace_events() -> None:
    core = Core()
    core("CONFIG SET notify-keyspace-events KEA")
    client = core.connect()
    client("PSUBSCRIBE __key*__:*")
    core("SET k v PX 10")
    core.pass_time(20)
    heard = [(each[2], each[3]) for each in client.heard() if isinstance(each, list)]
    assert (b"__keyevent@0__:set", b"k") in heard
    assert (b"__keyspace@0__:k", b"expired") in heard


# ---- sessions ----------------------------------------------------------------------------------------------------


def test_without_the_password_nothing_is_answered() -> None:
    core = Core()
    core("CONFIG SET requirepass secret")
    client = core.connect()
    assert error(client("GET k")).startswith("NOAUTH")
    assert error(client("AUTH wrong")).startswith("WRONGPASS")
    assert client("AUTH secret") == b"OK"
    assert client("PING") == b"PONG"


def test_wrong_passwords_are_slowed_down() -> None:
    core = Core(requirepass="secret")
    client = core.connect()
    for _ in range(8):
        assert error(client("AUTH wrong")).startswith("WRONGPASS")
    assert "try again in" in error(client("AUTH secret"))
    core.now += 1_500
    assert client("AUTH secret") == b"OK"


def test_client_reply_off_and_skip() -> None:
    core = Core()
    assert core("CLIENT REPLY SKIP") is ...
    assert core("PING") is ...
    assert core("PING") == b"PONG"
    assert core("CLIENT REPLY OFF") is ...
    assert core("NOSUCH") is ... and core("PING") is ...
    assert core("CLIENT REPLY ON") == b"OK"


@pytest.mark.parametrize("kind", ["replica", "slave"])
def test_replicas_are_clients_of_a_kind_of_their_own(kind: str) -> None:
    core = Core()
    core.engine.may_follow = True
    replica, reader = core.connect(), core.connect()
    replica("REPLCONF capa eof")
    replica("PSYNC ? -1")
    listed = core(f"CLIENT LIST TYPE {kind}")
    assert isinstance(listed, bytes) and listed.count(b"\n") == 1
    assert b"id=%d " % replica.session.id in listed and b" flags=S " in listed
    assert core("CLIENT KILL TYPE normal") == 1 and reader.session.killed and not replica.session.killed
    assert core(f"CLIENT KILL TYPE {kind}") == 1 and replica.session.killed


def test_the_last_command_is_called_by_its_full_name() -> None:
    core = Core()
    client = core.connect()

    def listed(asker: Client, question: str) -> list[str]:
        lines = asker(question)
        assert isinstance(lines, bytes)
        return re.findall(r"cmd=(\S+)", lines.decode())

    for words, name in (
        ("GET k", "get"),
        ("Config Get port", "config|get"),
        ("GET k", "get"),
        ("NOSUCH", "NULL"),
        ("CLIENT NOSUCH", "NULL"),
        ("MULTI", "multi"),
        ("CLIENT ID", "client|id"),
        ("EXEC", "exec"),
    ):
        client.session.last_command = words.split()[0].encode()
        client(words)
        assert listed(core.client, f"CLIENT LIST ID {client.session.id}") == [name]
    assert listed(client, "CLIENT INFO") == ["client|info"]
    assert listed(core.client, f"CLIENT LIST ID {core.connect().session.id}") == ["NULL"]


def test_monitor_shows_what_others_do() -> None:
    core = Core()
    watcher = core.connect()
    watcher("MONITOR")
    core("SET", "k", b'a"\x00')
    (line,) = watcher.heard()
    assert isinstance(line, bytes) and line.endswith(rb'"SET" "k" "a\"\x00"')


def test_a_scan_finds_what_is_there_all_the_time() -> None:
    core = Core()
    for at in range(500):
        core("SET", f"k{at}", at)
    cursor, found = b"0", set()
    for turn in range(1000):
        reply = core("SCAN", cursor, "COUNT", 7)
        assert isinstance(reply, list)
        cursor, keys = reply
        found.update(keys)
        core("DEL", f"k{turn * 2 + 1}")
        core("SET", f"new{turn}", 1)
        if cursor == b"0":
            break
    assert {b"k%d" % at for at in range(0, 500, 2)} <= found


@pytest.mark.parametrize("seed", range(5))
def test_a_scan_of_a_set_finds_what_is_there_all_the_time(seed: int) -> None:
    core, chance = Core(), Random(seed)
    core("SADD", "s", *range(500))
    cursor, found = b"0", set()
    while True:
        reply = core("SSCAN", "s", cursor, "COUNT", 7)
        assert isinstance(reply, list)
        cursor, members = reply
        found.update(members)
        if cursor == b"0":
            break
        core("SREM", "s", *(2 * chance.randrange(250) for _ in range(5)))
        core("SADD", "s", *(chance.randrange(1000, 2000) for _ in range(chance.randrange(6))))
    assert {b"%d" % odd for odd in range(1, 500, 2)} <= found
    assert core("SSCAN", "s", 1 << 60, "COUNT", 5000) == [b"0", [*core.engine.databases[0].data[b"s"].order]]


def test_command_tells_what_there_is() -> None:
    core = Core()
    rows = core("COMMAND")
    assert isinstance(rows, list) and core("COMMAND COUNT") == len(rows)
    names = {row[0] for row in rows}
    assert {b"get", b"zadd", b"subscribe", b"client"} <= names
    assert core("COMMAND GETKEYS ZUNIONSTORE d 2 a b") == [b"d", b"a", b"b"]
    assert core("COMMAND GETKEYS MSET a 1 b 2") == [b"a", b"b"]


def test_every_command_survives_any_words() -> None:
    core = Core()
    for command in core.engine.table:
        name = command.name.replace("|", " ").encode().split()
        for extra in ([], [b""], [b"k"], [b"k", b"-1"], [b"k"] * 3, [b"\xff", b"0", b"x", b"y"], [b"1"] * 6):
            client = core.connect()
            core.engine.run(client.session, [[*name, *extra]], core.now)
            decode_all(b"".join(client.session.out))
            assert b"internal error" not in b"".join(client.session.out), (name, extra)
            core.engine.disconnect(client.session)
            core.engine.config.change({"requirepass": ""})
    core.engine.requests.clear()


def test_replies_decode_to_what_they_say() -> None:
    assert decode(b"*3\r\n:1\r\n$-1\r\n$2\r\nab\r\n") == [1, None, b"ab"]
    assert decode(b"%1\r\n+a\r\n,1.5\r\n") == {b"a": 1.5}
    assert decode(b"*2\r\n(12\r\n=6\r\ntxt:ab\r\n") == [b"12", b"ab"]
    with pytest.raises(ValueError, match="after the reply"):
        decode(b"+a\r\n+b\r\n")


_FIELD_ENDS = """
    hexpire hpexpire hexpireat hpexpireat httl hpttl hexpiretime hpexpiretime hpersist
"""


def test_the_list_of_redis_commands_is_that_of_redis() -> None:
    pages = Path(__file__).parents[2] / "docs" / "_redis_commands.txt"
    listed = [line.partition(": ")[2].split() for line in pages.read_text().splitlines() if not line.startswith("#")]
    theirs = {name for names in listed for name in names}
    later = {"client|setinfo", *_FIELD_ENDS.split()}
    assert {command.name for command in Core().engine.table} - theirs <= later


@pytest.mark.parametrize("word", ["1e-99999999", "1e99999999", "1e-4952", "1.19e4932", "1" * 5000, "0." + "1" * 5120])
def test_a_number_that_none_can_be_is_refused_at_once(word: str) -> None:
    core = Core()
    core("SET k 1")
    for command in ("INCRBYFLOAT n", "INCRBYFLOAT k", "HINCRBYFLOAT h f"):
        reply = core(*command.split(), word)
        assert isinstance(reply, CommandError) and reply.text == b"ERR value is not a valid float"
    assert core("INCRBYFLOAT k 0e99999999") == b"1"
    core("SET", "k", word)
    assert isinstance(core("INCRBYFLOAT k 1"), CommandError)


def test_an_empty_text_counts_as_nothing_where_numbers_are_sorted() -> None:
    core = Core()
    core("RPUSH", "l", 2, "", -1)
    assert core("SORT l") == [b"-1", b"", b"2"]


@pytest.mark.parametrize("command", ["XGROUP CREATE s g $ MKSTREAM", "FUNCTION FLUSH", "XGROUP SETID x g 0"])
def test_sub_commands_write_as_commands_do(command: str) -> None:
    core = Core()
    core("XADD x 1-1 f v")
    core("XGROUP CREATE x g 0")
    core.effects()
    core.engine.refuse_writes = CommandError(b"MISCONF the disk is full")
    core.engine.look()
    assert error(core(command)).startswith("MISCONF")
    core("MULTI")
    assert error(core(command)).startswith("MISCONF")
    assert error(core("EXEC")).startswith("EXECABORT")
    assert core.effects() == []
