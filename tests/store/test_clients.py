"""CLIENT TRACKING and CLIENT PAUSE: what clients that cache are told, and who waits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.core import Client, Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.aof import AppendLog
from titan_objects.store.group.places import door_table
from titan_objects.store.host import Store
from titan_objects.store.replication import Leader
from titan_objects.store.resp import CommandError, decode_all
from titan_objects.store.table import Group


def caching(core: Core, options: str = "") -> Client:
    """A RESP3 client that is kept informed."""
    client = core.connect()
    client("HELLO 3")
    assert client(f"CLIENT TRACKING ON {options}") == b"OK"
    return client


def void(*keys: bytes) -> list[object]:
    return [b"invalidate", list(keys)]


def sent(client: Client, *args: str) -> list[object]:
    """All that some commands, sent at once, bring their client."""
    core = client.core
    core.engine.run(client.session, [arg.encode().split() for arg in args], core.now)
    return client.heard()


def test_a_client_is_told_once_of_what_it_has_read() -> None:
    core = Core()
    ann = caching(core)
    core("MSET a 1 b 2 c 3")
    ann("MGET a b")
    core("SET c 4")
    assert ann.heard() == []
    core("SET a 2")
    assert ann.heard() == [void(b"a")]
    core("SET a 3")
    assert ann.heard() == []
    core("DEL b")
    assert ann.heard() == [void(b"b")]


def test_what_transactions_and_scripts_read_counts() -> None:
    core = Core()
    ann = caching(core)
    ann("MULTI")
    ann("GET a")
    ann("EXEC")
    ann("EVAL", "return redis.call('GET', KEYS[1])", 1, "b")
    core("MSET a 1 b 2")
    assert ann.heard() == [void(b"a"), void(b"b")]


def test_own_changes_are_told_after_the_reply_unless_noloop() -> None:
    core = Core()
    ann, bob = caching(core), caching(core, "NOLOOP")
    ann("GET k")
    assert sent(ann, "SET k 2", "PING") == [b"OK", void(b"k"), b"PONG"]
    bob("GET k")
    assert sent(bob, "SET k 3") == [b"OK"]


def test_expiry_and_flushing_are_told_even_with_noloop() -> None:
    core = Core()
    ann = caching(core, "NOLOOP")
    ann("SET k 1 PX 50")
    ann("GET k")
    core.pass_time(60)
    assert ann.heard() == [void(b"k")]
    ann("GET k")
    core("FLUSHALL")
    assert ann.heard() == [[b"invalidate", None]]
    assert core.engine.tracking.readers == {}


def test_optin_and_optout_choose_what_is_remembered() -> None:
    core = Core()
    ann, bob = caching(core, "OPTIN"), caching(core, "OPTOUT")
    for client, word in ((ann, "YES"), (bob, "NO")):
        client("GET plain")
        assert client(f"CLIENT CACHING {word}") == b"OK"
        client("GET chosen")
        client("GET later")
    core("MSET plain 1 chosen 1 later 1")
    assert ann.heard() == [void(b"chosen")]
    assert bob.heard() == [void(b"plain"), void(b"later")]


def test_caching_counts_for_the_whole_transaction_that_follows() -> None:
    core = Core()
    ann = caching(core, "OPTIN")
    for command in ("CLIENT CACHING YES", "MULTI", "GET a", "GET b", "EXEC", "GET c"):
        ann(command)
    core("MSET a 1 b 1 c 1")
    assert ann.heard() == [void(b"a"), void(b"b")]


def test_broadcasts_go_by_prefix_and_remember_nothing() -> None:
    core = Core()
    ann = caching(core, "BCAST PREFIX user: PREFIX item:")
    ann("GET other")
    core("MSET user:1 a item:1 b other c")
    assert ann.heard() == [void(b"user:1", b"item:1")]
    assert core.engine.tracking.readers == {}
    bob = caching(core, "BCAST NOLOOP")
    assert sent(bob, "SET x 1") == [b"OK"]
    core("SET y 1")
    assert bob.heard() == [void(b"y")]


def test_resp2_clients_redirect_to_one_that_listens() -> None:
    core = Core()
    ears, ann = core.connect(), core.connect()
    id = ears.session.id
    ears("SUBSCRIBE __redis__:invalidate")
    assert ann(f"CLIENT TRACKING ON REDIRECT {id}") == b"OK"
    assert ann("CLIENT GETREDIR") == id
    ann("GET k")
    core("SET k 1")
    assert ann.heard() == []
    assert ears.heard() == [[b"message", b"__redis__:invalidate", [b"k"]]]
    core("FLUSHDB")
    assert ears.heard() == [[b"message", b"__redis__:invalidate", None]]


def test_whoever_redirects_to_nobody_hears_of_it() -> None:
    core = Core()
    ears = core.connect()
    ann = caching(core, f"REDIRECT {ears.session.id}")
    ann("GET k")
    core.engine.disconnect(ears.session)
    core("SET k 1")
    assert ann.heard() == [[b"tracking-redir-broken", ears.session.id]]
    info = ann("CLIENT TRACKINGINFO")
    assert isinstance(info, dict) and b"broken_redirect" in info[b"flags"]


def test_the_table_is_bounded_and_what_leaves_it_is_called_changed() -> None:
    core = Core(tracking_table_max_keys="2")
    ann = caching(core)
    ann("MGET a b")
    assert sent(ann, "GET c") == [None, void(b"a")]
    assert list(core.engine.tracking.readers) == [b"b", b"c"]


def test_readers_that_are_gone_are_not_remembered_for_ever() -> None:
    core = Core()
    for _ in range(100):
        ann = caching(core)
        ann("GET k")
        core.engine.disconnect(ann.session)
    assert len(core.engine.tracking.readers[b"k"]) <= 20


def test_prefixes_are_bounded() -> None:
    prefixes = " ".join(f"PREFIX {at}:" for at in range(1025))
    with pytest.raises(AssertionError, match="1024 prefixes"):
        caching(Core(), f"BCAST {prefixes}")


def test_databases_that_change_places_make_caches_void() -> None:
    core = Core()
    ann = caching(core)
    ann("GET k")
    core("SWAPDB 0 1")
    assert ann.heard() == [[b"invalidate", None]]


@pytest.mark.parametrize("way", ["CLIENT TRACKING OFF", "RESET"])
def test_whoever_leaves_is_told_nothing(way: str) -> None:
    core = Core()
    ann = caching(core)
    ann("GET k")
    ann(way)
    core("SET k 1")
    assert ann.heard() == []
    assert not core.engine.tracking.clients and not core.engine.observed
    assert ann.session.told == (way != "RESET")


def test_a_pause_of_writes_lets_reads_through_and_ends_by_itself() -> None:
    core = Core()
    bob = core.connect()
    assert core("CLIENT PAUSE 100 WRITE") == b"OK"
    assert bob("GET k") is None
    assert sent(bob, "SET k 1", "GET k") == []
    assert core("GET k") is None
    core.pass_time(99)
    assert bob.heard() == []
    core.pass_time(1)
    assert bob.heard() == [b"OK", b"1"]


def test_unpausing_lets_everybody_go_on_in_order() -> None:
    core = Core()
    ann, bob = core.connect(), core.connect()
    core("CLIENT PAUSE 100000 WRITE")
    for client in (ann, bob):
        assert client("RPUSH l x") is ...
    assert core(f"CLIENT UNBLOCK {ann.session.id}") == 0
    assert core("CLIENT UNPAUSE") == b"OK"
    assert ann.heard() == [1] and bob.heard() == [2]
    assert core("RPUSH l x") == 3


@pytest.mark.parametrize(("write", "read"), [("INCR k", "GET k"), ("HINCRBY h f 1", "HGET h f")])
def test_a_transaction_that_pauses_writes_to_keys_that_are_over(write: str, read: str) -> None:
    core = Core()
    core("SET k 5 PX 10")
    core("HSET h f 5 other 1")
    core("HPEXPIRE h 10 FIELDS 1 f")
    core("SET later 5 PX 20")
    core.now += 10
    for command in ("MULTI", "CLIENT PAUSE 1000 WRITE", write):
        core(command)
    assert core("EXEC") == [b"OK", 1]
    assert core(read) == b"1"
    core.now += 10
    core.effects()
    assert core("GET later") is None
    assert core.effects() == [], "what is over later stays, hidden"
    core.pass_time(1000)
    assert core(read) == b"1"
    assert "DEL later" in core.effects()


def test_a_pause_of_all_holds_reads_and_transactions_that_write_hold_at_exec() -> None:
    core = Core()
    bob = core.connect()
    bob("MULTI")
    bob("SET k 1")
    core("CLIENT PAUSE 50 WRITE")
    assert bob("EXEC") is ...
    core("CLIENT PAUSE 20")  # no shorter, but of everything
    assert core("GET k") is ...
    core.pass_time(49)
    assert core.client.heard() == []
    core.pass_time(1)
    assert bob.heard() == [[b"OK"]] and core.client.heard() == [b"1"]


LIBRARY = """#!lua name=l
redis.register_function('f', function() return 1 end)
redis.register_function{function_name='reads', callback=function() return 1 end, flags={'no-writes'}}
"""
READS = [
    ("EVAL_RO", "return 1", 0),
    ("EVAL", "#!lua flags=no-writes\nreturn 1", 0),
    ("FCALL_RO", "reads", 0),
    ("FCALL", "reads", 0),
]
WRITES = [("EVAL", "#!lua\nreturn 1", 0), ("FCALL", "f", 0)]


def test_a_pause_of_writes_goes_by_what_a_script_says_of_itself() -> None:
    core = Core()
    core("FUNCTION", "LOAD", LIBRARY)
    core("PFADD", "h", 1)
    core("CLIENT PAUSE 1000 WRITE")
    for call in READS:
        assert core(*call) == 1
    may = [
        ("EVAL", "return 1", 0),
        ("EVALSHA", "0" * 40, 0),
        ("FCALL", "none", 0),
        ("PUBLISH", "c", "m"),
        ("PFCOUNT", "h"),
    ]
    for call in (*may, *WRITES):
        assert core.connect()(*call) is ..., call


def test_what_writes_is_refused_before_it_is_queued_where_another_server_is_followed() -> None:
    core = Core()
    core("FUNCTION", "LOAD", LIBRARY)
    core.engine.replication.leader = Leader("10.0.0.1", 1)
    core.engine.look()
    for call in READS:
        assert core(*call) == 1
    assert core("EVAL", "return 1", 0) == 1, "it has not said that it writes"
    for call in (*WRITES, ("SET", "k", 1), ("FCALL_RO", "f", 0)):
        assert str(core(*call)).startswith("READONLY")
        core("MULTI")
        assert str(core(*call)).startswith("READONLY")
        assert str(core("EXEC")).startswith("EXECABORT")


def test_nothing_expires_during_a_pause_and_nobody_sees_what_is_over() -> None:
    core = Core()
    core("SET k 1 PX 20")
    core.effects()
    core("CLIENT PAUSE 100 WRITE")
    core.pass_time(50)
    assert core("GET k") is None and core.effects() == []
    core.pass_time(50)
    core.pass_time(10)
    assert core.effects() == ["DEL k"]


def test_a_store_that_leads_during_a_pause_goes_on_keeping_what_is_over() -> None:
    core = Core()
    core.engine.replication.follow("127.0.0.1", 1)
    core("CLIENT PAUSE 100 WRITE")
    core.engine.replication.lead()
    assert core.engine.keyspace.hides_expired
    core("CLIENT UNPAUSE")
    assert not core.engine.keyspace.hides_expired


async def test_what_waited_for_a_pause_is_not_acknowledged_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    await store.execute([b"CLIENT", b"PAUSE", b"50", b"WRITE"])
    held = asyncio.ensure_future(store.execute([b"SET", b"k", b"1"]))
    await asyncio.sleep(0)

    def write(self: AppendLog, sync: bool) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AppendLog, "write_out", write)
        with pytest.raises(CommandError, match="MISCONF"):
            await held
    await store.close()


def test_a_door_to_a_group_has_neither() -> None:
    known = door_table(Group("door")).commands
    absent = {"client|tracking", "client|caching", "client|pause", "client|unpause"}
    assert not absent & set(known) and {"client|trackinginfo", "client|no-evict"} <= set(known)


# ---- beside Redis ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with RealRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


SAID = """
CLIENT TRACKING ON NOSUCH | CLIENT TRACKING MAYBE | CLIENT TRACKING ON REDIRECT 999999
CLIENT TRACKING ON PREFIX a | CLIENT TRACKING ON OPTIN OPTOUT | CLIENT TRACKING ON BCAST OPTIN
CLIENT TRACKING ON BCAST PREFIX ab PREFIX a | CLIENT CACHING YES | CLIENT TRACKINGINFO | CLIENT GETREDIR
CLIENT TRACKING ON OPTIN NOLOOP | CLIENT CACHING NO | CLIENT CACHING MAYBE | CLIENT CACHING YES | CLIENT TRACKINGINFO
CLIENT TRACKINGINFO | CLIENT GETREDIR | CLIENT TRACKING ON OPTOUT | CLIENT TRACKING ON BCAST
CLIENT TRACKING OFF | CLIENT TRACKING ON BCAST PREFIX b PREFIX a | CLIENT TRACKING ON BCAST PREFIX bc
CLIENT TRACKING ON BCAST PREFIX c | CLIENT TRACKINGINFO | CLIENT TRACKING OFF
CLIENT PAUSE x | CLIENT PAUSE -1 | CLIENT PAUSE 0 NEVER | CLIENT PAUSE 0 WRITE | CLIENT UNPAUSE
CLIENT NO-EVICT on | CLIENT NO-EVICT maybe
"""


@needs_redis
def test_replies_are_those_of_redis(redis: RealRedis) -> None:
    core = Core()
    lines = [line.strip() for line in SAID.strip().replace("|", "\n").splitlines()]
    with Wire(redis.port) as wire:
        for line in ["HELLO 3", *lines]:
            ours, theirs = core(*line.split()), decode_all(wire.ask(*line.split()))[-1]
            if line != "HELLO 3":
                assert _shown(ours) == _shown(theirs), line


@needs_redis
def test_invalidations_are_those_of_redis(redis: RealRedis) -> None:
    core = Core()
    with Wire(redis.port) as wire:
        for line in ("HELLO 3", "FLUSHALL", "CLIENT TRACKING ON"):
            core(line)
            wire.ask(*line.split())
        # None: it brings no more than its reply.
        for line, told in (
            ("GET k", None),
            ("SET k 1", void(b"k")),
            ("EVAL return(redis.call('GET',KEYS[1])) 1 k", None),
            ("EVAL return(redis.call('APPEND',KEYS[1],'x')) 1 k", void(b"k")),
            ("FLUSHALL", [b"invalidate", None]),
            ("CLIENT TRACKING OFF", None),
            ("CLIENT TRACKING ON BCAST PREFIX k", None),
            ("MSET k1 a x b k2 c", void(b"k1", b"k2")),
            ("PING", None),
        ):
            ours = sent(core.client, line)
            theirs = decode_all(wire.ask(*line.split()) + (wire.reply() if told else b""))
            assert ours == theirs and ours[1:] == ([told] if told else []), line


def _shown(value: object) -> object:
    if isinstance(value, CommandError):
        return value.text
    if isinstance(value, dict):
        return {key: sorted(each) if isinstance(each, list) else each for key, each in value.items()}
    return value
