"""What others are shown of a client's commands, by MONITOR and SLOWLOG: as in Redis, and without passwords."""

import re
from collections.abc import Iterator

import pytest

from tests.sim.store_doors import Client
from tests.store.real import RealRedis, TitanStore, Wire, needs_redis
from tests.store.test_doors import Group, opened
from titan_objects.store.redaction import redacted
from titan_objects.store.resp import decode

Commands = list[tuple[str | int, ...]]

SECRETS: Commands = [
    ("AUTH", "no such secret"),
    ("AUTH", "default", "secret"),
    ("HELLO", 2, "AUTH", "default", "secret"),
    ("HELLO", 2, "SETNAME", "me", "AUTH", "default", "secret"),
    ("hello", 2),
    ("CONFIG", "SET", "masterauth", "secret", "maxmemory", 0, "MASTERUSER", "secret"),
    ("CONFIG", "SET", "maxmemory", 0),
    ("CONFIG", "SET", "maxmemory", 0, "masterauth"),
    ("CONFIG", "GET", "masterauth"),
    ("ACL", "SETUSER", "ann", ">secret", "on", "~*"),
    ("acl", "setuser", "ann", "<secret"),
    ("ACL", "DELUSER", "ann"),
    ("ACL", "WHOAMI"),
    ("MIGRATE", "127.0.0.1", 1, "none", 0, 10, "AUTH", "secret"),
    ("MIGRATE", "127.0.0.1", 1, "none", 0, 10, "COPY", "AUTH2", "ann", "secret"),
    ("MIGRATE", "127.0.0.1", 1, "none", 0, 10, "AUTH"),
]
LONG: Commands = [
    ("ECHO", "x" * 128),
    ("ECHO", "x" * 129),
    ("MGET", *range(31)),
    ("MGET", *range(32)),
    ("MGET", *range(200)),
    ("MGET", *["x" * 300] * 40),
]
ALL_KINDS: Commands = [
    ("SET", "k", 'quotes "\\\n\x00é'),
    ("EVAL", "redis.call('set', KEYS[1], 'x'); return redis.pcall('get', KEYS[1])", 1, "k"),
    ("MULTI",),
    ("SET", "k", 1),
    ("EVAL", "return redis.call('get', KEYS[1])", 1, "k"),
    ("GET", "k"),
    ("EXEC",),
    ("SELECT", 1),
    ("SELECT", 0),
    ("LPUSH", "k", "not a list"),
    ("NOSUCH", "x"),
    ("GET",),
    ("CLIENT", "ID"),
    ("CLIENT", "LIST"),
    ("SLOWLOG", "LEN"),
    ("PUBLISH", "c", "m"),
    ("BLPOP", "none", "0.01"),
    ("RESET",),
]


def shown(port: int, commands: Commands) -> list[bytes]:
    """What is shown of these commands to who monitors."""
    with Wire(port) as watcher, Wire(port) as client:
        assert watcher.ask("MONITOR") == b"+OK\r\n"
        for args in [*commands, ("PING", "the end")]:
            client.ask(*args)
        lines = []
        while b"the end" not in (
            line := re.sub(rb"^\+[0-9.]+ (\[[0-9]+ )([0-9.]+:)?[0-9]*", rb"\1\2", watcher.reply())
        ):
            lines.append(line)
        return lines


def kept(port: int, commands: Commands) -> list[object]:
    """What is kept of these commands for who looks at the log of slow ones."""
    with Wire(port) as watcher, Wire(port) as client:
        watcher.ask("CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 1000)
        watcher.ask("SLOWLOG", "RESET")
        for args in commands:
            client.ask(*args)
        watcher.ask("CONFIG", "SET", "slowlog-log-slower-than", -1)
        entries = decode(watcher.ask("SLOWLOG", "GET", -1))
        assert isinstance(entries, list)
        return [entry[3] for entry in entries[::-1] if entry[3][0] != b"SLOWLOG"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TitanStore]:
    with TitanStore(tmp_path_factory.mktemp("monitors") / "titan", "--memory-only") as server:
        yield server


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRedis]:
    with RealRedis(tmp_path_factory.mktemp("monitors") / "redis") as server:
        yield server


@needs_redis
@pytest.mark.parametrize("commands", [SECRETS, LONG, ALL_KINDS], ids=["secrets", "long", "all kinds"])
def test_who_monitors_is_shown_what_redis_shows(ours: TitanStore, theirs: RealRedis, commands: Commands) -> None:
    lines = shown(ours.port, commands)
    assert lines == shown(theirs.port, commands)
    assert not any(b"secret" in line for line in lines)


@needs_redis
@pytest.mark.parametrize("commands", [SECRETS, LONG], ids=["secrets", "long"])
def test_the_log_of_slow_commands_is_that_of_redis(ours: TitanStore, theirs: RealRedis, commands: Commands) -> None:
    entries = kept(ours.port, commands)
    assert entries == kept(theirs.port, commands)
    assert "secret" not in str(entries)


@pytest.mark.parametrize(
    "command",
    [
        "AUTH a secret c d",
        "HELLO 7 AUTH default secret",
        "HELLO AUTH default secret",
        "HELLO 3 SETNAME AUTH AUTH default secret",
        "MIGRATE h 1 k 0 10 WRONG AUTH secret",
    ],
)
def test_passwords_are_shown_to_nobody_though_the_command_is_wrong(command: str) -> None:
    assert b"secret" not in b" ".join(redacted(command.encode().split()))


def test_what_is_only_called_like_a_password_is_shown() -> None:
    for command in (
        "MIGRATE h 1 k 0 10 KEYS AUTH k",
        "SET AUTH secret",
        "CONFIG GET masterauth",
        "ACL GETUSER x",
        "ACL",
    ):
        args = command.encode().split()
        assert redacted(args) == args


@pytest.mark.loops("virtual")
async def test_who_monitors_a_door_is_shown_what_comes_through_it() -> None:
    async with opened(Group()) as door:
        watcher, client = Client(door), Client(door)
        assert await watcher("MONITOR") == b"OK"
        await client(
            "SET k 1",
            "AUTH default secret",
            "CONFIG SET maxmemory 0",
            "CONFIG SET masterauth secret",
            "ACL SETUSER ann >secret",
            "MULTI",
            "GET k",
            "EXEC",
            "MIGRATE h 1 none 0 10 AUTH secret",
            "ECHO end",
        )
        before = door.engine.usages.calls
        heard = []
        while not heard or not heard[-1].endswith(b'"ECHO" "end"'):
            heard.append(await watcher.hear())
        assert [line.partition(b"] ")[2] for line in heard] == [
            b'"SET" "k" "1"',
            b'"AUTH" "(redacted)" "(redacted)"',
            b'"MULTI"',
            b'"GET" "k"',
            b'"EXEC"',
            b'"MIGRATE" "h" "1" "none" "0" "10" "AUTH" "(redacted)"',
            b'"ECHO" "end"',
        ]
        assert before == 11, "each command counts once"
