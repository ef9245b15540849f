"""Objects and the code behind them: messages to what is held here, bundles, workers, what nodes say of themselves."""

import asyncio
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec

from tests.fuzz.samples import sample
from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import (
    DATA,
    DATA_ID,
    DATA_NAME,
    ME,
    NODES,
    NOW,
    OWNER,
    POOL,
    RIGHTS,
    advertisement,
    ambient,
    descriptor,
    node,
    object_id,
    peer,
    run,
    signed,
)
from titan_objects.cache import wire
from titan_objects.device.actuator import Actuator
from titan_objects.device.messages import Act
from titan_objects.device.tables import parse
from titan_objects.echo import Count, Echo
from titan_overlay.errors import BadMessage, Forbidden, LinkError, NotFound, RemotableError, Unavailable
from titan_overlay.identity import names, records
from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.statements import Descriptor, Policy, check_descriptor
from titan_overlay.node_object import NodeObject
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.finding import any_holder, census
from titan_overlay.pool.finding.places import Places
from titan_overlay.pool.finding.witness import Witness
from titan_overlay.pool.hosting import importer, packing
from titan_overlay.pool.hosting.data import BytesSource, DataRunner, Fetch, Manifest, Read
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.hosting.packing import BUNDLE_BYTES_MAX, BundleSignature, Packed
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.hosting.worker_frames import Ask, Done, Failed, Ready, frame
from titan_overlay.pool.hosting.worker_log import TEXT_CHARACTERS_MAX, Lines
from titan_overlay.pool.hosting.workers import _Worker
from titan_overlay.pool.orders import Accepted, Bury, DialBack, Neighbours, NodeInfo, Pins, Recruit, StepDown
from titan_overlay.pool.pins import find_pin
from titan_overlay.pool.questions import QUESTIONS
from titan_overlay.wire import codec

INFO: NodeInfo = msgspec.structs.replace(sample(NodeInfo), labels={"region": "eu", "memory": "8GiB"})


# --- messages to what is held ---------------------------------------------------------------------------------


class _Actions:
    """The node around a node object: it does nothing."""

    async def take(self, order: Recruit, *_: Any) -> Accepted:
        check_descriptor(order.descriptor, None, RIGHTS)
        return Accepted(b"", 0)

    async def bury(self, tombstone: bytes) -> str:
        return "wrong token"

    def pins(self, order: Pins) -> list[bytes]:
        return []

    async def step_down(self, order: StepDown, sender: Sender) -> bool:
        return False

    async def dial_back(self, agent: Any, port: int) -> bool:
        return 0 < port < 65536

    def info(self) -> NodeInfo:
        return INFO

    def holdings(self) -> list[Any]:
        return []

    def neighbours(self, count: int) -> list[Any]:
        return [peer(1)][:count]

    def is_owner(self, public: bytes) -> bool:
        return False

    def leave(self) -> None:
        raise AssertionError("a stranger has told the node to leave")


@cache
def _host() -> Host:
    source = BytesSource(DATA)
    node_itself = Descriptor(names.node_name(ME.id), "service", "node", 1, NOW, Policy(min_copies=1, bound=True))
    host = Host(ambient(), pool=POOL, holder=ME.id)
    host.add(descriptor(), ServiceRunner(Echo()))
    host.add(descriptor(DATA_NAME), DataRunner(source, descriptor(DATA_NAME)))
    host.add(records.sign(node_itself, ME, POOL), ServiceRunner(NodeObject(_Actions())))
    return host


_TYPES = sorted(
    {*QUESTIONS, "str", "bytes", Count.wire_type}
    | {cls.wire_type for cls in (Fetch, Manifest, Read, Recruit, Bury, Pins, StepDown, DialBack, Neighbours)}
    | {"titan.Census", "titan.Holdings", "titan.Leave"}
)


def _messages() -> list[bytes]:
    made = [
        (0, "str", "hello"),
        (0, Count.wire_type, Count(3)),
        (1, Fetch.wire_type, Fetch(0)),
        (1, "titan.Read", Read()),
    ]
    made += [(2, "titan.Recruit", Recruit(descriptor().raw)), (2, "titan.DialBack", DialBack(4747))]
    made += [(2, "titan.Neighbours", Neighbours(64)), (0, "titan.Schema", {})]
    ids = sorted(_host().ids())
    whom = [ids.index(each) for each in (object_id(), object_id(DATA_NAME), ME.id)]
    return [bytes((whom[which], 2, _TYPES.index(kind), 0)) + codec.encode(body) for which, kind, body in made]


@target(RemotableError, seeds=_messages)
def message(data: bytes) -> None:
    """A message of any type with any body, to a service, to data, to the node: an answer, or an error of ours."""
    run(_deliver(data))


async def _deliver(data: bytes) -> None:
    draw = Drawn(data)
    host = _host()
    whom = sorted(host.ids())[draw.below(3)]
    chain = (whom,) * draw.below(5) if draw.below(8) == 0 else ()
    kind, stream = _TYPES[draw.below(len(_TYPES))], draw.below(2) == 0
    loop = asyncio.get_running_loop()
    sender = Sender(node(2), NODES[2].public)
    deadline = loop.time() + 5
    answer = await host.deliver(sender, whom, kind, draw.rest(), deadline=deadline, chain=chain, stream=stream)
    if isinstance(answer, bytes):
        codec.decode(answer, Any)
        return
    count = 0
    async for item in answer:
        codec.decode(item, Any)
        count += 1
        if count > 20:
            break
    await answer.aclose()  # type: ignore[attr-defined]


_ACTUATOR = {
    "name": "~me/lamp",
    "kind": "actuator",
    "senders": ["*"],
    "commands": {"say": {"run": ["/bin/echo", "{0}", "x{1}"], "args": ["[a-z]+", ".*"]}, "on": ["/bin/true"]},
}


@target(BadMessage, seeds=lambda: [codec.encode(Act("say", ["a", "b"])), codec.encode(Act("on", []))])
def act(data: bytes) -> None:
    """What a stranger asks an actuator to run: the operator's program, and arguments that match."""
    wanted = codec.decode(data, Act)
    words = Actuator(parse(_ACTUATOR))._words(wanted)  # type: ignore[arg-type]
    assert words[0] in ("/bin/echo", "/bin/true") and len(words) in (1, 3)
    assert not any(word.startswith("-") or "\0" in word for word in words)


@target(seeds=lambda: [b"\5" + b"".join(map(wire.encode, _COMMANDS)), b"\0\4" + wire.encode(_COMMANDS[2])[1:]])
def cache_commands(data: bytes) -> None:
    """What a client of the cache sends, in pieces: commands, and after nonsense nothing more."""
    draw = Drawn(data)
    size = draw.below(40) + 1
    rest = draw.rest()
    decoder, found = wire.Decoder(), []
    for start in range(0, len(rest), size):
        found += decoder.feed(rest[start : start + size])
    assert not any(isinstance(each, wire.BadFrame) for each in found[:-1])
    assert found == wire.Decoder().feed(rest)
    whole = [each for each in found if not isinstance(each, wire.BadFrame)]
    assert wire.Decoder().feed(b"".join(map(wire.encode, whole))) == whole


_COMMANDS = [wire.SetCommand(b"key", b"value", 60), wire.GetCommand(b"key"), wire.JoinCommand(b"id", b"host:1")]


# --- code -----------------------------------------------------------------------------------------------------


def _packed(files: tuple[tuple[str, bytes], ...] = (("greeter.py", b"x = 1"),)) -> bytes:
    return codec.encode(Packed(1, "greeter:Greeter", (3, 11), (), files))


def _bundle(packed: bytes) -> bytes:
    digest = codec.encode(BundleSignature(sha256(packed).digest()))
    return codec.encode([signed(digest, BundleSignature.LABEL, OWNER), packed])


@target(
    BadMessage,
    Forbidden,
    seeds=lambda: [
        b"\0" + _bundle(_packed()),
        b"\1" + _packed(),
        b"\1" + _packed((("/etc/passwd", b""), ("../x.py", b""), ("a/__init__.py", b"\xff"))),
    ],
    limit=4096,
)
def bundle(data: bytes) -> None:
    """A bundle as it came, or one that a trusted key has signed, whatever is in it. None of it is run."""
    draw = Drawn(data)
    raw = draw.rest() if draw.below(2) == 0 else _bundle(draw.rest())
    packed = packing.unpack(raw, [OWNER.public], POOL)
    assert len(packed.files) <= BUNDLE_BYTES_MAX
    finder = importer._Finder()
    finder.bundles["h"] = dict(packed.files)
    module, _, name = packed.entry.partition(":")
    spec = finder.find_spec(f"{importer.ROOT}.h.{module}", None)
    if spec is not None:
        assert spec.origin is None or spec.origin.startswith("<bundle")
        assert isinstance(spec.loader, importer._Loader), "a module from the disk"
    packing._import_failure(packed.entry, ModuleNotFoundError(name, name=module))


class _Process:
    """A worker process that says what the input says, and ends."""

    def __init__(self, said: bytes) -> None:
        self.stdin = self
        self.heard: list[bytes] = []
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(said)
        self.stdout.feed_eof()

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.heard.append(data)

    def close(self) -> None:
        pass

    kill = close

    async def wait(self) -> int:
        return 1


@target(
    seeds=lambda: [
        frame(Ready()) + frame(Done(1, b"\xc0")) + frame(Failed(2, NotFound("x").to_wire())),
        frame(Ready(NotFound("x").to_wire())) + frame(Ask(1, "x", "str", b"\xc0", 1.0, ())) * 2,
    ]
)
def worker_says(data: bytes) -> None:
    """What a worker process writes into the pipe to its node."""
    run(_heard(data))


async def _heard(data: bytes) -> None:
    process = _Process(data)
    loop = asyncio.get_running_loop()
    context = Context(Sender(node(2), NODES[2].public), "x", object_id(), 1e9, loop.time(), _Outbound())
    worker = _Worker(process, context, loop.create_task(_nothing()))  # type: ignore[arg-type]
    replies = [worker.call("str", b"\xc0", context) for _ in range(3)]
    await asyncio.wait([worker._reader])
    worker._reader.result()
    assert worker.over and worker.ready.done() and not worker._replies
    for future in [*replies, worker.ready]:
        assert future.exception() is None or isinstance(future.exception(), RemotableError)


async def _nothing() -> None:
    return


@target(seeds=lambda: [b'printed\n\x1e{"level":20,"text":"a","traceback":"b"}\n', b'no end\x1e{"level":20}\n\xff'])
def worker_prints(data: bytes) -> None:
    """What a worker process writes on its standard error."""
    lines = Lines("x")
    said = [*lines.take(data[:9], 0.0), *lines.take(data[9:], 1e9), *lines.end(1e9)]
    assert all(each.text.startswith("x: ") and len(each.text) <= TEXT_CHARACTERS_MAX for each in said)


class _Outbound:
    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        names.check(name)
        raise NotFound("nobody")

    def stream(self, *_: Any) -> Any:
        raise NotFound("nobody")


# --- what nodes say -------------------------------------------------------------------------------------------


@target(BadMessage, UnicodeDecodeError, seeds=lambda: [b"cores>=4", b"memory >= 8 GiB", b"region=eu", b"counters!=1"])
def condition(data: bytes) -> None:
    """A condition of a census, and nodes that say anything of themselves."""
    holds = census.condition(data.decode())
    for value in ("eu", "8GiB", "1.2.3", "", "4k", "nan", "٣"):
        labels = {"region": value, "memory": value, "cores": value, "x": value}
        assert holds(msgspec.structs.replace(INFO, labels=labels)) in (True, False)
    assert holds(INFO) in (True, False)


@target(UnicodeDecodeError, seeds=lambda: [census.format_contact(peer(1)).encode()])
def neighbour(data: bytes) -> None:
    """A neighbour that a node names in a census."""
    found = census.parse_contact(data.decode())
    if found is not None:
        assert census.parse_contact(census.format_contact(found)) == found


class _Links:
    """Peers that answer whatever the input says."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self.asked = 0

    async def connect(self, contact: Any, *, deadline: float) -> None:
        if not self._answers:
            raise LinkError("nobody there")

    async def request(self, contact: Any, object_id: bytes, type: str, body: bytes, **_: Any) -> bytes:
        self.asked += 1
        if not self._answers:
            raise LinkError("it was lost")
        return self._answers.pop(0)


class _Found:
    tombstones = ()
    asked = 1

    def __init__(self) -> None:
        self.advertisements = [advertisement(number) for number in (1, 2, 3)]


class _Overlay:
    pool = POOL
    rights = RIGHTS
    client = True
    contact = peer(0)

    async def find_holders(self, *_: Any, **__: Any) -> _Found:
        return _Found()

    async def find_nodes(self, *_: Any) -> list[Any]:
        return [peer(1), peer(2)]


@target(
    NotFound,
    Unavailable,
    seeds=lambda: [story(codec.encode(descriptor().raw)), story(b"\xc0", codec.encode(descriptor(version=9).raw))],
)
def described(data: bytes) -> None:
    """What the holders of an object say that it is: of this name, by who may publish it, or nothing."""
    draw = Drawn(data)
    links = _Links([draw.piece() for _ in range(4) if draw.more()])
    place: Any = run(_find(links))
    assert check_descriptor(place.descriptor.raw, object_id(), RIGHTS).value.name.startswith("~")


async def _find(links: _Links) -> Any:
    witness = Witness(Conduct(), links)  # type: ignore[arg-type]
    return await Places(_Overlay(), links, ambient(), witness).find(object_id(), deadline=1e9)  # type: ignore[arg-type]


@target(
    seeds=lambda: [
        story(codec.encode(INFO), codec.encode([census.format_contact(peer(3))])),
        story(codec.encode(INFO), codec.encode(["x", "@:", "a" * 64 + "@1.2.3.4:5"]), codec.encode(INFO)),
    ],
    limit=4096,
)
def counted(data: bytes) -> None:
    """A census among nodes that answer anything."""
    draw = Drawn(data)
    links = _Links([draw.piece() for _ in range(12) if draw.more()])
    infos: Any = run(census.take(_Overlay(), links, ["memory>=1GiB"], 5.0))  # type: ignore[arg-type]
    assert all(isinstance(each, NodeInfo) for each in infos)


@target(seeds=lambda: [codec.encode([descriptor(DATA_NAME).raw]), codec.encode([b"x", descriptor().raw])])
def pins(data: bytes) -> None:
    """Pins that a holder shows: only those of this data, by whom was asked for."""
    found: Any = run(
        find_pin(_Links([data]), RIGHTS, [peer(1)], object_id(DATA_NAME), publisher=OWNER.public)  # type: ignore[arg-type]
    )
    if found is not None:
        assert found.public == OWNER.public and found.value.name == DATA_NAME


@target(RemotableError, seeds=lambda: [codec.encode(DATA)])
def read_whole(data: bytes) -> None:
    """Small data in one reply: its own bytes, or another holder is asked."""
    request = any_holder.Request(object_id(DATA_NAME), Read.wire_type, b"\x80", 1e9, ())
    any_holder._check_content(descriptor(DATA_NAME).value, request, data)
    assert sha256(codec.decode(data, bytes)).digest() == DATA_ID
