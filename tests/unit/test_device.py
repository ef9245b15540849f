"""Devices: what an operator may write, and what a sensor, an actuator and an application do with it."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import titan_overlay as titan
from titan_objects.device import Act, Commands, Device, Read, Watch, processes
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Context, Sender

PYTHON = sys.executable
ME = bytes(range(32))

# A program that answers lines: it may be told to end, to sleep, or to say too much.
ANSWERER = """
import os, sys, time
print("ready", file=sys.stderr, flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "end":
        sys.exit(3)
    if word == "sleep":
        time.sleep(60)
    if word == "much":
        word = "x" * 5000
    print(word.upper() if word != "pid" else os.getpid(), flush=True)
"""


class Nobody:
    """No other object can be reached from a device in these tests."""

    async def send(self, *_: object) -> bytes:
        raise AssertionError("a device sends nothing")

    def stream(self, *_: object) -> AsyncIterator[bytes]:
        raise AssertionError("a device sends nothing")


def context(sender: bytes = ME, seconds: float = 20.0) -> Context:
    now = asyncio.get_running_loop().time()
    return Context(Sender(NodeId(sender), b""), "dev", bytes(32), now + seconds, now, Nobody())


@asynccontextmanager
async def running(**table: Any) -> AsyncIterator[Any]:
    device = Device.from_config({"name": "dev", **table})
    if hasattr(device, "start"):
        await device.start(context())
    try:
        yield device
    finally:
        if hasattr(device, "stop"):
            await device.stop()


# --- tables ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "sensor"}, "give one of file, command, callable, not none"),
        ({"kind": "sensor", "file": "/x", "command": ["y"]}, "not file and command"),
        ({"kind": "sensor", "fiel": "/x"}, "fiel"),
        ({"kind": "sensor", "file": "/x", "interval": -1}, "interval"),
        ({"kind": "sensor", "callable": "os"}, "callable"),
        ({"kind": "sensor", "callable": "os:no_such_function"}, "no function 'os:no_such_function'"),
        ({"kind": "lamp"}, "lamp"),
        ({}, "kind"),
        ({"kind": "actuator", "commands": {"on": ["true"]}}, "say who may use it"),
        ({"kind": "actuator", "senders": ["*"], "commands": {}}, "commands"),
        ({"kind": "actuator", "senders": ["*"], "commands": {"on": "true"}}, "commands"),
        ({"kind": "actuator", "senders": ["bob"], "commands": {"on": ["true"]}}, "'bob' is neither"),
        ({"kind": "actuator", "senders": ["*"], "commands": {"s": {"run": ["x", "{0}"]}}}, "patterns"),
        ({"kind": "actuator", "senders": ["*"], "commands": {"s": {"run": ["{0}"], "args": ["a"]}}}, "program itself"),
        ({"kind": "actuator", "senders": ["*"], "commands": {"s": {"run": ["x{0}"], "args": ["("]}}}, "not a regular"),
        ({"kind": "application"}, "give one of run, connect"),
        ({"kind": "application", "connect": "nowhere"}, "not host:port"),
        ({"kind": "application", "run": ["cat"], "framing": "connection"}, "goes with connect"),
    ],
)
def test_a_wrong_table_is_refused_naming_the_device_and_what_is_wrong(table: dict[str, Any], says: str) -> None:
    with pytest.raises(titan.ConfigError) as caught:
        Device.from_config({"name": "attic/x", **table})
    assert "'attic/x'" in str(caught.value)
    assert says in str(caught.value)


# --- sensors --------------------------------------------------------------------------------------------------


async def test_a_sensor_reads_a_file_scales_it_and_says_its_age(tmp_path: Path) -> None:
    file = tmp_path / "temp"
    file.write_text("21500\n")
    async with running(kind="sensor", file=str(file), scale=0.001, unit="°C", interval=0.05) as sensor:
        first = await sensor.read(Read(), context())
        assert (first.value, first.unit, first.error) == (21.5, "°C", "")
        assert 0 <= first.age < 20
        file.write_text("30000\n")
        async with asyncio.timeout(20):
            while (await sensor.read(Read(), context())).value != 30.0:
                await asyncio.sleep(0.01)


async def test_a_sensor_that_fails_keeps_its_last_reading_and_says_why(tmp_path: Path) -> None:
    file = tmp_path / "temp"
    file.write_text("1")
    async with running(kind="sensor", file=str(file), interval=0) as sensor:
        assert (await sensor.read(Read(), context())).error == ""
        file.unlink()
        later = await sensor.read(Read(), context())
        assert later.value == 1.0
        assert "No such file" in later.error


async def test_a_sensor_without_any_reading_is_unavailable(tmp_path: Path) -> None:
    async with running(kind="sensor", file=str(tmp_path / "none"), interval=0) as sensor:
        with pytest.raises(titan.Unavailable, match="No such file"):
            await sensor.read(Read(), context())


async def test_a_sensor_file_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with running(kind="sensor", file=str(pipe), value="text", interval=0) as sensor:
        assert (await sensor.read(Read(), context())).value == ""


async def test_a_sensor_runs_a_command_without_a_shell() -> None:
    async with running(kind="sensor", command=["echo", "$HOME;{}"], value="text", interval=0) as sensor:
        assert (await sensor.read(Read(), context())).value == "$HOME;{}"


async def test_a_sensor_command_is_ended_when_it_takes_too_long() -> None:
    async with running(kind="sensor", command=["sleep", "60"], timeout=0.1, interval=0) as sensor:
        with pytest.raises(titan.Unavailable, match=r"longer than 0\.1 s"):
            await sensor.read(Read(), context())


async def test_a_sensor_calls_a_function_of_an_installed_module() -> None:
    async with running(kind="sensor", callable="os:getpid", interval=0) as sensor:
        assert (await sensor.read(Read(), context())).value == os.getpid()


async def test_a_sensor_takes_json_and_refuses_what_is_no_number() -> None:
    async with running(kind="sensor", command=["echo", '{"a": [1]}'], value="json", interval=0) as sensor:
        assert (await sensor.read(Read(), context())).value == {"a": [1]}
    async with running(kind="sensor", command=["echo", "warm"], interval=0) as sensor:
        with pytest.raises(titan.Unavailable, match="'warm' is not a number"):
            await sensor.read(Read(), context())


async def test_watching_a_sensor_yields_each_reading(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    async with running(kind="sensor", file=str(file), interval=0.01) as sensor:
        seen = []
        async for reading in sensor.watch(Watch(count=3), context()):
            seen.append(reading.value)
            file.write_text(str(len(seen)))
        assert len(seen) == 3
        assert seen == sorted(seen)


async def test_only_listed_senders_may_read(tmp_path: Path) -> None:
    async with running(kind="sensor", command=["echo", "1"], senders=[ME.hex()[:32]], interval=0) as sensor:
        assert (await sensor.read(Read(), context())).value == 1.0
        with pytest.raises(titan.Forbidden, match="its operator lists who may"):
            await sensor.read(Read(), context(sender=bytes(32)))


# --- actuators ------------------------------------------------------------------------------------------------


def actuator(**more: Any) -> Any:
    commands = {
        "say": {"run": ["echo", "level={0}", "{1}"], "args": ["[0-9]{1,3}", "[a-z{}0-9]*"]},
        "option": {"run": ["echo", "{0}"], "args": [".*"]},
        "fail": [PYTHON, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"],
        "flood": [PYTHON, "-c", "print('x' * 1000000)"],
        "hang": ["sleep", "60"],
        "missing": ["/no/such/program"],
    }
    return running(kind="actuator", senders=["*"], commands=commands, **more)


async def test_an_actuator_runs_a_listed_command_with_arguments_that_match() -> None:
    async with actuator() as device:
        done = await device.act(Act("say", ["42", "on"]), context())
        assert (done.status, done.output, done.truncated) == (0, "level=42 on\n", False)
        assert (await device.commands(Commands(), context()))["say"] == ["[0-9]{1,3}", "[a-z{}0-9]*"]


@pytest.mark.parametrize(
    ("command", "args", "says"),
    [
        ("off", [], "has no command 'off'; it has fail, "),
        ("say", ["1"], "takes 2 arguments"),
        ("say", ["1; reboot", "on"], "argument 0 does not match"),
        ("say", ["1\n", "on"], "argument 0 does not match"),
        ("option", ["--help"], "argument 0 does not match"),
        ("option", ["x" * 300], "argument 0 does not match"),
        ("option", ["a\0b"], "argument 0 does not match"),
    ],
)
async def test_an_actuator_refuses_what_is_not_allowed(command: str, args: list[str], says: str) -> None:
    async with actuator() as device:
        with pytest.raises(titan.BadMessage) as caught:
            await device.act(Act(command, args), context())
        assert says in str(caught.value)


async def test_an_argument_that_looks_like_a_place_stays_as_it_is() -> None:
    async with actuator() as device:
        assert (await device.act(Act("say", ["7", "{0}"]), context())).output == "level=7 {0}\n"


async def test_an_actuator_reports_status_and_both_outputs() -> None:
    async with actuator() as device:
        done = await device.act(Act("fail"), context())
        assert (done.status, done.output, done.errors) == (4, "out\n", "err\n")


async def test_output_is_cut_at_the_limit_and_the_program_still_ends() -> None:
    async with actuator(output_bytes_max=1000) as device:
        done = await device.act(Act("flood"), context())
        assert (done.status, len(done.output), done.truncated) == (0, 1000, True)


async def test_a_command_that_hangs_is_ended() -> None:
    async with actuator(timeout=0.1) as device:
        with pytest.raises(titan.DeadlineExceeded) as caught:
            await device.act(Act("hang"), context())
        assert caught.value.maybe_executed


async def test_a_program_that_is_not_there_is_said_so() -> None:
    async with actuator() as device:
        with pytest.raises(titan.Unavailable, match="cannot be started: No such file"):
            await device.act(Act("missing"), context())


# --- applications ---------------------------------------------------------------------------------------------


def application(**more: Any) -> Any:
    return running(kind="application", run=[PYTHON, "-c", ANSWERER], restart_after=0.01, **more)


async def test_an_application_answers_a_line_with_a_line() -> None:
    async with application() as device:
        assert await device.text("hello", context()) == "HELLO"
        assert await device.bytes_(b"again", context()) == b"AGAIN"
        with pytest.raises(titan.BadMessage, match="one line at a time"):
            await device.text("a\nb", context())


async def test_an_application_that_ends_is_started_again() -> None:
    async with application() as device:
        first = await device.text("pid", context())
        with pytest.raises(titan.Unavailable, match="ended before it had answered") as caught:
            await device.text("end", context())
        assert caught.value.maybe_executed
        assert await device.text("pid", context()) != first


async def test_a_late_answer_never_answers_the_next_request() -> None:
    async with application(timeout=0.5) as device:
        async with asyncio.timeout(20):
            while True:  # until the program is up
                try:
                    assert await device.text("one", context()) == "ONE"
                    break
                except titan.Unavailable:
                    pass
        with pytest.raises(titan.Unavailable, match=r"no answer within 0\.5 s"):
            await device.text("sleep", context())
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await device.text("two", context()) == "TWO"
                    break
                except titan.Unavailable:
                    pass


async def test_a_reply_over_the_limit_is_an_error() -> None:
    async with application(reply_bytes_max=1000) as device:
        with pytest.raises(titan.Unavailable, match="longer than reply_bytes_max"):
            await device.text("much", context())
        assert await device.text("fine", context()) == "FINE"


async def test_no_program_outlives_its_device() -> None:
    async with application() as device:
        pid = int(await device.text("pid", context()))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_an_application_that_cannot_start_says_why() -> None:
    async with running(kind="application", run=["/no/such/program"], timeout=0.2) as device:
        with pytest.raises(titan.Unavailable, match="cannot be started"):
            await device.text("hello", context())


async def _length_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while size := await reader.read(4):
        body = await reader.readexactly(int.from_bytes(size, "big"))
        writer.write(len(body).to_bytes(4, "big") + body[::-1])


async def _connection_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"<" + await reader.read() + b">")


@pytest.mark.parametrize(
    ("framing", "server", "expected"),
    [("length", _length_server, b"b\na"), ("connection", _connection_server, b"<a\nb>")],
)
async def test_an_application_behind_a_port(framing: str, server: Any, expected: bytes) -> None:
    conversations = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.current_task())
        await server(reader, writer)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with running(kind="application", connect=f"127.0.0.1:{port}", framing=framing) as device:
            assert await device.bytes_(b"a\nb", context()) == expected
            assert await device.bytes_(b"a\nb", context()) == expected
        await asyncio.gather(*conversations)


@pytest.mark.loops("real", "node")
async def test_an_application_that_resets_its_connection_is_connected_to_again() -> None:
    served: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.put_nowait(writer)
        writer.write((await reader.readline()).upper())
        await reader.read()
        writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with running(kind="application", connect=f"127.0.0.1:{port}", framing="line") as device:
            assert await device.text("a", context()) == "A"
            there = served.get_nowait()
            there.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            there.transport.abort()
            with pytest.raises(ConnectionResetError):
                await device._channel._writer.wait_closed()
            with pytest.raises(titan.Unavailable):
                await device.text("b", context())
            assert await device.text("c", context()) == "C"
        served.get_nowait().close()


async def test_a_port_where_nobody_listens_is_unavailable_and_nothing_ran() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: nobody else gets it
        async with running(kind="application", connect=f"127.0.0.1:{taken.getsockname()[1]}") as device:
            with pytest.raises(titan.Unavailable) as caught:
                await device.text("hello", context())
            assert not caught.value.maybe_executed


async def test_a_program_that_is_ended_is_left_to_the_loop_to_reap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else asked for its status would take it away, and the loop would warn of a child it does not know."""
    process = await processes.start(["cat"], talks=True)
    popen = process._transport._proc  # type: ignore[attr-defined]
    monkeypatch.setattr(popen, "poll", lambda: pytest.fail("its status was taken"))
    await processes.end(process)
    assert process.returncode == -signal.SIGKILL


async def test_a_pipe_that_somebody_else_holds_open_keeps_nobody_who_ends_the_program() -> None:
    hold = "import subprocess, sys; other = subprocess.Popen(['sleep', '60'], start_new_session=True)"
    process = await processes.start(
        [PYTHON, "-c", f"{hold}; print(other.pid, flush=True); sys.stdin.read()"], talks=True
    )
    assert process.stdout is not None
    other = int(await process.stdout.readline())
    try:
        async with asyncio.timeout(10):
            await processes.end(process)
    finally:
        os.kill(other, signal.SIGKILL)
