"""Runs as objects of a pool: workers find them, and they go on when a member dies. No processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

import titan_overlay as titan
from tests.unit.dag_world import definition
from titan_objects.dag import children, cli, sections
from titan_objects.dag.archive import archived
from titan_objects.dag.client import resume, submit
from titan_objects.dag.definitions import history, save
from titan_objects.dag.journal import Begin, Order, Success, Worker
from titan_objects.dag.memory import Forget, recalled
from titan_objects.dag.messages import Act, Done, Export, Sync
from titan_objects.dag.processes import Failed
from titan_objects.dag.queue import COMMANDS, AskOpen, Close, Register, Runs, WorkerInfo
from titan_objects.dag.rescue import again
from titan_objects.dag.worker import Workers
from titan_overlay.config import NodeConfig
from titan_overlay.identity.keys import SigningKey
from titan_overlay.testing.pool import Machine, SimulatedPool

pytestmark = pytest.mark.loops("virtual")

COUNT = definition(
    {"id": "each", "map": {"over": [1, 2, 3, 4]}},
    {"id": "sum", "call": "", "reduce": "m:sum", "needs": ["each"]},
)


async def opened(sim: SimulatedPool, **worker: Any) -> titan.Pool:
    pool = await sim.client()
    await pool.publish("dag", "dag")
    await pool.send("dag", Register(WorkerInfo("w", **{"trusts": [pool.id], **worker})))
    return pool


async def names_open(pool: titan.Pool, queue: str = "dag") -> list[str]:
    return [each.name for each in (await pool.read(queue, AskOpen([pool.id]))).runs]


async def work(pool: titan.Pool, run: str, turns: int = 100) -> None:
    """A worker that adds one to what a map gives it, and sums what a reduce gives it."""
    done: list[Done] = []
    for _ in range(turns):
        lines = [(each.epoch, 0, "hello") for each in done]
        synced = await pool.send(run, Sync(Worker("w", cores=2.0), 2, done, lines=lines))
        done = [
            Done(each.epoch, Success(sum(each.args[0]) if "sum" in each.call else each.args[0] + 1))
            for each in synced.orders
        ]
        if synced.state == "SUCCEEDED":
            return
        await asyncio.sleep(1)


@pytest.mark.slow
async def test_a_run_goes_on_when_a_member_dies_and_gives_its_result() -> None:
    async with SimulatedPool(5) as sim:
        pool = await opened(sim)
        run = await submit(pool, COUNT)
        assert await names_open(pool) == [run.name]
        await work(pool, run.name, turns=1)
        member = (await pool.group(run.name)).members[0].node.removeprefix("node:")
        sim.kill(next(each for each in sim.nodes if each.node.key.id.hex() == member))
        await work(pool, run.name)
        assert await run.result() == 2 + 3 + 4 + 5
        assert [line.text async for line in run.logs()] == ["hello"] * (await run.look()).lines


async def test_only_who_submitted_a_run_may_end_it() -> None:
    async with SimulatedPool(5) as sim:
        run = await submit(await opened(sim), COUNT)
        stranger = await sim.client(user=SigningKey(bytes(32)))
        with pytest.raises(titan.Forbidden, match="who submitted"):
            await stranger.send(run.name, Act("cancel"))
        with pytest.raises(titan.Forbidden, match="who submitted"):
            await stranger.send("dag", Close(run.name, "SUCCEEDED"))
        assert [each.state for each in await run.pool.read("dag", Runs())] == ["RUNNING"]
        assert await run.act("cancel") == "CANCELLED"
        while await names_open(run.pool):  # the run itself tells the queue
            await asyncio.sleep(0.1)
        assert [each.state for each in await run.pool.read("dag", Runs())] == ["CANCELLED"]
        with pytest.raises(titan.Gone):
            await run.result()


async def test_a_run_that_nobody_can_run_is_refused_at_once() -> None:
    async with SimulatedPool(5) as sim:
        pool = await sim.client()
        with pytest.raises(titan.NotFound, match="titan publish dag"):
            await submit(pool, COUNT)
        await pool.publish("dag", "dag")
        with pytest.raises(titan.Unavailable, match="no worker"):
            await submit(pool, COUNT)
        await pool.send("dag", Register(WorkerInfo("w", trusts=["somebody"])))
        with pytest.raises(titan.Unavailable, match="0 of 1 workers run what is yours"):
            await submit(pool, COUNT, code=Path(__file__))
        await pool.send("dag", Register(WorkerInfo("v", trusts=[pool.id])))
        with pytest.raises(titan.Unavailable, match="gpu=1: 0 of 1"):
            await submit(pool, definition({"id": "a", "requires": {"labels": {"gpu": "1"}}}))
        with pytest.raises(titan.Unavailable, match="--worker-commands trusted"):
            await submit(pool, definition({"id": "a", "run": "true", "call": ""}))
        await pool.send("dag", Register(WorkerInfo("u", 4, {"gpu": "1"}, [pool.id], memory=1 << 30)))
        for requires, why in (
            ({"cores": 8}, r"requires 8 cores, and 4 are the most .* titan-node --workers 8"),
            ({"cores": 4, "labels": {"gpu": "2"}}, "gpu=2: 0 of 2"),
            ({"memory": "2G", "labels": {"gpu": "1"}}, r"requires 2048 MiB .* 1024 MiB are the most"),
        ):
            with pytest.raises(titan.Unavailable, match=why):
                await submit(pool, definition({"id": "a", "requires": requires}))
        with pytest.raises(titan.Unavailable, match=r"2 owners of workers that agree .* are of 1"):
            await submit(pool, definition({"id": "a", "verify": {}}))
        assert (await submit(pool, definition({"id": "a", "requires": {"cores": 4, "memory": "1G"}}))).name


class Screen:
    """As much of a command's face as submitting needs."""

    def __init__(self, pool: titan.Pool) -> None:
        self.there = pool
        self.shown: list[Any] = []

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[titan.Pool]:
        yield self.there

    def show(self, value: Any, render: Any) -> None:
        self.shown.append(value)


async def test_whose_workers_count_and_how_many_crashes_a_run_survives_is_said_on_the_command_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "it.json").write_text('{"name": "it", "tasks": [{"id": "a", "call": "m:a"}]}')
    async with SimulatedPool(5) as sim:
        screen: Any = Screen(await opened(sim))
        me = screen.there.id
        for faults in (0, 2):
            await cli.submit(screen, tmp_path / "it.json", faults=faults, worker_key=[me])
            run = screen.shown[-1]
            assert len((await screen.there.group(run)).members) == 2 * faults + 1
            (begun, *_) = await screen.there.read(run, Export())
            assert isinstance(begun.event, Begin) and begun.event.workers == (me,)
        with pytest.raises(titan.Unavailable, match=r"0 of 1 workers at the queue 'dag' are of those .* nobody"):
            await cli.submit(screen, tmp_path / "it.json", worker_key=["nobody"])


async def test_a_run_for_which_too_few_nodes_may_host_says_how_many_faults_they_would_be_enough_for() -> None:
    async with SimulatedPool(2) as sim:
        pool = await sim.client()
        await pool.publish("dag", "dag", policy=titan.Policy(faults=0))
        await sim.add_node(Machine(config=NodeConfig(no_host=True)))
        await pool.send("dag", Register(WorkerInfo("w", trusts=[pool.id])))
        with pytest.raises(titan.Unavailable, match=r"2 of 3 nodes would: .*; start more, or ask for fewer faults: 0"):
            await submit(pool, COUNT)
        assert (await submit(pool, COUNT, faults=0)).name


async def test_workers_look_at_runs_of_those_alone_whom_they_trust_and_run_no_commands_unless_told() -> None:
    async with SimulatedPool(5) as sim:
        run = await submit(await opened(sim), COUNT)
        other = await sim.client(user=SigningKey(bytes(32)))
        workers = Workers(other, "dag", "w", 1, {}, Path("nowhere"))
        assert not await workers.look()
        workers = Workers(run.pool, "dag", "w", 1, {}, Path("nowhere"))
        assert await workers.look() == [run.name]
        assert not await workers.look(), "nothing has changed"
        assert COMMANDS not in workers.info.labels
        with pytest.raises(Failed, match="runs no commands"):
            await workers.execute(Order("a", 1, run=["true"]), cast(Any, None))


async def test_what_is_submitted_through_a_node_runs_on_its_own_workers() -> None:
    async with SimulatedPool(5) as sim:
        await opened(sim)
        pool = sim.pool(sim.nodes[0])
        sim.nodes[0].running.owner = sim.user  # who started it has another key
        workers = Workers(pool, "dag", "w", 1, {}, Path("nowhere"))
        await pool.send("dag", Register(workers.info))
        run = await submit(pool, COUNT)
        assert await workers.look() == [run.name]


async def test_submitted_again_under_its_own_key_it_is_the_same_run_even_when_that_has_ended() -> None:
    async with SimulatedPool(5) as sim:
        pool = await opened(sim)
        other = await sim.client()
        first, second = await asyncio.gather(*(submit(each, COUNT, once="the 11th") for each in (pool, other)))
        assert first.name == second.name
        with pytest.raises(titan.Conflict, match="differ"):
            await submit(pool, definition({"id": "another"}), once="the 11th")
        await first.act("cancel")
        again = await submit(pool, COUNT, once="the 11th")
        assert (again.name, (await again.look()).state) == (first.name, "CANCELLED")
        while await names_open(pool):
            await asyncio.sleep(0.1)


async def test_a_run_that_has_ended_before_its_queue_knew_it_does_not_stay_open_there() -> None:
    async with SimulatedPool(5) as sim:
        run = await submit(await opened(sim), COUNT)
        run.queue = "slow"
        await run.pool.publish("dag", "slow")
        view = await run.look()
        await run.act("cancel")
        await run.announce(view.name, view.state, view.voice)  # as it was before
        assert [each.state for each in await run.pool.read("slow", Runs())] == ["CANCELLED"]
        await run.act("rerun")
        assert await names_open(run.pool, "slow") == [run.name]


async def test_two_programs_of_one_user_submit_the_same_at_one_moment_and_have_two_runs() -> None:
    async with SimulatedPool(5) as sim:
        first = await opened(sim)
        second = await sim.client()
        assert first.id == second.id
        runs = await asyncio.gather(submit(first, COUNT), submit(second, COUNT))
        assert len({each.name for each in runs}) == 2


async def test_what_is_known_from_one_run_is_not_done_again_in_the_next() -> None:
    async with SimulatedPool(5) as sim:
        pool = await opened(sim)
        task = {"id": "a", "call": "test_dag:f", "cache_key": "auto"}
        values = []
        for turn in range(2):
            run = await submit(pool, definition(task))
            (order,) = (await pool.send(run.name, Sync(Worker("w"), 1))).orders
            known = await recalled(pool, run.name, order.memo)
            values.append(known and known.value)
            await pool.send(run.name, Sync(Worker("w"), 0, [Done(order.epoch, known or Success(turn))]))
            assert await run.result() == 0
            await asyncio.sleep(5)
        assert values == [None, 0]
        assert [each.recalled for each in (await run.look(tasks=True)).tasks] == [True]
        await pool.send(f"~{pool.id}/dag/memory", Forget(results=True, records=False))
        assert await recalled(pool, run.name, order.memo) is None


async def work_everywhere(pool: titan.Pool, turns: int = 60) -> None:
    """A worker at every run that is open; it gives back what it is given."""
    done: dict[str, list[Done]] = {}
    for turn in range(turns):
        for name in await names_open(pool):
            ended = done.pop(name, [])
            lines = [(each.epoch, 0, "hello") for each in ended]
            synced = await pool.send(name, Sync(Worker("w", cores=9.0), 9, ended, lines=lines, turn=turn))
            done[name] = [Done(each.epoch, Success(each.args[0] if each.args else None)) for each in synced.orders]
        if not await names_open(pool):
            return
        await asyncio.sleep(1)


async def test_definitions_of_the_pool_are_used_by_others_and_a_long_map_is_done_by_several_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "SLICE_ITEMS", 2)
    async with SimulatedPool(5) as sim:
        pool = await opened(sim)
        first = await save(pool, "twice", definition({"id": "a", "args": [1]}), "to begin with")
        sub = definition({"id": "m", "map": {"over": "${params.n}"}, "args": ["${item}"]}, params={"n": [7, 8, 9]})
        assert await save(pool, "twice", sub, "a list") != first
        task = {"id": "s", "call": "", "uses": "twice"}
        run = await submit(pool, definition(task))
        old = await submit(pool, definition({**task, "uses": f"twice@{first[7:20]}"}))
        with pytest.raises(titan.BadMessage, match="no parameter 'x'"):
            await submit(pool, definition({**task, "inputs": {"x": 1}}))
        with pytest.raises(titan.NotFound, match="titan dag save"):
            await submit(pool, definition({**task, "uses": "thrice"}))
        assert len(await names_open(pool)) == 6
        await work_everywhere(pool)
        assert (await run.result(), await old.result()) == ([7, 8, 9], 1)
        assert [each.why for each in await history(pool, "twice")] == ["to begin with", "a list"]
        assert {each.state for each in await pool.read("dag", Runs())} == {"SUCCEEDED"}


async def test_a_graph_in_sections_is_one_run_to_whoever_submits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_TASKS", 2)
    chain = [{"id": f"t{n}", "needs": [f"t{n - 1}"] if n else []} for n in range(3)]
    async with SimulatedPool(5) as sim:
        pool = await opened(sim)
        run = await submit(pool, definition(*chain, {"id": "t3", "needs": ["t2"], "approval": {}, "args": ["${t2}"]}))
        assert len(await names_open(pool)) == 3
        await work_everywhere(pool, turns=5)
        with pytest.raises(titan.BadMessage, match="no task 't9'"):
            await run.act("approve", "t9")
        await run.act("approve", "t3")
        await work_everywhere(pool)
        assert await run.result() is None
        assert [line.text async for line in run.logs("t3", follow=False)] == ["hello"]
        assert len([line async for line in run.logs(follow=False)]) == 4
        kept = await archived(run)
        assert ([each.key for each in kept.tasks], len(kept.lines)) == (["t0", "t1", "t2", "t3"], 4)
        other = await resume(pool, again(kept.rescue, ["t3"]))
        await other.act("approve", "t3")
        await work_everywhere(pool)
        assert (await other.look()).state == "SUCCEEDED"
        assert len([line async for line in other.logs(follow=False)]) == 1
