"""`titan` as a user meets it: one small pool for all of this file, and a user who is not the founder."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.commands import BIN, SECONDS, NodeProcess, environment, titan, titan_json
from titan_overlay import connect_sync

GREETER = '''
import titan_overlay as titan

class Shout(titan.Message[str], namespace="greet"):
    """What to shout, and how often."""
    what: str
    times: int = 1

class Count(titan.Message[int], namespace="greet"):
    up_to: int

class Blob(titan.Message[bytes], namespace="greet"):
    data: bytes

@titan.service("*", policy=titan.Policy(min_copies=2, max_copies=3))
class Greeter:
    @titan.idempotent
    async def greet(self, name: str) -> str:
        """Says hello."""
        return f"hello, {name}"

    async def double(self, number: int) -> int:
        return 2 * number

    async def mirror(self, data: bytes) -> bytes:
        return data[::-1]

    async def shout(self, message: Shout) -> str:
        """Shouts it."""
        return message.what.upper() * message.times

    async def blob(self, message: Blob) -> bytes:
        return message.data

    async def count(self, message: Count):
        for number in range(message.up_to):
            yield number

    async def fail(self, flag: bool) -> None:
        raise RuntimeError("no such luck")
'''


class Village:
    """Three nodes, and how to talk to them as the user."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.key: str = titan_json("id", "--data", "user", home=home)["key"]
        trusting = ("--trust", self.key)
        self.nodes = [NodeProcess(home / "a", *trusting)]
        self.line = self.nodes[0].join_line()
        try:
            invitation = titan("invite", "--rights", "host", "--data", "a", home=home).stdout.decode().strip()
            self.nodes += [NodeProcess(home / name, "--bootstrap", invitation, *trusting) for name in "bc"]
            for node in self.nodes[1:]:
                node.join_line()
        except BaseException:
            self.close()
            raise
        self.options = ("--data", "user", "--bootstrap", self.line)

    def close(self) -> None:
        for node in self.nodes:
            node.stop(9)

    def run(self, command: str, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return titan(command, *self.options, *words, home=self.home, **more)

    def text(self, command: str, *words: str, **more: Any) -> str:
        return self.run(command, *words, **more).stdout.decode()

    def error(self, command: str, *words: str, status: int = 1) -> str:
        """The one line that a command that fails says."""
        said = self.run(command, *words, status=status).stderr.decode()
        assert said.startswith("titan: ")
        assert said.count("\n") == 1, said
        return said

    def json(self, command: str, *words: str) -> Any:
        return titan_json(command, *self.options, *words, home=self.home)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    village = Village(tmp_path_factory.mktemp("village"))
    yield village
    village.close()


@pytest.fixture(scope="module")
def greeter(pool: Village) -> str:
    """A service of the user's own."""
    (pool.home / "greeter.py").write_text(GREETER)
    receipt = pool.json("publish", "greeter.py:Greeter", "--name", "~me/greeter")
    assert len(receipt["holders"]) >= 2
    return str(receipt["name"])


# --- send -----------------------------------------------------------------------------------------------------


def test_a_text_is_answered_with_a_text(pool: Village, greeter: str) -> None:
    assert pool.text("send", greeter, "you") == "hello, you\n"
    assert pool.text("send", "~me/greeter", "-", stdin=b"pipe") == "hello, pipe\n"
    assert pool.json("send", greeter, "you") == "hello, you"


def test_builtin_types_and_bytes(pool: Village, greeter: str) -> None:
    assert pool.text("send", greeter, "--type", "int", "21") == "42\n"
    assert pool.run("send", greeter, "--type", "bytes", "-", stdin=b"\x00\xffab").stdout == b"ba\xff\x00"
    assert "'x' is no int" in pool.error("send", greeter, "--type", "int", "x", status=2)


def test_a_typed_message_is_json(pool: Village, greeter: str) -> None:
    shout = '{"what": "hey", "times": 2}'
    assert pool.text("send", greeter, "--type", "greet.Shout", "-m", shout) == "HEYHEY\n"
    # The object's schema says that this text is base64 of bytes.
    assert pool.run("send", greeter, "-t", "greet.Blob", "-m", '{"data": "AAH/"}').stdout == b"\x00\x01\xff"
    assert "is not JSON" in pool.error("send", greeter, "-t", "greet.Shout", "-m", "{")
    assert "needs --type" in pool.error("send", greeter, "-m", "{}", status=2)


def test_a_stream_is_printed_item_by_item(pool: Village, greeter: str) -> None:
    assert pool.text("send", greeter, "--stream", "-t", "greet.Count", "-m", '{"up_to": 3}') == "0\n1\n2\n"


def test_what_goes_wrong_with_a_message_is_one_line(pool: Village, greeter: str) -> None:
    assert "(3 nodes asked)" in pool.error("send", "no/such/object", "hi")
    assert "greet.Shout" in pool.error("send", greeter, "--type", "float", "1.5"), "it names the types that are taken"
    assert "no such luck" in pool.error("send", greeter, "--type", "bool", "true")
    assert "at most 255 bytes" in pool.error("send", "n" * 256, "hi")
    said = json.loads(pool.run("send", "nobody", "hi", "--json", status=1).stderr)
    assert (said["error"], said["maybe_executed"]) == ("not-found", False)


def test_without_a_pool_it_says_how_to_get_one(tmp_path: Path) -> None:
    said = titan("send", "--data", "none", "x", "y", home=tmp_path, status=2).stderr.decode()
    assert "start one with: titan-node" in said
    assert said.count("\n") == 1
    assert b"No such command" in titan("sned", home=tmp_path, status=2).stderr
    assert b"Missing argument" in titan("send", home=tmp_path, status=2).stderr
    for wrong in ("sned", "send"):  # whoever asked for JSON gets it for this error as well
        assert json.loads(titan(wrong, "--json", home=tmp_path, status=2).stderr)["error"] == "config"


def test_the_bootstrap_variable_is_enough(pool: Village, greeter: str, tmp_path: Path) -> None:
    done = titan("send", "--data", "other", greeter, "env", home=tmp_path, TITAN_BOOTSTRAP=pool.line)
    assert done.stdout == b"hello, env\n"


def test_a_bare_address_is_pinned_to_the_pool_that_was_met_there_first(
    pool: Village, greeter: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = pool.line.rpartition("@")[2]
    bare = ("send", greeter, "you", "--data", "bare", "-b", address)
    said = titan(*bare, home=pool.home).stderr.decode()
    assert said == f"titan: trust on first use: {address} leads to pool {pool.line[8:20]}, from now on only there\n"
    pins = pool.home / "bare" / "known_pools"
    assert pins.read_text() == f"{address} {pool.line[8:72]}\n"
    assert titan(*bare, home=pool.home).stderr == b""
    # As if another pool had been there the first time.
    pins.write_text(f"localhost:1 {'ab' * 32}\n{address} {'cd' * 32}\n")
    said = titan(*bare, home=pool.home, status=2).stderr.decode()
    assert f"led to pool cdcdcdcdcdcd when it was first used, and now to {pool.line[8:20]}" in said
    assert "delete line 2 of bare/known_pools" in said
    with caplog.at_level(logging.WARNING, "titan"), connect_sync(address, data=pool.home / "program") as connected:
        assert connected.send(greeter, "you") == "hello, you"
    assert "trust on first use" in caplog.text
    assert (pool.home / "program" / "known_pools").exists()


# --- objects --------------------------------------------------------------------------------------------------


def test_publishing_says_where_it_is_and_what_to_do_next(pool: Village, greeter: str) -> None:
    said = pool.text("publish", "greeter.py:Greeter", "--name", "~me/other", "--min-copies", "1", "--max-copies", "1")
    assert "delete token" in said
    assert "titan send ~" in said
    described = pool.json("describe", "~me/other")
    assert (described["policy"]["min_copies"], described["policy"]["max_copies"]) == (1, 1)
    assert described["messages"]["greet.Shout"]["text"] == "Shouts it."


def test_publishing_a_pools_name_needs_a_grant_which_can_be_had(pool: Village, greeter: str) -> None:
    refusal = pool.error("publish", "greeter.py:Greeter", "--name", "village/greeter")
    command = refusal.rpartition("run: titan ")[2].strip().replace("'", "").split()
    assert command == ["grant", pool.key, "publish", "--names", "village/greeter"]
    # The founder does what the error says, and the user imports it.
    text = titan(*command, "--data", "a", home=pool.home).stdout.decode().strip()
    assert "village/greeter" in titan("grant", "import", text, "--data", "user", home=pool.home).stdout.decode()
    pool.run("publish", "greeter.py:Greeter", "--name", "village/greeter")
    assert pool.text("send", "village/greeter", "you") == "hello, you\n"
    assert [each["state"] for each in titan_json("id", "--data", "user", home=pool.home)["grants"]] == ["valid"]


def test_code_that_no_node_trusts_is_refused_at_once(pool: Village, greeter: str) -> None:
    said = titan(
        *("publish", "greeter.py:Greeter", "--name", "~me/x", "--data", "stranger", "-b", pool.line),
        home=pool.home,
        status=1,
    ).stderr.decode()
    assert "0 of 3 nodes accept" in said
    assert "--trust" in said


def test_what_is_no_service_is_refused(pool: Village) -> None:
    (pool.home / "broken.py").write_text("class A:\n  def f(:\n")
    assert "broken.py" in pool.error("publish", "broken.py:A", "--name", "~me/x", status=2)
    assert "nothing.py" in pool.error("publish", "nothing.py:A", "--name", "~me/x", status=2)


def test_a_file_is_put_found_and_fetched(pool: Village) -> None:
    data = os.urandom(700_000)
    (pool.home / "data.bin").write_bytes(data)
    receipt = pool.json("put", "data.bin")
    name = receipt["name"]
    assert name == f"sha256:{hashlib.sha256(data).hexdigest()}"
    pool.run("get", name, "-o", "copy.bin")
    assert (pool.home / "copy.bin").read_bytes() == data
    assert pool.run("get", name).stdout == pool.run("get", name, "-o", "-").stdout == data
    assert {each["node"] for each in pool.json("locate", name)} >= set(receipt["holders"])
    assert name in {each["name"] for each in pool.json("ls", "--mine")}
    assert pool.json("describe", name)["size"] == len(data)


def test_a_sealed_file_is_opened_by_who_put_it_or_has_the_key(pool: Village) -> None:
    (pool.home / "diary").write_bytes(b"dear diary" * 100)
    receipt = pool.json("put", "diary", "--encrypt")
    assert b"diary" not in pool.run("get", receipt["name"]).stdout
    assert pool.run("get", receipt["name"], "--decrypt").stdout == b"dear diary" * 100
    friend = ("get", receipt["name"], "--data", "friend", "--bootstrap", pool.line)
    assert titan(*friend, "--key", receipt["key"], home=pool.home).stdout == b"dear diary" * 100
    assert b"does not open" in titan(*friend, "--decrypt", home=pool.home, status=1).stderr
    assert f"{receipt['key']}  (for others" in pool.text("put", "diary", "--encrypt")


def test_an_interrupted_download_goes_on_where_it_stopped(pool: Village) -> None:
    data = os.urandom(1_500_000)
    (pool.home / "long.bin").write_bytes(data)
    name = pool.json("put", "long.bin")["name"]
    (pool.home / "half.bin.part").write_bytes(data[:1_000_000])
    pool.run("get", name, "-o", "half.bin")
    assert (pool.home / "half.bin").read_bytes() == data
    # What was there is checked, not believed.
    (pool.home / "bad.bin.part").write_bytes(bytes(1_000_000))
    pool.run("get", name, "-o", "bad.bin")
    assert (pool.home / "bad.bin").read_bytes() == data


def test_deleting_says_which_of_the_four_outcomes_it_was(pool: Village, greeter: str) -> None:
    receipt = pool.json("publish", "greeter.py:Greeter", "--name", "~me/brief")
    name = receipt["name"]
    stranger = ("--data", "stranger", "-b", pool.line)
    wrong = titan("rm", name, "--token", "00" * 16, *stranger, home=pool.home, status=1)
    assert b"wrong token" in wrong.stderr
    assert b"deleted" in titan("rm", name, "--token", receipt["token"], *stranger, home=pool.home).stdout
    assert pool.text("rm", name) == "already gone\n"
    assert pool.text("rm", "~me/never") == "nothing to delete\n"
    assert "deleted" in pool.error("send", name, "you")


def test_an_object_is_moved_and_listed_where_it_is(pool: Village, greeter: str) -> None:
    receipt = pool.json("publish", "greeter.py:Greeter", "--name", "~me/mover", "--max-copies", "1")
    (holder,) = receipt["holders"]
    target = next(info["id"] for info in pool.json("census") if info["id"] != holder)
    assert target[:12] in pool.text("move", receipt["name"], target[:16])
    assert receipt["name"] in {each["name"] for each in pool.json("ls", "--node", target[:16])}
    assert pool.text("send", receipt["name"], "moved") == "hello, moved\n"
    assert "no nodes have an id" in pool.error("move", receipt["name"], "zz", status=2)


# --- nodes ----------------------------------------------------------------------------------------------------


def test_a_census_counts_and_selects(pool: Village) -> None:
    assert len(pool.json("census")) == 3
    assert len(pool.json("census", "--where", "cores>=1")) == 3
    assert pool.json("census", "--where", "region=moon") == []
    assert "3 nodes" in pool.text("census")
    assert "cores>=4" in pool.error("census", "--where", "cores")


def test_top_shows_one_picture_and_counts_messages(pool: Village, greeter: str) -> None:
    assert pool.text("top", "--once").count("127.0.0.1:") == 3
    before = sum(info["counters"]["messages"] for info in pool.json("top", "--once"))
    pool.run("send", greeter, "you")
    assert sum(info["counters"]["messages"] for info in pool.json("top", "--once")) > before


def test_the_doctor_finds_a_healthy_node_and_a_missing_one(pool: Village, tmp_path: Path) -> None:
    checks = titan_json("doctor", "some/name", "--data", "a", home=pool.home)
    assert {check["what"]: check["ok"] for check in checks if not check["ok"]} == {}
    assert {"data directory", "disk", "grants", "node", "address", "peers", "clock", "crowd"} <= {
        each["what"] for each in checks
    }
    sick = titan_json("doctor", "--data", "none", home=tmp_path, status=1)
    assert {"what": "node", "ok": False, "text": "none runs on none", "help": "titan-node"} in sick


def test_nobody_but_its_user_can_make_a_node_leave(pool: Village) -> None:
    node = pool.json("census")[0]["id"]
    said = pool.error("send", f"node:{node}", "--type", "titan.Leave")
    assert "only the user who runs this node" in said


# --- keys and rights ------------------------------------------------------------------------------------------


def test_an_invitation_brings_a_node_that_runs_the_inviters_code(pool: Village, greeter: str) -> None:
    plain = titan("invite", "--data", "a", home=pool.home).stdout.decode().strip()
    assert plain == pool.line
    line = (
        titan("invite", "--data", "a", "--rights", "host,publish", "--trust-me", home=pool.home).stdout.decode().strip()
    )
    assert line.startswith(pool.line + "?")
    guest = NodeProcess(pool.home / "guest", "--bootstrap", line)
    try:
        guest.join_line()
        facts = titan_json("id", "--data", "guest", home=pool.home)["grants"]
        assert [(each["rights"], each["state"]) for each in facts] == [(["host", "publish"], "valid")] * 2
        assert {each["for"] for each in facts} == {"you", "your node"}
    finally:
        guest.stop()


def test_the_founders_machine_alone_grants(pool: Village) -> None:
    said = titan("grant", pool.key, "publish", "--data", "user", home=pool.home, status=2).stderr.decode()
    assert "founder's machine" in said
    assert b"no such right" in titan("grant", pool.key, "fly", "--data", "a", home=pool.home, status=2).stderr
    assert b"is no key" in titan("grant", "bob", "publish", "--data", "a", home=pool.home, status=2).stderr
    assert b"holds no grant" in titan("grant", "import", "x", "--data", "user", home=pool.home, status=2).stderr


def test_a_grant_for_another_key_is_not_imported(pool: Village) -> None:
    other = titan_json("id", "--data", "other", home=pool.home)["key"]
    text = titan("grant", other, "publish", "--data", "a", home=pool.home).stdout.decode().strip()
    assert b"for another key" in titan("grant", "import", text, "--data", "user", home=pool.home, status=2).stderr


def test_the_pools_key_is_saved_for_its_owner_only(pool: Village) -> None:
    titan("pool", "key", "--save", "backup.key", "--data", "a", home=pool.home)
    assert (pool.home / "backup.key").read_bytes() == (pool.home / "a" / "pool.key").read_bytes()
    assert (pool.home / "backup.key").stat().st_mode & 0o777 == 0o600
    assert (
        b"File exists" in titan("pool", "key", "--save", "backup.key", "--data", "a", home=pool.home, status=1).stderr
    )


def test_settings_are_shown_with_their_origin(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.toml").write_text("alpha = 5\n")
    shown = titan_json("config", "show", "--origin", "--data", "d", home=tmp_path, TITAN_MAX_CPU="2")
    assert shown["alpha"] == {"value": 5, "origin": "file d/config.toml"}
    assert shown["max_cpu"] == {"value": 2.0, "origin": "environment TITAN_MAX_CPU"}
    assert shown["k"]["origin"] == "default"
    (tmp_path / "d" / "config.toml").write_text("alhpa = 5\n")
    said = titan("config", "show", "--data", "d", home=tmp_path, status=2).stderr
    assert b"did you mean 'alpha'?" in said


# --- manners --------------------------------------------------------------------------------------------------


def test_output_that_nobody_reads_on_is_no_error_of_ours(pool: Village) -> None:
    piped = subprocess.run(
        ["bash", "-c", f"'{BIN}/titan' census --data a --json | head -c 1"],
        capture_output=True,
        cwd=pool.home,
        env=environment(pool.home),
        timeout=SECONDS,
    )
    assert piped.stdout == b"["
    assert piped.stderr == b""


def test_an_interrupt_is_quiet(pool: Village) -> None:
    command = [BIN / "titan", "top", "--data", "a", "--interval", "0.2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=pool.home, env=environment(pool.home)
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it is at work
            process.send_signal(2)
            _, said = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, b"")


def test_what_a_peer_says_cannot_steer_the_terminal() -> None:
    from titan_overlay.cli.output import printable

    assert printable("a\x1b[31mb\tc\n\u202ed") == "a\ufffd[31mb\tc\n\ufffdd"


def test_what_a_peer_says_is_the_same_in_json_and_steers_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    from titan_overlay.cli.output import print_json, print_rich

    said = {"a\x9b31m": "\u202e\U000e0001ä\x7f\n"}
    print_json(said)
    shown = capsys.readouterr().out
    print_rich("deleted\x1b[2J")
    assert capsys.readouterr().out == "deleted\ufffd[2J\n"
    assert json.loads(shown) == said
    assert shown == '{"a\\u009b31m":"\\u202e\\udb40\\udc01ä\\u007f\\n"}\n'


def test_what_a_peer_says_steers_no_terminal_through_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    from titan_overlay.cli import output
    from titan_overlay.cli.logs import TextLines

    record = logging.LogRecord("titan", logging.WARNING, "", 0, "%s", ("\x1b[2J",), None)
    try:
        raise ValueError("\x1b]0;owned\x07")
    except ValueError:
        record.exc_info = sys.exc_info()
    for formatter in (TextLines(), output._Lines("titan: %(message)s")):
        assert "\x1b" not in formatter.format(record)
