"""What a node's workers tell a run, and what they leave behind: against a real run, without a pool."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

import titan_overlay as titan
from tests.unit.dag_world import definition
from tests.unit.test_dag_senders import by, key
from titan_objects.dag import executor
from titan_objects.dag.inside import Spawn
from titan_objects.dag.journal import Failure, Order, Success, Worker
from titan_objects.dag.messages import LINES_AT_ONCE, TASKS_AT_ONCE, Act, Done, Lines, Look, Ready, Spawned, Start, Sync
from titan_objects.dag.part import BEAT_SECONDS, LINES_MAX, Part
from titan_objects.dag.processes import Ear, Failed, unless
from titan_objects.dag.processes import Lines as Cut
from titan_objects.dag.queue import AskOpen, Open, Register
from titan_objects.dag.run import Run
from titan_objects.dag.worker import LOOK_SECONDS, REGISTER_SECONDS, Workers
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

pytestmark = pytest.mark.loops("virtual")


class Door:
    """As much of a pool as leads to one run; every other answer is lost."""

    trusted: list[str] = []
    loses = True

    def __init__(self, run: Run) -> None:
        self.run = run
        self.syncs: list[Sync] = []

    async def read(self, name: str, message: Ready) -> int:
        return self.run.ready(message)

    async def send(self, name: str, message: Sync | Spawned, *, timeout: float = 0.0) -> Any:
        if isinstance(message, Spawned):
            return self.run.spawned(message, by("bob"))
        now = 1000.0 + asyncio.get_running_loop().time()
        answer = self.run.sync(message, by("bob", now=now))
        self.syncs.append(message)
        await asyncio.sleep(0.01)
        if self.loses and len(self.syncs) % 2:
            raise titan.DeadlineExceeded("lost")
        return answer


class Sure(Door):
    """No answer is lost."""

    loses = False


class Chatty(Workers):
    """Workers without processes, whose tasks say so many lines."""

    lines = 0
    stays = False

    async def execute(self, order: Order, ear: Ear) -> Success:
        for number in range(self.lines):
            ear.line(f"{order.key} {number}")
        await asyncio.sleep(1000 if self.stays else 0)
        return Success(order.key)


class Lasting(Chatty):
    """Workers whose tasks take a while."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.begun: list[str] = []

    async def execute(self, order: Order, ear: Ear) -> Success:
        self.begun.append(order.key)
        await asyncio.sleep(20)
        return Success(order.key)


def made(*tasks: dict[str, Any], **more: Any) -> tuple[Run, Chatty]:
    run = Run()
    run.start(Start(definition(*tasks), **more), by("ann"))
    return run, Chatty(cast(Any, Door(run)), "dag", "w", 2, {}, Path("nowhere"))


async def test_all_that_tasks_have_written_is_there_when_the_run_ends_and_once_although_answers_are_lost() -> None:
    run, workers = made({"id": "a"}, {"id": "b"})
    workers.lines = LINES_AT_ONCE * 2
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    for name in "ab":
        assert [each.text for each in run.lines if each.key == name] == [f"{name} {n}" for n in range(workers.lines)]


async def test_tasks_whose_orders_were_lost_do_not_wait_until_their_leases_run_out() -> None:
    run, workers = made({"id": "a", "map": {"over": list(range(20))}})
    began = asyncio.get_running_loop().time()
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    assert asyncio.get_running_loop().time() - began < 30


async def test_of_a_flood_the_rest_is_counted() -> None:
    run, workers = made({"id": "a"})
    workers.lines = LINES_MAX + 7
    await Part(workers, "run").serve()
    assert len(run.lines) == LINES_MAX + 1
    assert run.lines[-1].text.startswith("7 lines more")


async def test_the_flood_of_one_task_takes_no_line_of_another() -> None:
    class Flooding(Chatty):
        async def execute(self, order: Order, ear: Ear) -> Success:
            for number in range(2 * LINES_MAX if order.key == "a" else 1):
                ear.line(f"{order.key} {number}")
            return Success(order.key)

    run, _ = made({"id": "a"}, {"id": "b"})
    await Part(Flooding(cast(Any, Door(run)), "dag", "w", 2, {}, Path("nowhere")), "run").serve()
    assert [each.text for each in run.lines if each.key == "b"] == ["b 0"]
    assert [each.text for each in run.lines if each.key == "a"][LINES_MAX:] == [
        f"{LINES_MAX} lines more were written than can be sent"
    ]


@pytest.mark.parametrize("said", [0.0, -1.0, 1e300, float("inf"), float("nan")])
async def test_no_queue_has_a_worker_look_all_the_time_or_never(said: float) -> None:
    class Queue:
        trusted: list[str] = []

        async def read(self, name: str, message: AskOpen) -> Open:
            return Open(1, pause=said)

    workers = Workers(cast(Any, Queue()), "dag", "w", 2, {}, Path("nowhere"))
    assert await workers.look() == []
    assert LOOK_SECONDS <= workers.pause <= REGISTER_SECONDS


async def test_a_worker_whose_queue_is_not_there_says_so_once_and_asks_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Missing:
        trusted: list[str] = []
        asked = 0

        async def send(self, name: str, message: Register, *, timeout: float = 0.0) -> None:
            self.asked += 1
            if self.asked < 40:
                raise titan.NotFound(f"{name!r} is not there, asked {self.asked} times")

        async def read(self, name: str, message: AskOpen) -> Open:
            return Open(1)

    pool = Missing()
    workers = Workers(cast(Any, pool), "dga", "w", 2, {}, Path("nowhere"))
    serving = asyncio.create_task(workers.serve())
    await asyncio.sleep(60)  # of virtual time
    assert pool.asked < 30
    assert [each.levelname for each in caplog.records if "'dga' is not there" in each.getMessage()] == ["WARNING"]
    await asyncio.sleep(200)
    assert workers.pause == LOOK_SECONDS
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_worker_that_goes_gives_its_tasks_back_at_once() -> None:
    run, workers = made({"id": "a"})
    workers.stays = True
    part = asyncio.create_task(Part(workers, "run").serve())
    while not run.engine.executions:
        await asyncio.sleep(0.01)
    assert run.engine.ready == 0
    part.cancel()
    await asyncio.gather(part, return_exceptions=True)
    assert run.engine.ready == 1
    assert workers.free == 2


async def test_short_tasks_are_fetched_ahead_and_long_ones_given_back_unbegun() -> None:
    run, workers = made({"id": "a", "map": {"over": list(range(100))}})
    part = asyncio.create_task(Part(workers, "run").serve())
    while run.engine.ready > 20:
        await asyncio.sleep(0.01)
    door = cast(Door, workers.pool)
    assert len(door.syncs) < 40
    workers.stays = True
    while not run.engine.ready > 20:
        await asyncio.sleep(0.1)
    assert len(door.syncs[-1].holds) == 2
    part.cancel()
    await asyncio.gather(part, return_exceptions=True)
    assert run.engine.ready + run.engine.steps["a"].done == 100


async def test_what_a_busy_worker_has_not_begun_an_idle_one_has_with_the_busy_ones_next_message() -> None:
    run, busy = made({"id": "a", "map": {"over": list(range(100))}})
    idle = Chatty(cast(Any, Door(run)), "dag", "idle", 2, {}, Path("nowhere"))
    loop = asyncio.get_running_loop()
    parts = [asyncio.create_task(Part(busy, "run").serve())]
    while run.engine.ready > 20:
        await asyncio.sleep(0.01)
    busy.stays = True
    began = loop.time()
    parts.append(asyncio.create_task(Part(idle, "run").serve()))
    while run.engine.steps["a"].done < 98:
        await asyncio.sleep(0.1)
    assert loop.time() - began < 2 * BEAT_SECONDS  # of virtual time; every other answer is lost
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)


@pytest.mark.parametrize("requires", [{"cores": 2}, {"cores": 1.5}, {"memory": 400}])
async def test_no_more_runs_at_once_than_a_worker_has_cores_and_memory_for(requires: dict[str, Any]) -> None:
    class Counting(Chatty):
        inside = most = 0

        async def execute(self, order: Order, ear: Ear) -> Success:
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(5)
            self.inside -= 1
            return Success(order.key)

    def large(name: str) -> dict[str, Any]:
        return {"id": name, "map": {"over": [1, 2]}, "requires": requires}

    run, _ = made(large("a"), large("b"))
    workers = Counting(cast(Any, Sure(run)), "dag", "w", 3, {}, Path("nowhere"))
    workers.spare = 1000
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    assert workers.most == (1 if "cores" in requires else 2)
    assert (workers.free, workers.spare) == (3, 1000)


async def test_a_task_that_runs_says_how_far_it_is_and_adds_others() -> None:
    class Spawning(Chatty):
        async def execute(self, order: Order, ear: Ear) -> Success:
            if order.key == "a":
                ear.progress(0.25)
                await ear.ask(Spawn([{"id": "b", "call": "m:f"}]))
                for wrong in ({"id": "a"}, {}):
                    with pytest.raises(titan.BadMessage):
                        await ear.ask(Spawn([wrong]))
                while not run.look(Look(tasks=True), by("ann")).tasks[0].progress:
                    await asyncio.sleep(1)
            return Success(order.key)

    run, _ = made({"id": "a"}, workers=[key("bob").hex()[:32]])
    workers = Spawning(cast(Any, Door(run)), "dag", "w", 2, {}, Path("nowhere"))
    await Part(workers, "run").serve()
    assert {each.key: each.state for each in run.look(Look(tasks=True), by("ann")).tasks} == {
        "a": "SUCCEEDED",
        "b": "SUCCEEDED",
    }


async def test_a_question_that_a_run_does_not_answer_ends_no_task() -> None:
    class Deaf(Door):
        questions = 0

        async def read(self, name: str, message: Ready) -> int:
            self.questions += 1
            if self.questions == 3:
                raise titan.Unavailable("a member has died, and the others vote")
            return await super().read(name, message)

    run, _ = made({"id": "a"})
    workers = Lasting(cast(Any, Deaf(run)), "dag", "w", 2, {}, Path("nowhere"))
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    assert workers.begun == ["a"]


async def test_a_task_that_is_lost_before_it_has_begun_gives_its_place_back() -> None:
    """While this worker waits for the answer that says so, another run gives it a place."""
    run, _ = made({"id": "a", "map": {"over": list(range(9))}})
    workers = Chatty(cast(Any, Sure(run)), "dag", "w", 2, {}, Path("nowhere"))
    synced = run.sync(Sync(Worker("w"), ahead=3, turn=1), by("bob"))
    part = Part(workers, "run")
    part._waiting = {each.epoch: each for each in synced.orders}
    part._unheard = True  # so that it says something
    workers.turn, workers.free = 1, 0
    run.act(Act("cancel"), by("ann"))
    serving = asyncio.create_task(part.serve())
    await asyncio.sleep(0.005)
    workers.free += 2  # two tasks of another run have ended
    await serving
    assert workers.free == 2


async def test_what_waits_at_a_worker_that_is_busy_with_another_run_is_given_back() -> None:
    run, workers = made({"id": "a", "map": {"over": list(range(9))}})
    workers.free = 0
    part = Part(workers, "run")
    part._took = 0.0
    part._unheard = True  # so that it says something
    serving = asyncio.create_task(part.serve())
    while run.engine.leases == 0:
        await asyncio.sleep(0.1)
    async with asyncio.timeout(2 * BEAT_SECONDS):  # of virtual time
        while run.engine.leases:
            await asyncio.sleep(0.1)
    assert all(each.lost == 0 for each in run.engine.steps["a"].instances)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("heartbeat", [1.5, 4])
async def test_a_lease_is_renewed_in_time_however_short_it_is(heartbeat: float) -> None:
    run, _ = made({"id": "a", "timeout": {"heartbeat": heartbeat}})
    workers = Lasting(cast(Any, Sure(run)), "dag", "w", 2, {}, Path("nowhere"))
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    assert workers.begun == ["a"]


async def test_a_task_that_is_being_ended_is_not_interrupted_in_that() -> None:
    """Until all that it has started is gone, its worker still names it, and hears each time that it is lost."""
    ended: list[str] = []

    class Slow(Chatty):
        async def execute(self, order: Order, ear: Ear) -> Success:
            try:
                await asyncio.sleep(60 if order.key == "a" else 30)
            finally:
                await asyncio.sleep(12)
                ended.append(order.key)
            return Success()

    run, _ = made({"id": "a"}, {"id": "b"})
    serving = asyncio.create_task(Part(Slow(cast(Any, Sure(run)), "dag", "w", 2, {}, Path("nowhere")), "run").serve())
    while run.engine.leases < 2:
        await asyncio.sleep(0.1)
    run.act(Act("cancel", ["a"]), by("ann"))
    await serving
    assert ended == ["a", "b"]


async def test_an_attempt_that_ends_as_nobody_foresaw_has_failed() -> None:
    class Odd(Chatty):
        async def execute(self, order: Order, ear: Ear) -> Success:
            raise ValueError("40 is no signal")

    run, _ = made({"id": "a"})
    await Part(Odd(cast(Any, Door(run)), "dag", "w", 2, {}, Path("nowhere")), "run").serve()
    assert run.engine.state == "FAILED"
    assert run.engine.steps["a"].instances[0].error == Failure("ValueError", "40 is no signal")


def test_nothing_large_is_fetched_ahead() -> None:
    large = {"requires": {"cores": 2}}, {"requires": {"memory": "1G"}}
    run, _ = made({"id": "a", **large[0]}, {"id": "b", **large[1]}, {"id": "c"}, {"id": "d"})
    synced = run.sync(Sync(Worker("w", cores=1.0, memory=1), 1, ahead=9), by("bob"))
    assert {each.key for each in synced.orders} == {"c", "d"}


# --- too much -------------------------------------------------------------------------------------------------


class Framed(Sure):
    """Messages and answers have to fit into a frame."""

    async def send(self, name: str, message: Sync | Spawned, *, timeout: float = 0.0) -> Any:
        for each in (message, answer := await super().send(name, message)):
            if len(msgspec.msgpack.encode(each)) > MAX_PAYLOAD_BYTES:
                raise titan.BadMessage("it does not fit")
        return answer


class Giving(Chatty):
    """Workers whose tasks write such lines, and give such a result."""

    line = ""
    gives = ""

    async def execute(self, order: Order, ear: Ear) -> Success:
        for _ in range(self.lines):
            ear.line(self.line)
        return Success(self.gives)


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"map": {"over": ["i" * 30_000] * 80}},
        {"map": {"over": list(range(80))}, "args": ["i" * 30_000]},
    ],
    ids=["lines", "items", "arguments"],
)
async def test_what_workers_and_runs_say_to_each_other_fits_into_their_messages(task: dict[str, Any]) -> None:
    run, _ = made({"id": "a", **task})
    workers = Giving(cast(Any, Framed(run)), "dag", "w", 64, {}, Path("nowhere"))
    workers.gives, workers.line = "r" * 30_000, "\N{REPLACEMENT CHARACTER}" * 4096
    workers.lines = 0 if task else 200
    await Part(workers, "run").serve()
    assert run.engine.state == "SUCCEEDED"
    assert len(run.lines) == workers.lines
    heard = 0
    while found := run.log(Lines(heard)):
        assert len(msgspec.msgpack.encode(found)) < MAX_PAYLOAD_BYTES
        heard += len(found)
    assert heard == workers.lines


async def test_a_task_that_is_told_too_much_for_a_message_fails_and_says_so() -> None:
    many = [{"id": f"t{n}"} for n in range(40)]
    run, _ = made(*many, {"id": "all", "call": "", "join": True, "needs": [each["id"] for each in many]})
    workers = Giving(cast(Any, Framed(run)), "dag", "w", 8, {}, Path("nowhere"))
    workers.gives = "r" * 30_000
    await Part(workers, "run").serve()
    why = run.engine.steps["all"].instances[0].error
    assert why is not None and (why.kind, why.retryable) == ("TooLarge", False)
    assert "put it as data" in why.text


class Puts:
    """As much of a pool as keeps data."""

    trusted: tuple[str, ...] = ()

    async def put(self, data: bytes) -> str:
        return f"sha256:{len(data)}"


async def test_a_large_result_becomes_data_and_a_huge_one_fails_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(cast(Any, Puts()), "dag", "w", 1, {}, Path("nowhere"))
    monkeypatch.setattr(executor, "RESULT_BYTES_MAX", 50_000)
    assert (await workers._success("x" * 100)).value == "x" * 100
    assert (await workers._success("x" * 40_000)).value == {"$data": "sha256:40003"}
    with pytest.raises(Failed, match="write a file and name it in outputs") as why:
        await workers._success("x" * 100_000)
    assert (why.value.failure.kind, why.value.failure.retryable) == ("TooLarge", False)


class Flood:
    """Endless output, of which so many bytes are read."""

    def __init__(self, left: int, piece: bytes) -> None:
        self.left = left
        self.piece = piece

    async def read(self, size: int) -> bytes:
        self.left -= len(self.piece)
        return self.piece if self.left >= 0 else b""


@pytest.mark.parametrize("piece", [b"x" * 16_384, b"y" * 5_000 + b"\n", b"\n" * 100], ids=["no end", "long", "empty"])
async def test_of_a_flood_of_output_no_line_is_long_and_none_is_kept(piece: bytes) -> None:
    lengths: Counter[int] = Counter()
    await Cut(lambda line: lengths.update([len(line)])).read(cast(Any, Flood(1 << 18, piece)))
    assert max(lengths) <= 4096
    assert lengths.total() >= (1 << 18) // 16_384


def test_what_people_see_of_a_run_fits_into_a_message_however_long_its_errors_are() -> None:
    run, _ = made({"id": "a", "map": {"over": list(range(TASKS_AT_ONCE))}, "timeout": {"heartbeat": 1e9}})
    orders = run.sync(Sync(Worker("w", cores=1e9), TASKS_AT_ONCE, turn=1), by("bob")).orders
    failed = [Done(each.epoch, Failure("ValueError", "why " * 500, False)) for each in orders]
    run.sync(Sync(Worker("w"), done=failed, turn=2), by("bob"))
    seen = run.look(Look(tasks=True), by("ann"))
    assert len(seen.tasks) == TASKS_AT_ONCE
    assert seen.tasks[7].error.startswith("ValueError: why why")
    assert len(msgspec.msgpack.encode(seen)) < MAX_PAYLOAD_BYTES
    assert len(run.look(Look(states=["FAILED"], start=TASKS_AT_ONCE - 9, tasks=True), by("ann")).tasks[0].error) > 2000


async def waiting_unless(broken: "asyncio.Future[Failure]") -> "asyncio.Task[None]":
    """A task that waits, unless it has taken too much."""

    async def waits() -> None:
        with unless(broken):
            await asyncio.Event().wait()

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    return task


async def test_who_is_cancelled_is_although_its_task_took_too_much_in_the_same_moment() -> None:
    broken = asyncio.get_running_loop().create_future()
    task = await waiting_unless(broken)
    task.cancel()
    broken.set_result(Failure("TooMuchDisk"))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_takes_too_much_is_ended_with_that_failure() -> None:
    broken = asyncio.get_running_loop().create_future()
    task = await waiting_unless(broken)
    broken.set_result(Failure("TooMuchDisk"))
    with pytest.raises(Failed) as failed:
        await task
    assert failed.value.failure.kind == "TooMuchDisk"
    assert not task.cancelling()


@pytest.mark.parametrize(
    ("results", "joined"),
    [
        ([{"a": 1, "b": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ([[1], [2, 3]], [1, 2, 3]),
        ([[1], None, [2]], [1, 2]),
        ([None, {"a": 1}], {"a": 1}),
        ([1, 2], [1, 2]),
        (["a", {"b": 1}], ["a", {"b": 1}]),
        ([None], {}),
    ],
)
async def test_a_join_leaves_out_nothing_that_was_given(results: list[Any], joined: Any, tmp_path: Path) -> None:
    done = await executor.Executor(cast(Any, None), tmp_path).execute(
        Order("all", 1, join=True, args=results), cast(Any, None)
    )
    assert done.value == joined
