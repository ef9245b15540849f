"""The Python API as programs use it: real nodes, real sockets, a light client in this process."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

import titan_overlay as titan
from tests.net.nodes import QUICK, Nodes
from tests.net.services import Add, Count, Desk, Hold, InsufficientError, Overdraw, Pass, Single, Wait
from titan_overlay.ambient import Ambient
from titan_overlay.client import Pool
from titan_overlay.identity.keys import SigningKey
from titan_overlay.storage.directory import DataDirectory

SERVICES = Path(__file__).with_name("services.py")
THUMBNAIL = Path(__file__).parents[2] / "examples" / "thumbnail.py"
SEVERAL_CHUNKS = bytes(range(256)) * 5000
"""1.28 MB: five chunks, the last a short one."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A pool that no test here harms."""
    with Nodes(tmp_path_factory.mktemp("pool"), 4) as running:
        running.add("--label", "region=moon")
        yield running


@pytest.fixture
async def pool(nodes: Nodes) -> AsyncIterator[Pool]:
    async with titan.connect(nodes.line, data=nodes.user) as connected:
        yield connected


@pytest.fixture
async def desk(pool: Pool, request: pytest.FixtureRequest) -> str:
    """A desk that was published just now, under a name of this test's own."""
    name = f"desk/{request.node.name}"
    await pool.publish(Desk, name)
    return name


def stranger(nodes: Nodes) -> AbstractAsyncContextManager[Pool]:
    """A user who has no right but the ones that everybody has."""
    return titan.connect(nodes.line, data=nodes.home / "stranger", key=SigningKey(b"s" * 32))


async def until_at_work(pool: Pool, name: str) -> None:
    async with asyncio.timeout(60):
        while not (await pool.send(name, titan.Stats())).running:
            await asyncio.sleep(0.02)


# ---- ways in ---------------------------------------------------------------------------------------------------


async def test_every_way_in_leads_to_the_pool(nodes: Nodes, desk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "127.0.0.1:9"
    ways = [
        (nodes.line, nodes.user),
        (nodes.address(nodes.ids[2]), nodes.user),
        (f"{dead}, {nodes.line}", nodes.home / "somebody"),
        (None, nodes.user),
    ]
    for target, data in ways:
        async with titan.connect(target, data=data) as pool:
            assert await pool.send(desk, "hello") == "hello"
    monkeypatch.setenv("TITAN_BOOTSTRAP", f"{dead},{nodes.line}")
    monkeypatch.setenv("TITAN_DATA", str(nodes.home / "another"))
    async with titan.connect() as pool:
        assert await pool.send(desk, "hello") == "hello"


async def test_without_any_way_in_the_error_says_what_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TITAN_BOOTSTRAP", raising=False)
    with pytest.raises(titan.ConfigError, match=r"TITAN_BOOTSTRAP is not set.*start one with: titan-node"):
        async with titan.connect(data=tmp_path):
            pass
    with pytest.raises(titan.ConfigError, match="cannot read the join line"):
        async with titan.connect("here:port", data=tmp_path):
            pass
    for nobody in ("127.0.0.1:9", "[::1]:9"):
        with pytest.raises(titan.Unavailable, match=f"no node answers at {re.escape(nobody)}"):
            async with titan.connect(nobody, data=tmp_path, timeout=0.5):
                pass


async def test_a_light_client_never_enters_routing_tables(nodes: Nodes, pool: Pool) -> None:
    async with titan.connect(nodes.line, data=nodes.user) as other:
        assert await other.census()
        assert sorted(each.id for each in await pool.census()) == sorted(nodes.ids)


async def test_a_pool_that_was_left_says_so_whatever_it_is_asked(nodes: Nodes, desk: str) -> None:
    async with titan.connect(nodes.line, data=nodes.user) as pool, asyncio.timeout(60):
        waiting = pool.watch("nothing")
        streaming = pool.stream(desk, Count(3))
        assert await anext(streaming) == 0
    calls: list[Awaitable[object]] = [
        pool.send(desk, "hello"),
        pool.census(),
        pool.put(b"late"),
        pool.get(f"sha256:{'0' * 64}"),
        pool.publish(Desk, "desk/late"),
        pool.locate(desk),
        pool.group(desk),
        anext(waiting),
        anext(pool.stream(desk, Count(3))),
    ]
    async with asyncio.timeout(60):
        for call in calls:
            with pytest.raises(RuntimeError, match="this pool is closed"):
                await call
        await streaming.aclose()
    assert len(pool.id) == 32


async def test_two_programs_of_one_user_work_at_the_same_time(nodes: Nodes, desk: str) -> None:
    async with (
        titan.connect(nodes.line, data=nodes.user) as one,
        titan.connect(nodes.line, data=nodes.user) as two,
    ):
        assert one.id == two.id
        replies = await asyncio.gather(*(each.send(desk, Add(n, n)) for n in range(50) for each in (one, two)))
        assert replies == [2 * n for n in range(50) for _ in "ab"]


# ---- messages --------------------------------------------------------------------------------------------------


async def test_a_service_is_published_as_a_class_as_a_file_or_by_the_name_of_its_type(pool: Pool) -> None:
    for number, source in enumerate((Desk, f"{SERVICES}:Desk", "echo")):
        receipt = await pool.publish(source, f"forms/{number}")
        assert len(receipt.holders) == 2
        assert receipt.directory > 0
        assert await pool.send(receipt.name, "hello") == "hello"
    with pytest.raises(titan.ConfigError, match="neither FILE:CLASS nor an installed object type"):
        await pool.publish("nothing", "forms/none")


async def test_messages_are_typed_structs_or_builtins(pool: Pool, desk: str) -> None:
    assert await pool.send(desk, Add(20, 22)) == 42
    assert await pool.send(desk, "text") == "text"
    assert await pool.send(desk, b"12345") == 5
    with pytest.raises(titan.BadMessage, match=r"takes .*net\.Add.*, not 'float'"):
        await pool.send(desk, 1.5)
    with pytest.raises(titan.BadMessage, match="a set cannot be sent"):
        await pool.send(desk, {1, 2})  # type: ignore[call-overload]
    with pytest.raises(titan.BadMessage):
        await pool.send(desk, Add("1", 2))  # type: ignore[arg-type]


async def test_a_stream_comes_in_order_and_may_be_left(pool: Pool, desk: str) -> None:
    assert [number async for number in pool.stream(desk, Count(1000))] == list(range(1000))
    left = pool.stream(desk, Count(10**9))
    assert await anext(left) == 0
    await left.aclose()
    # The handlers at the other end have ended: nothing runs any more.
    async with asyncio.timeout(30):
        while (await pool.send(desk, titan.Stats())).running:
            await asyncio.sleep(0.02)
    with pytest.raises(titan.BadMessage, match="use stream"):
        await pool.send(desk, Count(3))


async def test_errors_are_those_that_were_raised(pool: Pool, desk: str) -> None:
    with pytest.raises(InsufficientError, match="11 are missing") as own:
        await pool.send(desk, Overdraw(11))
    assert own.value.missing == 11
    assert own.value.code == "net.insufficient"
    with pytest.raises(titan.RemoteError, match="no such luck") as unexpected:
        await pool.send(desk, True)
    assert unexpected.value.type == "KeyError"
    assert unexpected.value.correlation
    with pytest.raises(titan.NotFound, match=r"'nobody/here' .*is it published\?"):
        await pool.send("nobody/here", "hello")


async def test_a_handler_knows_who_asks_and_how_long_it_has(nodes: Nodes, pool: Pool, desk: str) -> None:
    me = DataDirectory.user_key(nodes.user, Ambient.system())
    assert await pool.send(desk, Pass([])) == f"{me.id.hex()} True"
    await pool.publish(Desk, "desk/behind")
    asked_by, in_time = (await pool.send(desk, Pass(["desk/behind"]))).split()
    assert asked_by in nodes.ids, "the second is asked by the node of the first"
    assert in_time == "True"


async def test_a_message_that_takes_too_long_ends_at_its_deadline(pool: Pool, desk: str, tmp_path: Path) -> None:
    with pytest.raises(titan.DeadlineExceeded):
        await pool.send(desk, Hold(str(tmp_path / "never")), timeout=0.3)
    missing = "sha256:" + "11" * 32
    for late in (
        lambda: pool.locate(desk, timeout=0.0),
        lambda: pool.get(missing, timeout=0.0),
        lambda: pool.put(b"late", timeout=0.0),
        lambda: pool.publish(Desk, "late", timeout=0.0),
    ):
        with pytest.raises(titan.DeadlineExceeded, match="took longer than"):
            await late()


async def test_a_call_that_is_given_up_ends_the_handler(pool: Pool, tmp_path: Path) -> None:
    await pool.publish(Single, "given/up")
    never = Hold(str(tmp_path / "never"))
    waiting = asyncio.create_task(pool.send("given/up", never, timeout=60))
    await until_at_work(pool, "given/up")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await pool.send("given/up", "the next message is not kept waiting") == "the next message is not kept waiting"
    for timeout in (0.0, -1.0, 0.05):
        with pytest.raises(titan.DeadlineExceeded):
            await pool.send("given/up", never, timeout=timeout)
    assert await pool.send("given/up", "hello") == "hello"


async def test_a_chain_of_calls_that_comes_back_to_a_busy_object_is_refused_at_once(pool: Pool) -> None:
    await pool.publish(Single, "ring/one")
    await pool.publish(Single, "ring/two")
    # Without the check these would wait for themselves until the deadline, and be DeadlineExceeded.
    for way in (["ring/one"], ["ring/two", "ring/one"]):
        with pytest.raises(titan.ReentrantCall, match="busy with the very call"):
            await pool.send("ring/one", Pass(way))
    assert await pool.send("ring/one", Pass(["ring/two"]))


async def test_a_reference_is_the_object_as_if_it_were_here(pool: Pool, desk: str) -> None:
    here = pool.ref(Desk, desk)
    assert await here.add(Add(1, 2)) == 3
    assert await here.echo("hello") == "hello"
    assert [number async for number in here.count(Count(3))] == [0, 1, 2]
    with pytest.raises(titan.BadMessage, match=r"Desk\.add takes a net\.Add"):
        await here.add("1 + 2")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="Desk has no handler 'subtract'"):
        here.subtract  # type: ignore[attr-defined]  # noqa: B018


async def test_what_is_too_large_for_a_message_is_refused_and_the_object_lives_on(pool: Pool, desk: str) -> None:
    for size in (100 << 20, 2 << 20):
        with pytest.raises(titan.BadMessage):
            await pool.send(desk, size)
    with pytest.raises(titan.BadMessage):
        await pool.send(desk, bytes(100 << 20))
    assert await pool.send(desk, bytes(512 << 10)) == 512 << 10


# ---- objects by name -------------------------------------------------------------------------------------------


async def test_what_was_published_is_found_by_every_other_program_at_once(nodes: Nodes, pool: Pool) -> None:
    program = nodes.home / "reader.py"
    program.write_text(
        "import sys, titan_overlay as titan\n"
        "with titan.connect_sync(sys.argv[1]) as pool:\n"
        "    for name in sys.stdin:\n"
        "        print(pool.send(name.strip(), 'hello'), flush=True)\n"
    )
    readers = [nodes.program(program, nodes.line_of(node)) for node in nodes.ids[1:3]]
    try:
        for number in range(3):
            await pool.publish(Desk, f"fresh/{number}")
            for reader in readers:
                assert reader.stdin is not None
                assert reader.stdout is not None
                print(f"fresh/{number}", file=reader.stdin, flush=True)
                assert await asyncio.to_thread(reader.stdout.readline) == "hello\n", f"fresh/{number}"
    finally:
        for reader in readers:
            reader.communicate()
    assert [reader.returncode for reader in readers] == [0, 0]


async def test_publishing_and_putting_twice_at_once_collide_with_nothing(pool: Pool) -> None:
    receipts = await asyncio.gather(*(pool.publish(Desk, "twice") for _ in range(3)))
    assert len({receipt.version for receipt in receipts}) == 3
    assert await pool.send("twice", "hello") == "hello"
    names = await asyncio.gather(*(pool.put(SEVERAL_CHUNKS) for _ in range(3)))
    assert len(set(names)) == 1
    assert await pool.get(names[0]) == SEVERAL_CHUNKS


async def test_an_object_is_located_and_described(nodes: Nodes, pool: Pool, desk: str) -> None:
    located = await pool.locate(desk)
    assert {each.address for each in located} == {nodes.address(each.node) for each in located}
    assert not any(each.passing for each in located)
    described = await pool.describe(desk)
    assert isinstance(described, titan.Description)
    assert (described.kind, described.type, described.owner) == ("service", "Desk", pool.id)
    assert described.policy.min_copies == 2
    node = await pool.describe(f"node:{nodes.ids[0]}")
    assert isinstance(node, titan.NodeInfo)
    assert node.address == nodes.address(nodes.ids[0])


async def test_deletion_tells_its_four_outcomes_apart(nodes: Nodes, pool: Pool) -> None:
    receipt = await pool.publish(Desk, "short/lived")
    async with stranger(nodes) as other:
        assert await other.delete("short/lived") == "wrong token"
        assert await other.delete("short/lived", "00" * 16) == "wrong token"
        assert await other.delete("short/lived", "not hexadecimal") == "wrong token"
        assert await other.delete("never/lived") == "nothing to delete"
        assert await other.delete("short/lived", receipt.token) == "deleted"
    assert await pool.delete("short/lived") == "already gone"
    with pytest.raises(titan.Gone):
        await pool.send("short/lived", "hello")
    await pool.publish(Desk, "short/lived")
    assert await pool.delete("short/lived") == "deleted", "its publisher needs no token"


async def test_an_object_that_moves_answers_all_the_time(nodes: Nodes, pool: Pool) -> None:
    await pool.publish(Single, "nomad")
    done = asyncio.Event()

    async def ask() -> int:
        answered = 0
        while not done.is_set():
            assert await pool.send("nomad", "hello") == "hello"
            answered += 1
        return answered

    async with titan.connect(nodes.line, data=nodes.user) as mover:
        asking = asyncio.create_task(ask())
        for node in nodes.ids[:3]:
            assert (await mover.move("nomad", f"node:{node}")).holders[0] == node
            assert (await mover.send("nomad", titan.Ping())).holder == node
        done.set()
        assert await asking > 0
        with pytest.raises(titan.BadMessage, match="hexadecimal"):
            await mover.move("nomad", "elsewhere")
        with pytest.raises(titan.NotFound, match="titan census"):
            await mover.move("nomad", "ab" * 32)
    async with stranger(nodes) as other:
        with pytest.raises(titan.Forbidden, match="may move it"):
            await other.move("nomad", nodes.ids[0])


async def test_publishing_without_the_right_names_the_command_that_helps(nodes: Nodes) -> None:
    async with stranger(nodes) as other:
        with pytest.raises(titan.Forbidden, match=r"titan grant .* publish --names"):
            await other.publish(Desk, "weather/berlin")
        with pytest.raises(titan.Unavailable, match=r"0 of \d+ nodes accept .*--trust"):
            await other.publish(Desk, "~me/berlin")


async def test_nodes_are_objects_exact_nearest_and_by_label(nodes: Nodes, pool: Pool) -> None:
    for node in nodes.ids:
        assert (await pool.send(f"node:{node}", titan.Ping())).holder == node
    everyone = await pool.census()
    assert [each.id for each in everyone] == sorted(nodes.ids)
    assert [each.id for each in await pool.census(["cores>=1", "region=moon"])] == [nodes.ids[-1]]
    assert await pool.census(["cores>=100000", "region=moon"]) == []
    moon = await pool.multicast(await pool.census(["region=moon"]), titan.Ping())
    assert {name: pong.holder for name, pong in moon.items()} == {f"node:{nodes.ids[-1]}": nodes.ids[-1]}
    (nearest,) = await pool.nearest("weather/berlin")
    assert nearest in await pool.nearest("weather/berlin", 3)
    assert await pool.nearest(nearest) == [nearest]
    assert f"node:{(await pool.send(nearest, titan.Ping())).holder}" == nearest


async def test_arguments_that_are_none_are_refused_by_what_they_should_be(nodes: Nodes, pool: Pool) -> None:
    for count in (0, -1):
        with pytest.raises(titan.BadMessage, match=f"a count of nodes is 1 or more, not {count}"):
            await pool.nearest("weather/berlin", count)
    policy: Any = {"min_copies": 2}
    with pytest.raises(titan.BadMessage, match=r"a policy is a titan\.Policy\(\.\.\.\), not of type 'dict'"):
        await pool.publish(Desk, "desk/of-a-dict", policy=policy)
    with pytest.raises(titan.BadMessage, match="a policy is"):
        await pool.put(b"bytes", policy=policy)
    several: Any = [nodes.line, nodes.line]
    with pytest.raises(titan.ConfigError, match="a text, also of several addresses, not of type 'list'"):
        async with titan.connect(several, data=nodes.user):
            pass


async def test_a_multicast_gives_each_name_its_reply_or_its_error(pool: Pool, desk: str) -> None:
    answers = await pool.multicast([desk, "nobody/here"], "hello")
    assert answers[desk] == "hello"
    assert isinstance(answers["nobody/here"], titan.NotFound)


async def test_a_service_that_computes_has_a_process_of_its_own(pool: Pool) -> None:
    receipt = await pool.publish(f"{THUMBNAIL}:Thumbnails", "img/thumb")
    body = bytes([10, 20, 30]) * (64 * 32)
    small = await pool.send_raw("img/thumb", *_thumb(b"P6 64 32 255\n" + body, 16))
    assert small.endswith(b"P6 16 8 255\n" + bytes([10, 20, 30]) * (16 * 8))
    with pytest.raises(titan.RemoteError, match="send a binary PPM") as unreadable:
        await pool.send_raw("img/thumb", *_thumb(b"no picture", 16))
    assert unreadable.value.code == "img.unreadable"
    assert await pool.delete("img/thumb", receipt.token) == "deleted"


def _thumb(raw: bytes, size: int) -> tuple[str, bytes]:
    from titan_overlay.wire import codec

    return "img.Thumb", codec.encode({"raw": raw, "size": size})


# ---- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", SEVERAL_CHUNKS], ids=["empty", "small", "several chunks"])
async def test_data_is_put_and_got_as_bytes_and_as_files(nodes: Nodes, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in").write_bytes(content)
    async with titan.connect(nodes.line, data=nodes.user) as writer:
        name = await writer.put(tmp_path / "in")
        assert name == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert await writer.put(content) == name
    async with stranger(nodes) as reader:
        assert await reader.get(name) == content
        assert await reader.get(name, tmp_path / "out") == b""
    assert (tmp_path / "out").read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in", "out"]


async def test_what_is_no_data_cannot_be_got_and_no_file_cannot_be_put(pool: Pool, desk: str, tmp_path: Path) -> None:
    with pytest.raises(titan.BadMessage, match="is a service, not data; use send"):
        await pool.get(desk)
    with pytest.raises(titan.TitanError, match="there is no file"):
        await pool.put(tmp_path / "missing")
    with pytest.raises(titan.NotFound):
        await pool.get("sha256:" + "00" * 32)


@pytest.mark.parametrize("content", [b"", b"my diary", SEVERAL_CHUNKS], ids=["empty", "small", "several chunks"])
async def test_only_who_has_the_key_reads_what_was_put_encrypted(
    nodes: Nodes, pool: Pool, tmp_path: Path, content: bytes
) -> None:
    receipt = await pool.put_receipt(content, encrypt=True)
    assert await pool.put(content, encrypt=True) == receipt.name, "the same content by the same user: the same bytes"
    assert await pool.get(receipt.name, decrypt=True) == content
    async with stranger(nodes) as other:
        sealed = await other.get(receipt.name)
        assert len(sealed) > len(content)
        assert content not in sealed or not content
        assert content[:8] not in sealed or not content
        assert await other.get(receipt.name, decrypt=receipt.key) == content
        assert await other.get(receipt.name, tmp_path / "out", decrypt=receipt.key) == b""
        assert (tmp_path / "out").read_bytes() == content
        with pytest.raises(titan.Forbidden, match="does not open"):
            await other.get(receipt.name, decrypt=True)
        with pytest.raises(titan.Forbidden, match="does not open"):
            await other.get(receipt.name, tmp_path / "out", decrypt="00" * 32)
        with pytest.raises(titan.BadMessage, match="64 hexadecimal digits"):
            await other.get(receipt.name, decrypt="secret")
        theirs = await other.put_receipt(content, encrypt=True)
        assert theirs.name != receipt.name, "nobody can tell that two users put the same"
        assert theirs.key != receipt.key
    assert (tmp_path / "out").read_bytes() == content, "a key that does not fit touches nothing"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


async def test_what_was_put_in_the_clear_is_not_opened_by_any_key(pool: Pool) -> None:
    for content in (b"", b"in the clear", SEVERAL_CHUNKS):
        name = await pool.put(content)
        with pytest.raises(titan.Forbidden, match="does not open"):
            await pool.get(name, decrypt=True)


# ---- holders that die ------------------------------------------------------------------------------------------


async def test_what_may_have_run_is_not_sent_again_and_the_error_says_so(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            (holder,) = (await pool.publish(Single, "one")).holders
            waiting = asyncio.create_task(pool.send("one", Hold(str(tmp_path / "never")), timeout=60))
            await until_at_work(pool, "one")
            nodes.kill(holder)
            with pytest.raises(titan.Unavailable, match="went silent") as lost:
                await waiting
            assert lost.value.maybe_executed
            with pytest.raises(titan.TitanError) as gone:
                await pool.send("one", "hello", timeout=10)
            assert isinstance(gone.value, titan.Unavailable | titan.NotFound | titan.DeadlineExceeded)


async def test_what_may_run_twice_is_answered_although_its_holder_dies_at_work(tmp_path: Path) -> None:
    with Nodes(tmp_path, 4, **QUICK) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            receipt = await pool.publish(Desk, "desk")
            gate = tmp_path / "gate"
            waiting = asyncio.create_task(pool.send("desk", Wait(str(gate)), timeout=60))
            await until_at_work(pool, "desk")
            nodes.kill(next(node for node in receipt.holders if node != nodes.ids[0]))
            gate.touch()
            assert await waiting == "there"
            assert await pool.send("desk", "hello") == "hello"
