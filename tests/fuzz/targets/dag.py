"""DAGs: definitions in files of all kinds, and what tasks and other workers give."""

import asyncio
import base64
import io
import json
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

import msgspec

import titan_overlay as titan
from tests.fuzz.target import Drawn, target
from titan_objects.dag.bundles import lay_out
from titan_objects.dag.classic.jobs import PACKAGE, submission
from titan_objects.dag.classic.wire import Decoder, Frame, encode
from titan_objects.dag.conversation import Frames
from titan_objects.dag.definition import Definition
from titan_objects.dag.errands import Errands
from titan_objects.dag.inside import Answer, Asked, Get, Progress, Send
from titan_objects.dag.journal import Adopt, Success
from titan_objects.dag.processes import Failed, decoded
from titan_objects.dag.projects import unzip
from titan_objects.dag.reading import read_definition
from titan_objects.dag.rescue import Rescue, data_named, read_rescue, written

DATA = f"sha256:{sha256().hexdigest()}"
SUFFIXES = ("json", "toml", "yaml")
YAML = b"""name: two
tasks:
  - {id: a, run: [echo, hello], retry: {max_attempts: 3}}
  - {id: b, run: [cat], depends: "a.Succeeded && !a.Failed", inputs: {x: "${a}"}}
"""
TOML = b"""name = "one"
[[tasks]]
id = "a"
run = ["true"]
timeout = {run = "10m"}
"""
WFFORMAT = {
    "name": "it",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {"tasks": [{"id": "x", "parents": []}]},
        "execution": {"tasks": [{"id": "x", "runtimeInSeconds": 1.5, "command": {"program": "x", "arguments": []}}]},
    },
}
JOBS = b"""name: night
jobs:
  - {id: prepare, file: a.py, args: "one 'and two'", requirement: GPU, priority: 5, delay: 1500}
"""


def _files() -> list[bytes]:
    return [b"\0" + json.dumps(WFFORMAT).encode(), b"\1" + TOML, b"\2" + YAML, b"\2" + JOBS]


@target(titan.ConfigError, UnicodeDecodeError, seeds=_files, limit=4096)
def dag_definition(data: bytes) -> None:
    """A file that says what a DAG is: a definition that is the same once it is written out, or what is wrong where."""
    draw = Drawn(data)
    suffix = SUFFIXES[draw.below(len(SUFFIXES))]
    definition = read_definition(draw.rest().decode(), f"it.{suffix}")
    assert msgspec.json.decode(msgspec.json.encode(definition), type=Definition) == definition


@target(Failed, seeds=lambda: [msgspec.msgpack.encode({"a": [1, "x"]})])
def dag_value(data: bytes) -> None:
    """What a task gave, or another worker left in the pool."""
    decoded(data)


def _rescues() -> list[bytes]:
    made = msgspec.convert({"name": "it", "tasks": [{"id": "a", "run": "true"}]}, Definition)
    found = Adopt({"a": Success(b"x")}, epoch=3)
    one = Rescue(origin="it", definition=made, found=found, data={DATA: b""}, code={"a.py": b""})
    using = msgspec.convert({"name": "it", "tasks": [{"id": "u", "uses": "it"}]}, Definition)
    return [written(each) for each in (one, Rescue(origin="up", definition=using, children={"u": [one]}))]


@target(titan.ConfigError, seeds=_rescues)
def dag_rescue(data: bytes) -> None:
    """A rescue file: a run could go on from it, and it is the same once it is written again; or what is wrong."""
    found = read_rescue(data, "it.rescue")
    assert read_rescue(written(found), "it.rescue") == found
    assert all(name.startswith("sha256:") for name in data_named(found))


def _said() -> list[bytes]:
    bodies = [msgspec.msgpack.encode(each) for each in (Answer(b"x"), Asked(1, Get("x")), Progress(0.5))]
    frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    return [*frames, b"".join(frames)]


@target(Failed, seeds=_said)
def dag_said(data: bytes) -> None:
    """What a task says to its worker, however cut."""
    whole, pieces = Frames(), Frames()
    whole.feed(data)
    fed = 0
    while (said := whole.next()) is not None:
        while (again := pieces.next()) is None:
            pieces.feed(data[fed : fed + 1])
            fed += 1
        assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(said)
        assert len(whole) == len(data) - fed


@target(
    Failed,
    seeds=lambda: [msgspec.msgpack.encode({"a.py": b"x = 1", "b/c.py": b""}), msgspec.msgpack.encode({"../a": b""})],
)
def dag_code(data: bytes) -> None:
    """The files of a bundle, whatever they are called, stay in their directory."""
    try:
        files = msgspec.msgpack.decode(data, type=dict[str, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "code"
        place.mkdir()
        lay_out(files, place)
        assert [each.name for each in Path(directory).iterdir()] == ["code"]


def _archives() -> list[bytes]:
    found = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", kind) as archive:
            archive.writestr("a.py", b"x = 1")
            archive.writestr("b/c", bytes(100))
        found.append(made.getvalue())
    return [*found, found[0].replace(b"b/c", b"../")]


@target(Failed, seeds=_archives, limit=4096)
def dag_project(data: bytes) -> None:
    """The files of an archive, whatever they are called, stay in their directory."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "code"
        place.mkdir()
        unzip(data, place)
        assert [each.name for each in Path(directory).iterdir()] == ["code"]


def _classic() -> list[bytes]:
    script = base64.b64encode(b"print(1)").decode()
    full = f"x|RUN_PAYLOAD|a.py|1 2|{script}|GPU|5|100|[p,q]|AFFINITY"
    dag = f"p|RUN_PAYLOAD|a.py||{script}|GENERAL|1|0|[];q|RUN_PAYLOAD|b.py|;|{script}|GENERAL|1|0|[p] ; {full}"
    return [encode(0x04, dag.encode()), encode(0x03, full[2:].encode()) + encode(0x09, b""), encode(0x55, b"DAG-x")]


@target(titan.BadMessage, UnicodeDecodeError, seeds=_classic, limit=4096)
def classic(data: bytes) -> None:
    """What a program of the Titan orchestrator sends, however cut: frames, and jobs that make a definition."""
    whole, pieces = Decoder(), Decoder()
    whole.feed(data)
    first, second = [], []
    while (frame := whole.next()) is not None:
        first.append(frame)
    for at in range(len(data)):
        pieces.feed(data[at : at + 1])
        while (frame := pieces.next()) is not None:
            second.append(frame)
    assert first == second
    for frame in first:
        if isinstance(frame, Frame):
            assert frame.body in data
            made = submission(frame.body.decode(), "JOB-1" if frame.opcode == 0x03 else "")
            assert all(f"{PACKAGE}/" in name and name.endswith(".py") for name in made.files)
            assert all(task.run[1] in made.files for task in made.definition.tasks)  # type: ignore[index]


class _Replying:
    """A pool whose objects answer what they like."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply

    async def send_raw(self, name: str, kind: str, body: bytes, *, timeout: float) -> bytes:
        return self._reply


@target(titan.BadMessage, seeds=lambda: [msgspec.msgpack.encode({"a": [1, b"x"]})])
def task_reply(data: bytes) -> None:
    """What an object answers to a task that asks it: builtins, or an error for the task."""
    asyncio.run(Errands(_Replying(data)).do(Send("sums", "list", b"", 1.0)))  # type: ignore[arg-type]
