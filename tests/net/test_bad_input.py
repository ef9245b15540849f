"""What bad input gets: a clear error that says what helps, exit status 2 where a setting is wrong, and nothing lost.

More of it: `test_titan_node.py` (ports, directories, bootstraps), `test_cli.py` (grants, code that nobody trusts).
"""

import asyncio
import gc
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import titan_overlay as titan
from tests.net.awkward import Depth
from tests.net.commands import node_fails
from tests.net.commands import titan as run_titan
from tests.net.conftest import Start
from tests.net.nodes import Nodes
from titan_overlay.client import Pool
from titan_overlay.errors import StorageError
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.keys import SigningKey

AWKWARD = Path(__file__).with_name("awkward.py")
NESTED = b"\x91" * 100_000 + b"\xc0"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("awkward"), 2) as running:
        yield running
        # Whatever came in, no node has died of it, and none was surprised.
        for node in running.by_id.values():
            assert node.process.poll() is None
            assert "was not handled" not in node.log
            assert "internal error" not in node.log


@pytest_asyncio.fixture
async def pool(nodes: Nodes) -> AsyncIterator[Pool]:
    async with titan.connect(nodes.line, data=nodes.user) as connected:
        yield connected


@pytest_asyncio.fixture
async def name(pool: Pool) -> str:
    """An awkward object."""
    return (await pool.publish(f"{AWKWARD}:Awkward", "awkward")).name


# --- messages -------------------------------------------------------------------------------------------------


async def test_a_message_to_nobody_says_how_many_were_asked(pool: Pool) -> None:
    with pytest.raises(titan.NotFound, match=r"nobody/home.*nodes asked.*titan ls") as caught:
        await pool.send("nobody/home", "hello")
    assert caught.value.asked == 2


async def test_a_handler_that_raises_is_told_without_a_traceback_and_can_be_found_in_the_log(
    nodes: Nodes, pool: Pool, name: str
) -> None:
    with pytest.raises(titan.RemoteError) as caught:
        await pool.send(name, True)
    assert caught.value.type == "RuntimeError"
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value)) < 3000
    logs = "".join(node.log for node in nodes.by_id.values())
    assert f"correlation {caught.value.correlation}" in logs
    assert "\x1b[31m" not in logs.replace(logs[logs.find("Traceback") :], ""), "the log's own line cannot be steered"
    assert await pool.send(name, "still there") == "still there"


async def test_a_handler_that_never_returns_meets_the_deadline_and_takes_no_other_with_it(
    pool: Pool,
) -> None:
    name = (await pool.publish(f"{AWKWARD}:Awkward", "awkward/hanging")).name
    with pytest.raises(titan.DeadlineExceeded) as caught:
        await pool.send(name, 3600.0, timeout=1)
    assert caught.value.maybe_executed
    assert await pool.send(name, "still there") == "still there"


async def test_a_reply_of_100_mib_is_refused_with_the_way_to_send_it(pool: Pool, name: str) -> None:
    with pytest.raises(titan.BadMessage, match=r"the reply .* is the limit; .* stream, or put\(\)"):
        await pool.send(name, 100 << 20)
    assert await pool.send(name, "still there") == "still there"


async def test_a_message_of_100_mib_is_refused_before_it_is_sent(pool: Pool, name: str) -> None:
    with pytest.raises(titan.BadMessage, match="limit"):
        await pool.send(name, "x" * (100 << 20))
    assert await pool.send(name, "still there") == "still there"


async def test_a_message_of_a_type_that_nobody_handles_names_those_that_are(pool: Pool, name: str) -> None:
    with pytest.raises(titan.BadMessage, match=r"awkward\.Depth.*str"):
        await pool.send_raw(name, "img.Thumb", b"\xc0")
    with pytest.raises(titan.BadMessage):
        await pool.send_raw(name, "x" * 10_000, b"\xc0")


@pytest.mark.parametrize("body", [NESTED, b"", b"\xc1", b"\xdb\xff\xff\xff\xff", b"\x91", b"\xa1\xff"])
async def test_a_body_that_is_not_what_it_says_is_a_bad_message(pool: Pool, name: str, body: bytes) -> None:
    for type_name in ("str", "list", "awkward.Depth", "titan.Ping"):
        with pytest.raises(titan.BadMessage):
            await pool.send_raw(name, type_name, body)
        with pytest.raises(titan.BadMessage):
            await anext(pool.stream_raw(name, type_name, body))
    assert await pool.send(name, "still there") == "still there"


async def test_a_body_of_another_type_is_a_bad_message(pool: Pool, name: str) -> None:
    for type_name, body in (("str", b"\x01"), ("int", b"\xa1x"), ("awkward.Depth", b"\xc0"), ("bool", b"\x02")):
        with pytest.raises(titan.BadMessage):
            await pool.send_raw(name, type_name, body)


async def test_nesting_that_any_decoder_takes_arrives(pool: Pool, name: str) -> None:
    value: Any = []
    for _ in range(50):
        value = [value]
    assert await pool.send(name, Depth(value)) == 50


async def test_a_reply_that_cannot_be_encoded_is_an_error_of_the_handlers(pool: Pool, name: str) -> None:
    with pytest.raises((titan.RemoteError, titan.BadMessage)):
        await pool.send(name, [1])
    assert await pool.send(name, "still there") == "still there"


# --- names ----------------------------------------------------------------------------------------------------

BAD_NAMES = {
    "of 256 bytes": ("n" * 256, "at most 255 bytes"),
    "of 255 characters and more bytes": ("ü" * 128, "at most 255 bytes"),
    "empty": ("", "empty"),
    "with an empty part": ("a//b", "no empty part"),
    "with a newline": ("a\nb", "control characters"),
    "with a NUL": ("a\0b", "control characters"),
    "with half a character": ("a\ud800b", "lone surrogates"),
    "not in NFC": ("e\u0301", "NFC"),
    "of a node, cut short": ("node:12", "64 lower-case hexadecimal digits"),
    "of data, in capitals": ("sha256:" + "A" * 64, "64 lower-case hexadecimal digits"),
    "of an owner, without one": ("~/x", "~<32 hexadecimal digits>"),
}


@pytest.mark.parametrize("kind", BAD_NAMES)
async def test_a_name_that_is_none_is_told_apart_at_once(pool: Pool, kind: str) -> None:
    bad, says = BAD_NAMES[kind]
    for attempt in (
        pool.send(bad, "hello"),
        pool.locate(bad),
        pool.describe(bad),
        pool.delete(bad),
        pool.publish(f"{AWKWARD}:Awkward", bad),
    ):
        with pytest.raises(titan.BadMessage) as caught:
            await attempt
        assert says in str(caught.value)
        str(caught.value).encode()  # can be printed


@pytest.mark.parametrize("odd", ["wetter/zürich", "天気/東京", "🌦/x", "a b/c d", "..", "%2e%2e", "n" * 255, "a\u200db"])
async def test_a_name_in_any_script_works(pool: Pool, odd: str) -> None:
    await pool.publish(f"{AWKWARD}:Awkward", odd)
    assert await pool.send(odd, "hello") == "hello"


@pytest.mark.parametrize(
    ("token", "outcome"), [("zz", "wrong token"), ("00" * 16, "wrong token"), ("00", "wrong token")]
)
async def test_a_wrong_token_deletes_nothing(nodes: Nodes, pool: Pool, name: str, token: str, outcome: str) -> None:
    async with titan.connect(nodes.line, data=nodes.home / "stranger", key=SigningKey(b"s" * 32)) as stranger:
        assert await stranger.delete(name, token) == outcome
    assert await pool.send(name, "still there") == "still there"


async def test_publishing_without_a_grant_names_the_command_that_gives_one(nodes: Nodes) -> None:
    async with titan.connect(nodes.line, data=nodes.home / "stranger", key=SigningKey(b"s" * 32)) as stranger:
        with pytest.raises(titan.Forbidden, match=r"titan grant [0-9a-f]{64} publish --names"):
            await stranger.publish(f"{AWKWARD}:Awkward", "weather/berlin")
        with pytest.raises(titan.Unavailable, match=r"0 of 2 nodes accept .*--trust"):
            await stranger.publish(f"{AWKWARD}:Awkward", "~me/berlin")


# --- another pool ---------------------------------------------------------------------------------------------


async def test_a_join_line_of_another_pool_is_a_clear_error(nodes: Nodes, tmp_path: Path) -> None:
    line = JoinLine.parse(nodes.line)
    for wrong in (
        JoinLine(line.host, line.port, b"\1" * 32, line.node),
        JoinLine(line.host, line.port, line.pool, b"\1" * 32),
    ):
        with pytest.raises(titan.ConfigError):
            async with titan.connect(str(wrong), data=tmp_path / "user"):
                pass


async def test_an_address_that_cannot_be_one_is_a_clear_error(tmp_path: Path) -> None:
    for bad in ("a..b:1", "x" * 64 + ".y:1", "titan://", "titan://zz/yy@h:1", "h:99999", "\0:1"):
        with pytest.raises((titan.ConfigError, titan.Unavailable)):
            async with titan.connect(bad, data=tmp_path / "user", timeout=0.1):
                pass


async def test_a_host_that_cannot_be_found_is_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(titan.Unavailable):
        async with titan.connect("a..b:1", data=tmp_path / "user", timeout=0.1):
            pass
    assert "cannot find a..b: " in caplog.text


async def test_nobody_at_the_address_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(titan.Unavailable, match=rf"no node answers at 127\.0\.0\.1:{port}.*is it up"):
            async with titan.connect(f"127.0.0.1:{port}", data=tmp_path / "user", timeout=1):
                pass


async def test_a_client_that_leaves_at_once_leaves_nothing_behind(nodes: Nodes) -> None:
    for _ in range(5):
        async with titan.connect(nodes.line, data=nodes.user):
            pass  # before what it does meanwhile has had its first turn
    gc.collect()  # a coroutine that nobody awaited would say so, and warnings are errors here


@pytest.mark.parametrize("seconds", ["nan", "-1", "0"])
def test_a_time_that_is_none_is_a_wrong_flag(nodes: Nodes, seconds: str) -> None:
    said = run_titan("send", "x", "y", f"--timeout={seconds}", "--data", "node0", home=nodes.home, status=2)
    assert b"--timeout" in said.stderr
    assert b"defect" not in said.stderr
    put = run_titan("put", str(AWKWARD), f"--timeout={seconds}", "--data", "node0", home=nodes.home, status=2)
    assert b"--timeout" in put.stderr


def test_an_invitation_to_an_address_that_is_none_is_a_wrong_flag(nodes: Nodes) -> None:
    said = run_titan("invite", "--address", "host:port", "--data", "node0", home=nodes.home, status=2)
    assert b"--address: 'host:port' is not an address" in said.stderr


# --- titan-node -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[list[str], str]] = {
    "an unknown flag": (["--wrong"], "unrecognized arguments: --wrong"),
    "an argument too many": (["extra"], "extra"),
    "a port above 65535": (["--listen", "127.0.0.1:99999"], "0 to 65535"),
    "half an IPv6 address": (["--listen", "::g:1"], "brackets"),
    "a size below zero": (["--max-bytes", "-5"], "2GiB"),
    "cores that are no number": (["--max-cpu", "nan"], "max-cpu"),
    "a level of logging that is none": (["--log-level", "loud"], "debug, info, warning, error"),
    "an address that nobody has": (["--advertise", "a..b:4747"], "others can dial"),
    "an address without a port to dial": (["--advertise", "127.0.0.1:0"], "others need one address"),
    "settings that are a directory": (["--config", "/"], "/"),
    "settings that are no TOML": (["--config", "/etc/passwd"], "not TOML"),
    "a directory in /proc": (["--data", "/proc/titan"], "choose another with --data DIR"),
    "a directory below a file": (["--data", "/dev/null/titan"], "choose another with --data DIR"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_start_that_cannot_be_is_status_2_and_says_why(what: str, tmp_path: Path) -> None:
    flags, says = WRONG[what]
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), *flags, home=tmp_path)
    assert status == 2
    assert says in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_bytes = ", "not TOML"),
        ("max_byte = 5", "did you mean 'max_bytes'?"),
        ('trust = ["bob"]', "64 hexadecimal digits"),
        ("k = 10000000000000000000000000", "k"),
        ('[[devise]]\nname = "x"', "devise"),
    ],
)
def test_wrong_settings_are_one_line_that_names_them(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_text(text)
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1), said
    assert says in said


def test_settings_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_bytes(b"\xff\xfe\x00")
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1), said


# --- what is on the disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["identity.key", "client.key", "pool.key"])
def test_a_damaged_key_is_an_error_and_left_as_it_is(start: Start, tmp_path: Path, file: str) -> None:
    node = start("a")
    node.join_line()
    node.stop()
    place = tmp_path / "a" / file
    damaged = place.read_bytes()[:-9]
    place.write_bytes(damaged)
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert f"{file} is damaged; it is left as it is" in said
    assert place.read_bytes() == damaged


def damage(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"\xa5" * 4096)


def test_a_damaged_database_of_the_founder_is_set_aside_and_its_pool_lives_on(start: Start, tmp_path: Path) -> None:
    founder = start("a")
    line = founder.join_line()
    assert founder.stop() == 0
    damage(tmp_path / "a" / "node.db")
    again = start("a")
    assert again.join_line().partition("@")[0] == line.partition("@")[0]
    assert "was damaged" in again.log
    assert (tmp_path / "a" / "node.db.corrupt-1").read_bytes().startswith(b"\xa5")


def test_a_node_whose_damaged_database_held_its_pool_founds_no_other_one(start: Start, tmp_path: Path) -> None:
    line = start("a").join_line()
    joined = start("b", "--bootstrap", line)
    its_line = joined.join_line()
    assert joined.stop() == 0
    damage(tmp_path / "b" / "node.db")
    for _ in range(2):  # nor at the second try
        status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "b"), home=tmp_path)
        assert status == 2
        assert "--bootstrap HOST:PORT" in said.splitlines()[-1]
    assert start("b", "--bootstrap", line).join_line().partition("@")[0] == its_line.partition("@")[0]


def test_a_database_of_a_later_version_is_left_alone(start: Start, tmp_path: Path) -> None:
    node = start("a")
    node.join_line()
    node.stop()
    with sqlite3.connect(tmp_path / "a" / "node.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert "newer version" in said
    assert not list((tmp_path / "a").glob("*.corrupt-*"))


async def test_a_client_with_a_damaged_key_is_told_which_file(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "client.key").write_text("nonsense")
    with pytest.raises(StorageError, match=r"client\.key is damaged; it is left as it is"):
        async with asyncio.timeout(30), titan.connect(nodes.line, data=tmp_path / "user"):
            pass


def test_a_node_that_is_to_be_private_in_an_open_pool_names_the_command_that_closes_it(nodes: Nodes) -> None:
    late = nodes.add("--private")
    nodes.by_id[late].wait_for_log("this one admits anybody: titan pool set --strangers none")
