"""What holds for every object of a pool: of each installed type, of the examples, for data and for nodes."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.contract import json_schema
from titan_overlay.ambient import Ambient
from titan_overlay.errors import WireError, from_wire
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.mutable.declare import MutableType
from titan_overlay.mutable.engine import Entry, EntryKind
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.requests import Batch, Request
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.bundles import BundleLoader, Source, runner_of
from titan_overlay.pool.hosting.data import BytesSource, DataRunner
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.hosting.packing import installed_types
from titan_overlay.pool.hosting.runner import Body, Runner, ServiceRunner
from titan_overlay.pool.message import body_from_json, encode_message
from titan_overlay.pool.questions import QUESTIONS, MessageSchema
from titan_overlay.testing.pool import SimulatedPool
from titan_overlay.wire import codec

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)
ALICE = Sender(KEY.id, KEY.public)
EXAMPLES = Path(__file__).parents[2] / "examples"

TABLES: dict[str, list[dict[str, Any]]] = {
    "device": [
        {"name": "sensor", "kind": "sensor", "file": "/proc/loadavg", "value": "text"},
        {"name": "actuator", "kind": "actuator", "senders": ["*"], "commands": {"nod": {"run": ["true"]}}},
        {"name": "application", "kind": "application", "senders": ["*"], "run": ["cat"]},
    ],
    "store": [{"kind": "node", "name": "store", "senders": ["*"]}],
}
"""Installed types that are not published but set up by a node's operator, each in all its kinds."""

PUBLISHED = sorted(installed_types().keys() - TABLES.keys())
CASES = [
    *PUBLISHED,
    *(f"{name}:{table['kind']}" for name, tables in TABLES.items() for table in tables),
    "greeter.py:Greeter",
    "thumbnail.py:Thumbnails",
    "data",
]


def runner(case: str) -> tuple[Runner, Descriptor]:
    """The object of a case, and what its publisher would state of it."""
    if case == "data":
        source = BytesSource(b"some bytes")
        descriptor = Descriptor(names.content_name(source.digest), "data", "", 1, 0.0, content=source.content)
        return DataRunner(source, _signed(descriptor)), descriptor
    file, _, inner = case.partition(":")
    if file.endswith(".py"):
        bundle = Source.of(f"{EXAMPLES / file}:{inner}", KEY, POOL).bundle
        return runner_of(*BundleLoader([KEY.public], POOL).code(bundle, inner, KEY.public)), _service(inner)
    if inner:
        table = next(each for each in TABLES[file] if each["kind"] == inner)
        return ServiceRunner(installed_types()[file].load().from_config(table)), _service(file)
    code = BundleLoader([], POOL).installed_code(case)
    kind = service_type(code.cls)
    if isinstance(kind, MutableType):
        return Alone(kind), msgspec.structs.replace(_service(case), kind="mutable")
    return runner_of(*code), _service(case)


class Alone(Runner):
    """A mutable object whose group is one member without a disk: what is sent to it is executed on the spot."""

    def __init__(self, kind: MutableType) -> None:
        self._machine = Machine(kind, kind.cls(), "it", b"o" * 32)
        self._kind = kind
        self.types = tuple(sorted(kind.handlers))
        self.plain = frozenset(self.types)

    def schema(self) -> dict[str, MessageSchema]:
        return self._kind.schema()

    def call(self, type: str, body: Body, context: Context) -> bytes:
        height = self._machine.height + 1
        request = Request(ALICE.public, 0, 0, 0, f"{height}", type, bytes(body))
        batch = codec.encode(Batch(float(height), b"seed", (request,)))
        reply = self._machine.execute(Entry(height, 1, EntryKind.COMMANDS, batch)).replies[-1]
        if reply.failed:
            raise from_wire(codec.decode(reply.body, WireError))
        return reply.body


def _service(type: str) -> Descriptor:
    return Descriptor("it", "service", type, 1, 0.0)


def _signed(descriptor: Descriptor) -> Signed[Descriptor]:
    return records.sign(descriptor, KEY, POOL)


class Held:
    """One object on a host, and how to ask it."""

    def __init__(self, host: Host, descriptor: Descriptor, runner: Runner) -> None:
        self.host = host
        self.descriptor = descriptor
        self.runner = runner
        self.object_id = names.object_id(POOL, descriptor.name)

    async def raw(self, type: str, body: bytes, *, stream: bool = False) -> bytes:
        """The encoded reply; of a stream, the first item (or nothing)."""
        deadline = asyncio.get_running_loop().time() + 30
        reply = await self.host.deliver(ALICE, self.object_id, type, body, deadline=deadline, stream=stream)
        if isinstance(reply, bytes):
            return reply
        async for item in reply:
            return item
        return b""

    async def ask(self, message: titan.Message[Any]) -> Any:
        return codec.decode(await self.raw(*encode_message(message)), Any)

    async def schema(self) -> dict[str, MessageSchema]:
        return codec.decode(await self.raw("titan.Schema", codec.encode({})), dict[str, MessageSchema])


@pytest.fixture(params=CASES)
async def held(request: pytest.FixtureRequest) -> AsyncIterator[Held]:
    made, descriptor = runner(request.param)
    host = Host(Ambient.system(), pool=POOL, holder=KEY.id)
    await host.open(_signed(descriptor), made)
    yield Held(host, descriptor, made)
    await host.close()


async def test_it_answers_the_questions_that_every_object_answers(held: Held) -> None:
    pong = await held.ask(titan.Ping())
    assert pong["holder"] == KEY.id.hex()
    info = await held.ask(titan.Info())
    assert (info["name"], info["kind"], info["type"]) == (
        held.descriptor.name,
        held.descriptor.kind,
        held.descriptor.type,
    )
    assert (await held.ask(titan.Stats())).keys() == {
        "messages", "errors", "refused", "mean_seconds", "running", "waiting",
    }  # fmt: skip
    assert await held.ask(titan.Describe()) == _signed(held.descriptor).raw


async def test_its_schema_is_json_schema_and_describes_every_message_it_takes(held: Held) -> None:
    schema = await held.schema()
    assert schema.keys() == (set() if held.descriptor.kind == "data" else set(held.runner.types))
    for name, message in schema.items():
        assert message.text, f"{name}: its handler has no docstring"
        json_schema.check(message.message)
        json_schema.check(message.reply)
        assert json.loads(msgspec.json.encode(message)), "it can be shown by `titan describe --json`"


async def test_a_message_without_required_fields_is_understood_when_written_as_json(held: Held) -> None:
    """What `titan send` does: from the schema alone, without the class."""
    for name, message in (await held.schema()).items():
        top = message.message
        top = top.get("$defs", {}).get(top.get("$ref", "").rpartition("/")[2], top)
        if top.get("type") == "object" and "properties" in top and not top.get("required"):
            await held.raw(name, body_from_json("{}", message.message), stream=message.stream)


async def test_what_it_does_not_take_is_refused_by_name(held: Held) -> None:
    for name in ("nothing.Known", "", "titan.Recruit", "x" * 1000):
        with pytest.raises(titan.BadMessage, match=r"Ping, Info, Stats, Schema|takes no"):
            await held.raw(name, codec.encode({}))


async def test_bytes_that_are_no_message_harm_nothing(held: Held) -> None:
    random = Random(7)
    bodies = [b"", b"\xc1", b"\x81", b"\x91" * 5000, codec.encode({"no such field": 1}), codec.encode([1, 2, 3])]
    bodies += [random.randbytes(random.randrange(1, 40)) for _ in range(30)]
    streams = {name for name, message in (await held.schema()).items() if message.stream}
    for name in (*held.runner.types, *sorted(QUESTIONS)):
        for body in bodies:
            try:
                await held.raw(name, body, stream=name in streams)
            except titan.DeadlineExceeded:
                raise
            except titan.RemotableError:
                pass  # bytes may be a message by chance, so the object may say anything but nothing
    assert (await held.ask(titan.Ping()))["holder"] == KEY.id.hex()


def test_every_installed_type_is_among_the_cases() -> None:
    assert {case.partition(":")[0] for case in CASES} >= set(installed_types())
    for name, tables in TABLES.items():
        kinds = [type(installed_types()[name].load().from_config(table)) for table in tables]
        assert len(set(kinds)) == len(tables)


@pytest.mark.loops("virtual")
async def test_nodes_answer_as_objects_do() -> None:
    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        for node in sim.nodes:
            assert (await pool.send(node.name, titan.Ping())).holder == node.key.id.hex()
            assert (await pool.send(node.name, titan.Info())).name == node.name
            assert (await pool.send(node.name, titan.Stats())).errors == 0
            schema = await pool.send(node.name, titan.Schema())
            assert {"titan.Census", "titan.Holdings", "titan.Recruit"} <= schema.keys()
            for message in schema.values():
                json_schema.check(message.message)
                json_schema.check(message.reply)
            with pytest.raises(titan.BadMessage, match="Ping, Info, Stats, Schema"):
                await pool.send(node.name, "hello")
