"""DEBUG: refused where nobody has allowed it; else it answers as Redis does."""

from pathlib import Path

import pytest

from tests.store.commands_by_chance import GROUPS, commands
from tests.store.core import Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.config import Config
from titan_objects.store.group.clients import own_commands
from titan_objects.store.group.places import door_table
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError, decode


def core() -> Core:
    return Core(enable_debug_command="yes")


def test_it_is_refused_by_default_and_to_other_machines() -> None:
    assert "not allowed" in str(Core()("DEBUG SLEEP 0"))
    assert "immutable" in str(Core()("CONFIG SET enable-debug-command yes"))
    local = Core(enable_debug_command="local")
    for address, allowed in (
        ("127.0.0.1:7", True),
        ("[::1]:7", True),
        ("unix:0", True),
        ("192.0.2.7:1", False),
        ("[2001:db8::7]:1", False),
        ("", False),  # a program of the pool
        ("nonsense", False),
    ):
        local.client.session.address = address
        assert (local("DEBUG SLEEP 0") == b"OK") is allowed, address


def test_a_group_says_why_it_has_none() -> None:
    handler = door_table(own_commands(lambda: 0, lambda session, ms, reply: None)).commands["debug"].handler
    with pytest.raises(CommandError, match="not there in a group"):
        handler(Core().engine, [b"DEBUG", b"SLEEP", b"1"])


async def test_sleep_halts_the_process() -> None:
    store = Store(None, Config(enable_debug_command="yes"))
    slept: list[float] = []
    store.engine.sleep = slept.append
    for seconds in (b"0.5", b"nonsense", b"-1", b"nan", b"inf"):
        assert await store.execute([b"DEBUG", b"SLEEP", seconds]) == b"OK"
    assert slept == [0.5, 0.0, 0.0, 0.0, 1e9]
    await store.close()


def test_what_is_past_its_time_stays_while_that_is_switched_off() -> None:
    ours = core()
    ours("DEBUG SET-ACTIVE-EXPIRE 0")
    ours("SET k v PX 10")
    ours.pass_time(1000)
    assert ours("DBSIZE") == 1 and ours("GET k") is None and ours("DBSIZE") == 0
    ours("SET k v PX 10")
    ours("DEBUG SET-ACTIVE-EXPIRE 1")
    ours.pass_time(1000)
    assert ours("DBSIZE") == 0


CALLS = """
DEBUG PROTOCOL string | DEBUG PROTOCOL integer | DEBUG PROTOCOL double | DEBUG PROTOCOL null | DEBUG PROTOCOL array
DEBUG PROTOCOL set | DEBUG PROTOCOL map | DEBUG PROTOCOL verbatim | DEBUG PROTOCOL TRUE | DEBUG PROTOCOL false
DEBUG PROTOCOL bignum | DEBUG PROTOCOL nosuch | DEBUG PROTOCOL | DEBUG ERROR oops | DEBUG ERROR | DEBUG | DEBUG NOSUCH
DEBUG DIGEST | DEBUG DIGEST-VALUE k nosuch | DEBUG DIGEST-VALUE | DEBUG OBJECT nosuch | DEBUG SLEEP x | DEBUG DIGEST k
DEBUG SET-ACTIVE-EXPIRE 1 | DEBUG RELOAD | GET k
"""


@needs_redis
@pytest.mark.parametrize("version", [2, 3])
def test_it_answers_as_redis_does(tmp_path: Path, version: int) -> None:
    ours = core()
    ours.engine.sleep = lambda seconds: None
    with RealRedis(tmp_path, "--enable-debug-command", "yes") as redis, Wire(redis.port) as wire:
        for ask in (wire.ask, ours):
            ask("HELLO", version)
            ask("SET", "k", "v")
        session = ours.client.session
        for call in CALLS.strip().replace("|", "\n").splitlines():
            ours.engine.run(session, [call.encode().split()], ours.now)
            data = b"".join(session.out)
            session.out.clear()
            assert data == wire.ask(*call.split()), call


@needs_redis
def test_the_same_data_have_the_same_digest_as_in_redis(tmp_path: Path) -> None:
    ours = core()
    groups = tuple(name for name in GROUPS if name not in ("blocking", "counts", "transactions"))
    with RealRedis(tmp_path, "--enable-debug-command", "yes") as redis, Wire(redis.port) as wire:
        for args in commands(7, 2000, groups):
            ours(*args)
        for effect in ours.engine.effects:
            wire.ask(*effect)
        wire.ask("SELECT", 0)
        ours("SELECT 0")
        found = ours("DEBUG DIGEST")
        assert found == decode(wire.ask("DEBUG", "DIGEST")) and found != b"0" * 40
        keys = ours("KEYS *")
        assert isinstance(keys, list) and len(keys) > 5
        assert ours("DEBUG", "DIGEST-VALUE", *keys) == decode(wire.ask("DEBUG", "DIGEST-VALUE", *keys))
        ours("SET other v")
        assert ours("DEBUG DIGEST") != found


def test_reloading_changes_no_data() -> None:
    ours = core()
    for args in commands(8, 1500, tuple(name for name in GROUPS if name not in ("blocking", "transactions"))):
        ours(*args)
    ours("SELECT 0")
    ours("HSET h f v g w")
    ours("HPEXPIRE h 5000 FIELDS 1 f")
    ours("SET ends v PX 5000")
    ours("RPUSH l a b")
    before = ours("DEBUG DIGEST")
    kept = ours.engine.databases[0].data[b"l"]
    assert ours("DEBUG RELOAD") == b"OK"
    assert ours("DEBUG DIGEST") == before and ours.engine.databases[0].data[b"l"] is not kept
    ours.pass_time(6000)
    assert ours("HKEYS h") == [b"g"] and ours("GET ends") is None
    assert "no options" in str(ours("DEBUG RELOAD NOSAVE"))


def test_an_object_is_described() -> None:
    ours = core()
    ours("SET k 1")
    found = ours("DEBUG OBJECT k")
    assert isinstance(found, bytes) and b"encoding:int serializedlength:2 " in found
