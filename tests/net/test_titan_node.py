"""`titan-node` as its operator meets it."""

import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.net.commands import node_fails, titan, titan_json
from tests.net.conftest import Start
from tests.ports import free_port
from titan_overlay.storage.directory import DataDirectory


def test_founding_prints_the_join_line_and_sigterm_ends_it_cleanly(start: Start, tmp_path: Path) -> None:
    node = start("a")
    line = node.join_line()
    assert re.fullmatch(r"titan://[0-9a-f]{64}/[0-9a-f]{64}@127\.0\.0\.1:[0-9]+", line)
    assert "titan pool key --save" in node.log
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert node.stop() == 0
    assert "left" in node.log
    assert not (tmp_path / "a" / "address").exists()


def test_a_node_joins_by_a_join_line_and_by_a_bare_address(start: Start, tmp_path: Path) -> None:
    line = start("a").join_line()
    by_line, by_address = start("b", "--bootstrap", line), start("c", "--bootstrap", line.rpartition("@")[2])
    assert {by_line.join_line()[:72], by_address.join_line()[:72]} == {line[:72]}, "all three name the same pool"
    assert "trust on first use" not in by_line.log
    assert "trust on first use" in by_address.log
    assert titan_json("node", "status", "--data", "a", home=tmp_path)["serving"] is True


def test_programs_of_its_user_reach_a_node_that_advertises_another_address(start: Start, tmp_path: Path) -> None:
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))  # and nobody listens: who dials it is refused
        forwarded = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        line = start("a", "--advertise", forwarded).join_line()
        assert line.endswith(f"@{forwarded}")
        a = titan_json("node", "status", "--data", "a", home=tmp_path)
        assert (a["serving"], a["address"]) == (True, forwarded)
        listens = DataDirectory.running(tmp_path / "a")
        hidden = start("b", "--advertise", forwarded, "--bootstrap", str(listens))
        hidden.wait_for_log(" is client only: nobody can join through it")
        b = titan_json("node", "status", "--data", "b", home=tmp_path)
        assert (b["serving"], b["address"], b["join"]) == (False, forwarded, None)
        said = titan_json("doctor", "--data", "b", home=tmp_path, status=1)
        assert b"nobody could join through" in titan("invite", "--data", "b", home=tmp_path, status=2).stderr
    assert [each["text"] for each in said if not each["ok"]] == [b["reason"]]
    assert f"nobody could dial {forwarded}" in b["reason"]
    titan("node", "leave", "--data", "b", home=tmp_path)
    assert hidden.process.wait(30) == 0
    assert hidden.process.stdout is not None
    assert hidden.process.stdout.read() == "", "a join line that nobody can dial helps nobody"
    assert "serves on" not in hidden.log


def test_a_join_line_of_another_pool_than_the_node_that_it_names_says_so(start: Start) -> None:
    line, other = start("a").join_line(), start("b").join_line()
    lost = start("c", "--bootstrap", f"{line.rpartition('@')[0]}@{other.rpartition('@')[2]}")
    lost.wait_for_log(f"is of another pool ({other[8:20]}); get a new join line")


def test_a_node_that_starts_again_is_the_same_node_in_the_same_pool(start: Start) -> None:
    first = start("a")
    line = first.join_line()
    joined = start("b", "--bootstrap", line)
    joined_line = joined.join_line()
    assert joined.stop() == 0
    # No --bootstrap: the pool and its peers are remembered.
    again = start("b")
    assert again.join_line().partition("@")[0] == joined_line.partition("@")[0]
    assert "founded" not in again.log
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    assert start("a").join_line().partition("@")[0] == line.partition("@")[0]


def test_a_node_without_fsync_says_what_that_may_lose(start: Start) -> None:
    careless, careful = start("a", "--no-fsync"), start("b")
    careless.join_line()
    careful.join_line()
    assert "a power failure may lose what was acknowledged" in careless.log
    assert "fsync" not in careful.log


def test_a_port_that_is_not_named_gives_way_to_the_next_free_one(start: Start) -> None:
    # Started at once, they also race for it.
    nodes = [start(name, listen="127.0.0.1") for name in "abc"]
    ports = sorted(int(node.join_line().rpartition(":")[2]) for node in nodes)
    assert len(set(ports)) == 3
    assert ports[0] >= 4747
    assert f"port 4747 is in use; listening on 127.0.0.1:{ports[2]}" in "".join(node.log for node in nodes)


def test_a_named_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = node_fails("--listen", f"127.0.0.1:{port}", "--data", str(tmp_path / "a"), home=tmp_path)
    assert status == 2
    assert said == (
        f"titan-node: cannot listen on 127.0.0.1:{port}: it is in use; name another port with --listen HOST:PORT\n"
    )


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--workers", "-3"), "--workers takes how many tasks run at once"),
        (("--redis", "7000"), "a door takes both: --redis PORT says where, --store NAME says which store"),
        (("--redis", "here", "--store", "s"), "'here' is no place for Redis clients"),
        (("--redis", "0", "--store", "s", "--redis-password-file", "none"), "none: No such file or directory"),
        (("--cache-listen", "127.0.0.1:0"), "--cache NAME says which"),
        (("--classic-queue", "dag"), "--classic HOST:PORT says where"),
    ],
)
def test_a_flag_of_another_wheel_that_makes_no_sense_is_found_before_anything_is_made(
    tmp_path: Path, flags: tuple[str, ...], why: str
) -> None:
    status, said = node_fails(*flags, "--data", str(tmp_path / "a"), home=tmp_path)
    assert status == 2
    assert why in said
    assert said.count("\n") == 1
    assert not (tmp_path / "a").exists(), "no pool was founded"


def test_a_data_directory_in_use_is_an_error_that_names_the_process(start: Start, tmp_path: Path) -> None:
    node = start("a")
    node.join_line()
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert status == 2
    assert f"in use by process {node.process.pid}; choose another with --data DIR" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o500)
    status, said = node_fails("--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert "--data DIR" in said


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    status, said = node_fails("--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert "choose another with --data DIR" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--bootstrap", "titan://abc/def@host:1"], "cannot read the join line"),
        (["--listen", "localhost:http"], "flag --listen"),
        (["--max-bytes", "much"], "flag --max-bytes"),
        (["--label", "eu"], "write it like region=eu"),
        (["--trust", "bob"], "64 hexadecimal digits"),
        (["--config", "/no/such/file"], "/no/such/file"),
        (["--listen", "203.0.113.7:0"], "--listen HOST:PORT"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(flags: list[str], says: str, tmp_path: Path) -> None:
    status, said = node_fails("--data", str(tmp_path / "a"), *flags, home=tmp_path)
    assert status == 2, said
    assert says in said
    assert said.count("titan-node: ") == 1


def test_a_wrong_flag_founds_no_pool(tmp_path: Path) -> None:
    node_fails("--data", str(tmp_path / "a"), "--trust", "bob", home=tmp_path)
    assert not (tmp_path / "a" / "pool.key").exists()


def test_settings_come_from_flags_then_variables_then_the_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_text('max_bytes = "5MiB"\nlabels = {region = "eu"}\nlog_level = "error"\n')
    node = start("a", "--label", "rack=7", TITAN_MAX_BYTES="7MiB")
    node.join_line()
    info = titan_json("node", "status", "--data", "a", home=tmp_path)
    assert info["max_bytes"] == 7 << 20
    assert info["labels"] == {"rack": "7"}
    assert node.log == "", "the file says that errors alone are logged"
    shown = titan_json("config", "show", "--origin", "--data", "a", home=tmp_path)
    assert shown["listen"] == {"value": ["127.0.0.1:0"], "origin": "flag --listen"}
    assert shown["labels"] == {"value": {"rack": "7"}, "origin": "flag --label"}
    assert shown["max_bytes"] == {"value": 7 << 20, "origin": "environment TITAN_MAX_BYTES"}
    assert shown["log_level"]["origin"] == f"file {tmp_path / 'a' / 'config.toml'}"
    said = titan("config", "show", "--data", "a", home=tmp_path).stderr.decode()
    assert f"runs on a (process {node.process.pid})" in said
    next_start = titan_json("config", "show", "--next", "--data", "a", home=tmp_path)
    assert (next_start["labels"], next_start["max_bytes"]) == ({"region": "eu"}, 5 << 20)
    checks = {each["what"]: each["text"] for each in titan_json("doctor", "--data", "a", home=tmp_path, status=1)}
    assert checks["settings"] == f"listen 127.0.0.1:0 (process {node.process.pid})"
    assert "may store 7.0 MiB" in checks["disk"]
    assert node.stop() == 0
    assert titan_json("config", "show", "--data", "a", home=tmp_path)["labels"] == {"region": "eu"}


def test_what_a_node_alone_cannot_do_is_said_with_what_is_missing(start: Start, tmp_path: Path) -> None:
    node = start("a", "--label", "cores=9999", "--label", "region=eu")
    node.join_line()
    assert "label cores: a census goes by the cores that nodes measure" in node.log
    assert "label region" not in node.log
    assert titan_json("census", "--where", "cores>=9999", "--data", "a", home=tmp_path) == []
    said = titan("publish", "echo", "--name", "~me/echo", "--data", "a", home=tmp_path).stderr.decode()
    assert "1 of 2 copies so far: the pool has 1 node; more follow when others join" in said
    said = titan("store", "create", "s1", "--data", "a", home=tmp_path, status=1).stderr.decode()
    assert "1 of 1 nodes would: no more were found" in said


def test_json_logs_are_one_object_a_line(start: Start) -> None:
    node = start("a", "--json-logs")
    node.join_line()
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert lines
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)


def test_a_bootstrap_that_is_down_is_tried_again_and_said_so(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", port := free_port()))
        waiting = start("b", "--bootstrap", f"127.0.0.1:{port}")
        waiting.wait_for_log(f"no answer from 127.0.0.1:{port}; trying again")
    founder = start("a", listen=f"127.0.0.1:{port}")
    line = founder.join_line()
    assert waiting.join_line()[:72] == line[:72]


def test_a_node_that_waits_for_its_bootstrap_can_be_stopped(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", 0))
        waiting = start("b", "--bootstrap", f"127.0.0.1:{held.getsockname()[1]}")
        waiting.wait_for_log("trying again")
        assert waiting.stop() == 0


def test_a_join_line_of_another_pool_is_refused(start: Start, tmp_path: Path) -> None:
    one, other = start("a").join_line(), start("b").join_line()
    joined = start("c", "--bootstrap", one)
    joined.join_line()
    assert joined.stop() == 0
    status, said = node_fails(
        "--listen", "127.0.0.1:0", "--data", str(tmp_path / "c"), "--bootstrap", other, home=tmp_path
    )
    assert status == 2
    assert "belongs to pool" in said


def test_the_service_manager_is_told(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        node = start("a", NOTIFY_SOCKET=str(tmp_path / "notify"))
        node.join_line()
        said = [manager.recv(4096)]
        while not said[-1].startswith(b"READY=1"):
            said.append(manager.recv(4096))
        assert node.stop() == 0
        assert manager.recv(4096).startswith(b"STOPPING=1")


def test_titan_node_leave_stops_the_users_own_node_only(start: Start, tmp_path: Path) -> None:
    node = start("a")
    node.join_line()
    titan("node", "leave", "--data", "a", home=tmp_path)
    assert node.process.wait(30) == 0
    said = titan("node", "status", "--data", "a", home=tmp_path, status=2).stderr.decode()
    assert "start one with: titan-node" in said
    assert said.count("\n") == 1


def test_devices_of_the_settings_file_answer(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_text(
        """
        [[device]]
        name = "lab/temperature"
        kind = "sensor"
        command = ["echo", "21.5"]
        unit = "°C"

        [[device]]
        name = "lab/lamp"
        kind = "actuator"
        senders = ["*"]
        commands = { say = { run = ["echo", "level={0}"], args = ["[0-9]+"] } }

        [[device]]
        name = "lab/cat"
        kind = "application"
        run = ["cat"]
        """
    )
    first = start("a")
    first.join_line()
    reading = titan_json("send", "--data", "a", "lab/temperature", "--type", "device.Read", home=tmp_path)
    assert (reading["value"], reading["unit"]) == (21.5, "°C")
    act = ("send", "--data", "a", "lab/lamp", "--type", "device.Act", "-m")
    assert titan_json(*act, '{"command": "say", "args": ["7"]}', home=tmp_path)["output"] == "level=7\n"
    refused = titan(*act, '{"command": "say", "args": ["7; reboot"]}', home=tmp_path, status=1)
    assert b"does not match" in refused.stderr
    assert titan("send", "--data", "a", "lab/cat", "hello", home=tmp_path).stdout == b"hello\n"
    assert first.stop() == 0
    again = start("a")
    again.join_line()
    assert titan("send", "--data", "a", "lab/cat", "hello", home=tmp_path).stdout == b"hello\n"
    assert "warning" not in again.log


def test_a_type_that_cannot_be_set_up_from_the_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_text('[[echo]]\nname = "x"\n')
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert (status, said) == (2, "titan-node: [[echo]]: this type has no from_config; publish it: titan publish echo\n")


def test_a_device_that_is_set_up_wrongly_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a" / "config.toml").write_text('[[device]]\nname = "lab/x"\nkind = "sensor"\n')
    status, said = node_fails("--listen", "127.0.0.1:0", "--data", str(tmp_path / "a"), home=tmp_path)
    assert status == 2
    assert "titan-node: device 'lab/x': give one of file, command, callable, not none\n" in said
