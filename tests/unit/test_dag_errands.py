"""What tasks ask of the pool: the bounds that their worker sets, and who may ask at all."""

from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import msgspec
import pytest

import titan_overlay as titan
from titan_objects.dag import errands, inside, task
from titan_objects.dag.errands import Errands
from titan_objects.dag.inside import Get, Put, Question, Send
from titan_objects.dag.journal import Order
from titan_objects.dag.processes import Failed
from titan_objects.dag.worker import Workers
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")


def sent(name: str, message: Any, kind: str = "str", timeout: float = 1.0) -> Send:
    return Send(name, kind, msgspec.msgpack.encode(message), timeout)


async def test_a_task_has_messages_sent_and_data_kept_and_what_it_says_wrong_is_its_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errands, "BYTES_MAX", 100)
    monkeypatch.setattr(errands, "PUT_BYTES_MAX", 150)
    async with SimulatedPool(5) as sim:
        pool = await sim.client()
        await pool.publish("echo", "parrot")
        of_task = Errands(pool)
        assert await of_task.do(sent("parrot", "hello")) == "hello"
        name = await of_task.do(Put(b"x" * 100))
        assert await of_task.do(Get(name)) == b"x" * 100
        large = await pool.put(b"y" * 101)
        wrong: list[tuple[Question, type[titan.TitanError], str]] = [
            (Put(b"z" * 101), titan.BadMessage, "100 bytes at once"),
            (Put(b"z" * 51), titan.Overloaded, "150 bytes in all"),
            (Get(large), titan.BadMessage, "has 101"),
            (Get("parrot"), titan.BadMessage, "not data"),
            (sent("nobody", 1, timeout=float("nan")), titan.NotFound, "nobody"),
            (Send("parrot", "str", b"\xc1", 1.0), titan.BadMessage, "malformed"),
            (sent("sha256:nothing", "x"), titan.BadMessage, "64 lower-case"),
            (sent("", "x"), titan.BadMessage, "a name"),
        ]
        for what, kind, text in wrong:
            with pytest.raises(kind, match=text):
                await of_task.do(what)
        for what in (sent("node:" + "0" * 64, {}, "titan.Leave"), sent("dag", {}, "dagqueue.Submit")):
            with pytest.raises(titan.Forbidden, match="speak for itself"):
                await of_task.do(what)


class Distrustful:
    """As much of a pool as code comes from."""

    trusted: list[str] = []

    async def get(self, name: str) -> bytes:
        return b"a bundle"

    async def unpack(self, bundle: bytes) -> dict[str, bytes]:
        raise titan.Forbidden("its signer is not trusted here")


async def test_code_of_a_signer_who_is_not_trusted_gets_no_process_to_ask_from(tmp_path: Path) -> None:
    workers = Workers(cast(Any, Distrustful()), "dag", "w", 1, {}, tmp_path)
    with pytest.raises(Failed) as failed:
        await workers.execute(Order("a", 1, call="code:f", code="sha256:it"), cast(Any, None))
    assert failed.value.failure.kind == "Untrusted"


def test_outside_of_a_run_there_is_no_pool() -> None:
    with pytest.raises(RuntimeError, match="inside a task that runs"):
        task.pool.get("sha256:it")


class Doubled(titan.Message[int], namespace="sums"):
    """A message of a class."""

    number: int


def test_messages_travel_as_they_do_from_any_program(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [inside.Told(1, 4), inside.Told(2, None, "Unavailable", "gone", True), inside.Told(3, None, "bank.Broke")]
    requests = BytesIO()
    for each in told:
        inside.write_frame(requests, msgspec.msgpack.encode(each))
    requests.seek(0)
    answers = BytesIO()
    monkeypatch.setattr(inside, "here", inside.Running(7, requests, answers))
    assert task.pool.send("sum", Doubled(2)) == 4
    with pytest.raises(titan.Unavailable) as unavailable:
        task.pool.send("sum", (1, b"x"), timeout=3)
    assert unavailable.value.maybe_executed
    with pytest.raises(titan.RemoteError):
        task.pool.send("sum", True)
    with pytest.raises(titan.Unavailable, match="worker of this task is gone"):
        task.pool.send("sum", "x")
    with pytest.raises(titan.BadMessage, match="set cannot be sent"):
        task.pool.send("sum", {1})
    answers.seek(0)
    said = [msgspec.msgpack.decode(cast(bytes, inside.read_frame(answers)), type=inside.Said) for _ in range(3)]
    assert said == [
        inside.Asked(1, Send("sum", "sums.Doubled", msgspec.msgpack.encode({"number": 2}), 10.0)),
        inside.Asked(2, Send("sum", "list", msgspec.msgpack.encode([1, b"x"]), 3.0)),
        inside.Asked(3, Send("sum", "bool", msgspec.msgpack.encode(True), 10.0)),
    ]


def test_a_store_is_asked_with_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Any] = [b"v", None, b"OK", b"OK", 1, 1, [b"a", b"b"], 2, 7, [], [[b"c", b"m"]], None]
    requests = BytesIO()
    for number, reply in enumerate(replies):
        inside.write_frame(requests, msgspec.msgpack.encode(inside.Told(number + 1, reply)))
    requests.seek(0)
    answers = BytesIO()
    monkeypatch.setattr(inside, "here", inside.Running(7, requests, answers, "store/main"))
    store = task.store
    assert (store.get("k"), store.get("none")) == (b"v", None)
    store.set("k", 1)
    store.set("k", "v", expires=1.5)
    assert (store.sadd("s", "a"), store.srem("s", "b"), store.smembers("s")) == (1, 1, {b"a", b"b"})
    assert store.publish("c", b"m") == 2
    with store.subscribe("c") as heard:
        assert next(iter(heard)) == ("c", b"m")
    answers.seek(0)
    said = [msgspec.msgpack.decode(cast(bytes, inside.read_frame(answers)), type=inside.Asked).what for _ in replies]
    commands = [msgspec.msgpack.decode(each.body) for each in said if isinstance(each, Send)]
    assert commands == [
        ["GET", "k"],
        ["GET", "none"],
        ["SET", "k", 1],
        ["SET", "k", "v", "PX", 1500],
        ["SADD", "s", "a"],
        ["SREM", "s", "b"],
        ["SMEMBERS", "s"],
        ["PUBLISH", "c", b"m"],
    ]
    assert said[8:] == [inside.Listen("store/main", ["c"]), inside.Hear(7), inside.Hear(7), inside.Hush(7)]
    monkeypatch.setattr(inside, "here", inside.Running(7, requests, answers))
    with pytest.raises(RuntimeError, match="this run has no store"):
        store.get("k")


def test_a_call_ends_after_what_its_threads_wait_for_and_then_they_ask_for_nothing() -> None:
    class Requests:
        """Answers once the call wants to end."""

        def __init__(self) -> None:
            self.reading, self.pause = Event(), Event()
            self.frame = BytesIO()
            inside.write_frame(self.frame, msgspec.msgpack.encode(inside.Told(1, "late")))
            self.frame.seek(0)

        def read(self, size: int) -> bytes:
            self.reading.set()
            while not running._over:
                self.pause.wait(0.001)
            return self.frame.read(size)

    answers = BytesIO()
    requests = Requests()
    running = inside.Running(7, cast(Any, requests), answers)
    heard: list[Any] = []
    thread = Thread(target=lambda: heard.append(running.ask(Get("it"))))
    thread.start()
    assert requests.reading.wait(60)
    running.end(inside.Answer(b"end"))
    thread.join()
    assert heard == ["late"]
    with pytest.raises(titan.Gone):
        running.ask(Get("it"))
    answers.seek(0)
    frames = [msgspec.msgpack.decode(cast(bytes, inside.read_frame(answers)), type=inside.Said) for _ in range(2)]
    assert frames == [inside.Asked(1, Get("it")), inside.Answer(b"end")]
