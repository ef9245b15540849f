"""While a script runs long: what others hear, and how they end it. With real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.real import TitanStore, Wire
from titan_objects.store.effects import encode

pytest.importorskip("lupa")

SOON = ("--set", "lua-time-limit=1000")
LONG = ("--set", "lua-time-limit=4000")
"""Where much is to happen before the script has had twenty times as many instructions, and is ended."""
ENDLESS = "while true do end"
BUSY = b"-BUSY Redis is busy running a script. You can only call %b KILL or SHUTDOWN NOSAVE.\r\n"
LIBRARY = "#!lua name=l\nredis.register_function('f', function() while true do end end)"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TitanStore]:
    with TitanStore(tmp_path, *SOON) as process:
        yield process


def wait_until_busy(port: int, reply: bytes = BUSY % b"SCRIPT", password: str = "") -> None:
    """Asks until a script runs long. Who asks in the very turn in which it begins is answered when it has ended."""
    while True:
        with Wire(port) as wire:
            wire.socket.settimeout(2)
            try:
                if password:
                    wire.ask("AUTH", password)
                answer = wire.ask("PING")
            except TimeoutError:
                continue
        if answer != b"+PONG\r\n":
            assert answer == reply
            return


def test_others_hear_that_a_script_runs_and_may_end_it(store: TitanStore) -> None:
    with Wire(store.port) as caller, Wire(store.port) as known:
        assert known.ask("PING") == b"+PONG\r\n", "the loop knows it"
        caller.send("EVAL", ENDLESS, 0)
        wait_until_busy(store.port)
        assert known.ask("GET") == b"-ERR wrong number of arguments for 'get' command\r\n"
        assert known.ask("FUNCTION", "KILL") == known.ask("FUNCTION", "STATS") == BUSY % b"SCRIPT"
        assert known.ask("EXEC") == b"-EXECABORT Transaction discarded because of: " + (BUSY % b"SCRIPT")[1:]
        for words, reply in (
            ("SHUTDOWN ABORT", b"-ERR No shutdown in progress.\r\n"),
            ("SHUTDOWN FAST", b"-ERR syntax error\r\n"),
            ("SHUTDOWN NOW", BUSY % b"SCRIPT"),
            ("SCRIPT FOO", b"-ERR unknown subcommand 'FOO'. Try SCRIPT HELP.\r\n"),
        ):
            assert known.ask(*words.split()) == reply
        assert known.ask("MULTI") == b"+OK\r\n"
        assert known.ask("SET", "k", 1) == BUSY % b"SCRIPT"
        with Wire(store.port) as newcomer:
            assert newcomer.ask("HELLO", 3).startswith(b"%")
            assert newcomer.ask("GET", "k") == BUSY % b"SCRIPT"
            assert newcomer.ask("SCRIPT", "KILL") == b"+OK\r\n"
            assert caller.reply().startswith(b"-ERR Script killed by user with SCRIPT KILL... script: ")
            assert newcomer.ask("CONFIG", "GET", "lua-time-limit").startswith(b"%1"), "it is who it was"
            assert known.ask("EXEC").startswith(b"-EXECABORT")
            for wire in (newcomer, known, caller):
                assert wire.ask("SCRIPT", "KILL") == b"-NOTBUSY No scripts in execution right now.\r\n"
            assert newcomer.ask("EVAL", "return 1", 0) == b":1\r\n"


def test_who_sends_without_end_meanwhile_is_not_heard_out(tmp_path: Path) -> None:
    limit = ("--set", "client-query-buffer-limit=1048576")
    with TitanStore(tmp_path, *LONG, *limit) as store, Wire(store.port) as caller, Wire(store.port) as known:
        assert known.ask("PING") == b"+PONG\r\n"
        caller.send("EVAL", ENDLESS, 0)
        wait_until_busy(store.port)
        known.socket.sendall(b"*2\r\n$3\r\nGET\r\n$4000000\r\n" + bytes(1_500_000))
        assert known.reply().startswith(b"-ERR Protocol error: query buffer limit reached")
        with Wire(store.port) as newcomer:
            assert newcomer.ask("SCRIPT", "KILL") == b"+OK\r\n"


def test_a_function_that_runs_long_is_shown_and_ended(store: TitanStore) -> None:
    with Wire(store.port) as caller, Wire(store.port) as other:
        assert other.ask("FUNCTION", "LOAD", LIBRARY) == b"$1\r\nl\r\n"
        caller.send("FCALL", "f", 1, "key")
        wait_until_busy(store.port, BUSY % b"FUNCTION")
        stats = other.ask("FUNCTION", "STATS")
        assert b"$1\r\nf\r\n$7\r\ncommand\r\n*4\r\n$5\r\nFCALL\r\n$1\r\nf\r\n$1\r\n1\r\n$3\r\nkey\r\n" in stats
        assert other.ask("SCRIPT", "KILL") == BUSY % b"FUNCTION"
        assert other.ask("FUNCTION", "KILL") == b"+OK\r\n"
        assert b"Script killed by user" in caller.reply()
        assert b"running_script\r\n$-1\r\n" in other.ask("FUNCTION", "STATS")


def test_what_a_script_wrote_is_not_undone_but_by_giving_up_the_store(tmp_path: Path) -> None:
    with TitanStore(tmp_path, *SOON) as store, Wire(store.port) as caller, Wire(store.port) as other:
        assert other.ask("SET", "before", 1) == b"+OK\r\n"
        caller.send("EVAL", f"redis.call('SET', 'k', 1) {ENDLESS}", 0)
        wait_until_busy(store.port)
        assert other.ask("SCRIPT", "KILL").startswith(b"-UNKILLABLE ")
        assert other.ask("SHUTDOWN") == BUSY % b"SCRIPT"
        other.send("SHUTDOWN", "NOSAVE")
        assert store.process.wait(30) == 0
    with TitanStore(tmp_path) as store, Wire(store.port) as wire:
        assert wire.ask("EXISTS", "before") == b":1\r\n"
        assert wire.ask("EXISTS", "k") == b":0\r\n"


def test_who_has_not_said_who_he_is_ends_nothing(tmp_path: Path) -> None:
    with_password = TitanStore(tmp_path, *SOON, "--set", "requirepass=secret")
    with with_password as store, Wire(store.port) as caller, Wire(store.port) as other:
        for wire in (caller, other):
            assert wire.ask("AUTH", "secret") == b"+OK\r\n"
        caller.send("EVAL", ENDLESS, 0)
        wait_until_busy(store.port, password="secret")
        with Wire(store.port) as stranger:
            assert stranger.ask("SCRIPT", "KILL").startswith(b"-NOAUTH")
            assert stranger.ask("AUTH", "secret") == b"+OK\r\n"
            assert stranger.ask("SCRIPT", "KILL") == b"+OK\r\n"
        assert b"Script killed by user" in caller.reply()


def test_nobody_is_told_what_goes_with_a_store_that_is_given_up(tmp_path: Path) -> None:
    """Neither who waits, nor the caller for what it has sent behind the script."""
    with TitanStore(tmp_path, *LONG) as store, Wire(store.port) as caller, Wire(store.port) as waiting:
        assert caller.ask("SET", "x", 1) == b"+OK\r\n"
        with Wire(store.port) as heard, Wire(store.port) as other:
            assert heard.ask("SUBSCRIBE", "news").startswith(b"*3")
            waiting.send("BLMOVE", "l", "moved", "LEFT", "LEFT", 0)
            assert other.ask("PING") == b"+PONG\r\n"
            script = f"redis.call('INCR', 'x') redis.call('RPUSH', 'l', 'v') redis.call('PUBLISH', 'news', 1) {ENDLESS}"
            caller.socket.sendall(encode([[b"EVAL", script.encode(), b"0"], [b"INCR", b"x"], [b"COPY", b"x", b"y"]]))
            wait_until_busy(store.port)
            other.send("SHUTDOWN", "NOSAVE")
            assert store.process.wait(30) == 0
            for wire in (caller, waiting, heard):
                assert wire.socket.recv(100) == b""
    with TitanStore(tmp_path) as store, Wire(store.port) as wire:
        assert wire.ask("MGET", "x", "y") == b"*2\r\n$1\r\n1\r\n$-1\r\n"
        assert wire.ask("EXISTS", "l", "moved") == b":0\r\n"


def test_the_client_whose_script_runs_is_answered_in_order(tmp_path: Path) -> None:
    with TitanStore(tmp_path, *LONG) as store, Wire(store.port) as caller, Wire(store.port) as other:
        assert other.ask("PING") == b"+PONG\r\n"
        caller.send("EVAL", ENDLESS, 0)
        wait_until_busy(store.port)
        caller.send("PING")
        assert other.ask("GET", "k") == BUSY % b"SCRIPT"
        assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
        assert b"Script killed by user" in caller.reply()
        assert caller.reply() == b"+PONG\r\n"


def test_a_script_that_has_only_read_may_be_killed_though_a_key_has_ended_meanwhile(tmp_path: Path) -> None:
    with TitanStore(tmp_path, *LONG, "--set", "enable-debug-command=yes") as store, Wire(store.port) as other:
        assert other.ask("DEBUG", "SET-ACTIVE-EXPIRE", 0) == b"+OK\r\n"
        assert other.ask("SET", "k", "v", "PX", 1) == b"+OK\r\n"
        with Wire(store.port) as caller:
            caller.send("EVAL", f"while redis.call('GET', 'k') do end {ENDLESS}", 0)
            wait_until_busy(store.port)
            assert other.ask("SCRIPT", "KILL") == b"+OK\r\n"
            assert b"Script killed by user" in caller.reply()


def test_newcomers_that_leave_or_are_refused_hold_nothing(tmp_path: Path) -> None:
    limited = TitanStore(tmp_path, *LONG, "--set", "maxclients=10")
    with limited as store, Wire(store.port) as caller, Wire(store.port) as other:
        assert other.ask("PING") == b"+PONG\r\n"
        caller.send("EVAL", ENDLESS, 0)
        wait_until_busy(store.port)
        held = len(list(Path(f"/proc/{store.process.pid}/fd").iterdir()))
        for words in (("PING",), ("QUIT",)):
            for _ in range(20):
                with Wire(store.port) as newcomer:
                    assert newcomer.ask(*words)
        assert other.ask("GET", "k") == BUSY % b"SCRIPT", "by then it has seen that they are gone"
        crowd = [Wire(store.port) for _ in range(12)]
        answers = [each.ask("PING") for each in crowd]
        assert answers.count(BUSY % b"SCRIPT") == 8
        assert sum(b"max number of clients" in each for each in answers) == 4
        for each in crowd:
            each.close()
        assert other.ask("GET", "k") == BUSY % b"SCRIPT"
        with Wire(store.port) as last:
            assert last.ask("SCRIPT", "KILL") == b"+OK\r\n"
        assert b"Script killed by user" in caller.reply()
        assert len(list(Path(f"/proc/{store.process.pid}/fd").iterdir())) <= held + 1
