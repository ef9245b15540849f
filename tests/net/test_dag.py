"""Workflows on real nodes: code that travels, commands, and what is left of a task that is cancelled."""

import asyncio
import base64
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.net import films
from tests.net.commands import BIN, environment
from tests.net.commands import titan as command
from tests.net.nodes import Nodes
from tests.ports import free_port
from titan_objects.dag.inside import Call, Get, Put, Question, Send, Spawn
from titan_objects.dag.limits import Watch
from titan_objects.dag.processes import Failed, run_command
from titan_objects.dag.queue import Workers
from titan_objects.dag.rescue import written
from titan_objects.dag.serving import serve
from titan_objects.dag.warm import Warm

FILE = """\
name: night
tasks:
  - {id: hello, run: "sh -c 'echo hello; echo data > out.txt'", outputs: [out.txt]}
  - {id: bad, run: "false", needs: [hello], on_failure: ignore}
  - {id: end, run: "echo end", needs: [bad]}
"""

DAY = """\
name: day
tasks:
  - {id: web, run: "python -m http.server PORT --bind 127.0.0.1", type: service, service: {port: PORT}}
  - {id: get, run: "python -c 'import urllib.request as u; u.urlopen(\\"http://127.0.0.1:PORT\\")'", needs: [web]}
  - {id: once, run: "echo once", cache_key: auto}
  - {id: items, uses: ./items.yaml, inputs: {over: [1, 2, 3]}, needs: [get, once]}
"""
ITEMS = """\
name: items
params: {over: null}
tasks:
  - {id: say, run: [echo, item, "${item}"], map: {over: "${params.over}"}}
"""


ONE = f"test-dag-{os.getpid()}"
"""Mark of a process: whoever ends one ends all with its mark, those of tests that run beside this one too."""


class Notes:
    """What was heard of a task."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def line(self, text: str) -> None:
        self.heard.append(text)

    def progress(self, done: float) -> None:
        self.heard.append(done)

    def up(self, where: Any) -> None:
        self.heard.append(where)

    async def ask(self, what: Question) -> Any:
        assert isinstance(what, Spawn)
        self.heard.append([each["id"] for each in what.tasks])


async def test_a_function_in_a_process_of_its_own_is_heard_while_it_runs() -> None:
    warm = Warm(Path(films.__file__).parent, ONE, Watch())
    for function, args, value in (("crawl", [3], 3), ("render", [1], b"1," * 5000), ("crawl", [0], 0)):
        notes = Notes()
        answer = await warm.call(Call(f"films:{function}", args, {}, 5), notes)
        assert msgspec.msgpack.decode(answer) == value
        expected = ["frame 1"] if function == "render" else [0.5, *([["crawl-in-5"]] if value else [])]
        assert notes.heard == expected
    await warm.close()


async def test_a_question_that_ends_as_nobody_foresaw_is_answered() -> None:
    class Broken(Notes):
        async def ask(self, what: Question) -> Any:
            raise OSError("the disk is full")

    warm = Warm(Path(films.__file__).parent, ONE, Watch())
    with pytest.raises(Failed, match="the disk is full"):
        await asyncio.wait_for(warm.call(Call("films:crawl", [3], {}, 5), Broken()), 30)
    await warm.close()


async def test_an_error_may_have_a_text_that_no_message_can_have(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def odd():\n    raise ValueError('caf\\udce9.txt')\n")
    warm = Warm(tmp_path, ONE, Watch())
    with pytest.raises(Failed, match=r"caf.*\.txt") as failed:
        await warm.call(Call("odd:odd", [], {}), Notes())
    assert failed.value.failure.kind == "ValueError"
    await warm.close()


class Asked(Notes):
    """Does what a task asks for, by itself: one object, which keeps a slow question until another one comes."""

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, bytes] = {}
        self.goes_on = asyncio.Event()

    async def ask(self, what: Question) -> Any:
        match what:
            case Send("store", "list", body):
                words = msgspec.msgpack.decode(body)
                self.heard.append(words)
                if words == ["go on"]:
                    self.goes_on.set()
                if words == ["slow"]:
                    await self.goes_on.wait()
                return words[0]
            case Send(name):
                raise titan.NotFound(f"no {name}")
            case Put(data):
                self.data["sha256:it"] = data
                return "sha256:it"
            case Get(name):
                return self.data[name]
        raise AssertionError(what)


async def test_a_task_reaches_the_pool_through_its_worker_from_several_threads() -> None:
    warm = Warm(Path(films.__file__).parent, ONE, Watch())
    for _ in range(2):  # the process is as it was before
        answer = await warm.call(Call("films:relay", ["store", ["GET", "k"]], {}), Asked())
        assert msgspec.msgpack.decode(answer) == ["GET", "no nobody"]
    await warm.close()


@pytest.mark.slow
async def test_functions_and_commands_run_on_the_workers_of_nodes(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        door = nodes.add("--workers", "2", "--queue", "dag", "--worker-commands", "trusted")
        nodes.by_id[door].wait_for_log("2 workers at the queue")
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish("dag", "dag")
            while not await pool.read("dag", Workers()):
                await asyncio.sleep(0.1)
            run = await films.film.submit(pool, n=5)
            assert await run.result() == {"frames": 5, "bytes": 50000}
            assert sorted([line.text async for line in run.logs()]) == [f"frame {n}" for n in range(5)]
            found = await run.rescue()
            results = {key: value for key, value in found.found.results.items() if key != "join"}
            found = msgspec.structs.replace(found, found=msgspec.structs.replace(found.found, results=results))
            (tmp_path / "film.rescue").write_bytes(written(found))
        (tmp_path / "night.yaml").write_text(FILE)
        here = {"TITAN_BOOTSTRAP": nodes.line}
        (tmp_path / "cut.rescue").write_bytes((tmp_path / "film.rescue").read_bytes()[:-1])
        refused = command("dag", "submit", "cut.rescue", "--data", "node0", home=tmp_path, status=2, **here)
        assert b"cut.rescue: it is damaged" in refused.stderr
        done = command("dag", "submit", "film.rescue", "--wait", "--data", "node0", home=tmp_path, **here)
        assert b"{'frames': 5, 'bytes': 50000}" in done.stdout and b"frame" not in done.stderr, "joined, not rendered"
        done = command("dag", "submit", "night.yaml", "--wait", "--data", "node0", home=tmp_path, **here)
        assert b"has succeeded" in done.stdout
        assert b"hello: hello" in done.stderr
        (tmp_path / "day.yaml").write_text(DAY.replace("PORT", str(free_port())))
        (tmp_path / "items.yaml").write_text(ITEMS)
        for known in (b"", b"known"):
            done = command("dag", "submit", "day.yaml", "--wait", "--data", "node0", home=tmp_path, **here)
            assert b"has succeeded" in done.stdout
            assert b"items/say[1]: item 2" in done.stderr
            name = done.stdout.split()[0].decode()
            shown = command("dag", "show", name, "--data", "node0", home=tmp_path, **here).stdout
            assert shown.count(b"SUCCEEDED") == 6
            assert known in next(line for line in shown.splitlines() if b"once" in line)


async def test_a_service_is_there_when_its_port_answers_and_ends_with_all_that_it_started(tmp_path: Path) -> None:
    watch = Watch()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(Failed, match="something else"):
        await serve(run_command(["true"], tmp_path, "svc", print, watch), port, 5, print)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    up: asyncio.Queue[Any] = asyncio.Queue()
    task = asyncio.create_task(
        serve(run_command(server, tmp_path, "svc", lambda line: None, watch), port, 60, up.put_nowait)
    )
    assert (await up.get())["port"] == port
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with pytest.raises(OSError, match=r"refused|failed"):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(Failed, match="did not answer"):
        await serve(run_command(["sleep", "60"], tmp_path, "svc", print, watch), port, 0.2, print)
    with pytest.raises(Failed, match="status 1"):
        await serve(run_command(["false"], tmp_path, "svc", print, watch), port, 60, print)


@pytest.mark.slow
async def test_ended_runs_are_kept_in_a_database_and_run_again_from_there(tmp_path: Path) -> None:
    with Nodes(tmp_path, 1) as nodes:
        nodes.add("--workers", "2")
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish("dag", "dag", policy=titan.Policy(faults=0))
            while not await pool.read("dag", Workers()):
                await asyncio.sleep(0.1)
            run = await films.film.submit(pool, n=2)
            await run.result()
            await (await films.film.submit(pool, n=2)).act("suspend")  # has not ended, so it is not kept
        here = {"TITAN_BOOTSTRAP": nodes.line}
        words = ("--archive", "runs.db", "--data", "node0")
        kept = command("dag", "archive", "add", *words, home=tmp_path, **here).stdout.decode()
        assert kept == f"{run.name} is kept\n"
        again = command("dag", "archive", "rerun", run.name, "--task", "join", *words, home=tmp_path, **here).stdout
        assert again.startswith(run.name.rpartition("/")[0].encode())


def asked(address: str, opcode: int, body: str) -> tuple[int, str]:
    """What a gateway answers a program of the Titan orchestrator, which opens a connection for each request."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        data = body.encode()
        connection.sendall(struct.pack(">BBBBI", 1, opcode, 0, 0, len(data)) + data)
        with connection.makefile("rb") as reply:
            _, code, _, _, length = struct.unpack(">BBBBI", reply.read(8))
            return code, reply.read(length).decode()


@pytest.mark.slow
def test_programs_of_the_titan_orchestrator_submit_to_the_pool(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        here = {"TITAN_BOOTSTRAP": nodes.line}
        command("publish", "dag", "--name", "dag", "--data", "node0", home=tmp_path, **here)
        worker = nodes.add("--workers", "2", "--worker-commands", "trusted")
        nodes.by_id[worker].wait_for_log("2 workers at the queue")
        command("store", "create", "store/main", "--data", "node0", home=tmp_path, **here)
        words = [BIN / "titan", "dag", "gateway", "--listen", "127.0.0.1:0", "--store", "store/main", "--data", "node0"]
        program = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment(tmp_path, **here)
        )
        try:
            assert program.stdout is not None
            door = program.stdout.readline().split()[-1]
            script = base64.b64encode(b"import sys\nprint('got', *sys.argv[1:])\n").decode()
            jobs = (
                f"p|RUN_PAYLOAD|a.py|1 2|{script}|GENERAL|1|0|[] ; "
                f"q|RUN_PAYLOAD|a.py||{script}|GENERAL|5|50|[p]|AFFINITY"
            )
            while asked(door, 0x04, jobs) != (0x50, "DAG_ACCEPTED"):  # workers are known after a while
                pass
            while (status := asked(door, 0x55, "q")) in ((0x50, "PENDING"), (0x50, "RUNNING")):
                pass
            assert status == (0x50, "COMPLETED")
            assert asked(door, 0x16, "DAG-p") == (0x50, "got 1 2")
            assert asked(door, 0x57, f"b.py|{script}") == (0x50, "DEPLOY_SUCCESS")
            queued = asked(door, 0x06, "b.py|GENERAL")
            assert queued[0] == 0x50
            while asked(door, 0x55, job := queued[1].split()[-1]) != (0x50, "COMPLETED"):
                pass
            assert asked(door, 0x16, job) == (0x50, "got")
        finally:
            program.kill()
            program.wait()
            if program.stdout is not None:
                program.stdout.close()
