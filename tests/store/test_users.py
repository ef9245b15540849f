"""ACL: what a user may not do is refused, whichever way it is asked."""

import pytest

from tests.store.core import Client, Core
from titan_objects.store.resp import CommandError


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
    assert "NOPERM" in error(ann("EVAL", "return redis.call('FLUSHALL')", 0))


def test_a_change_counts_at_once_and_a_deleted_user_is_gone() -> None:
    core = Core()
    ann = user(core, "+@all", "~*")
    assert ann("PING") == b"PONG"
    core("ACL SETUSER ann -ping")
    assert "NOPERM" in error(ann("PING"))
    assert core("ACL DELUSER ann") == 1
    assert error(ann("GET k")).startswith("NOAUTH")
    assert error(core.connect()("AUTH ann pw")).startswith("WRONGPASS")


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
    assert listed[0].startswith(b"user ann on #") and listed[0].endswith(b"~a* &c -@all +@read -get")
    assert core("ACL DRYRUN default GET k") == b"OK"
    assert b"no permissions" in core("ACL DRYRUN ann GET k")  # type: ignore[operator]
    assert core("ACL USERS") == [b"ann", b"default"]
    assert core("ACL WHOAMI") == b"default"
    secret = core("ACL GENPASS 64")
    assert isinstance(secret, bytes) and len(secret) == 16
