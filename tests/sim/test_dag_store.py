"""A run with a store: what its tasks read and write there, what they hear, and what everybody sees of them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.unit.dag_world import definition
from titan_objects.dag.client import submit
from titan_objects.dag.errands import Errands
from titan_objects.dag.inside import Hear, Hush, Listen, Question, Send
from titan_objects.dag.journal import Order, Success
from titan_objects.dag.part import Part
from titan_objects.dag.processes import Ear, Failed
from titan_objects.dag.queue import Register, WorkerInfo
from titan_objects.dag.worker import Workers
from titan_objects.store.hearing import Hearing
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")


ALONE = titan.Policy(faults=0)


def command(*words: str) -> Send:
    return Send("store/main", "list", msgspec.msgpack.encode(words), 10.0)


class Working(Workers):
    """Without processes. One task hears what the other says, and both are seen."""

    async def execute(self, order: Order, ear: Ear) -> Success:
        assert order.store == "store/main"
        if order.key == "bad":
            raise Failed("Bad", "it cannot")
        if order.key == "says":
            while not await ear.ask(command("GET", "listening")):
                await asyncio.sleep(0.1)
            await ear.ask(command("SADD", "names", "ann"))
            await ear.ask(command("PUBLISH", "news", "hello"))
            return Success(None)
        number = await ear.ask(Listen("store/main", ["news"]))
        await ear.ask(command("SET", "listening", "yes"))
        while not (heard := await ear.ask(Hear(number))):
            pass
        await ear.ask(Hush(number))
        ear.line("heard it")
        return Success(heard)


async def test_tasks_of_a_run_share_its_store_and_everybody_sees_there_how_they_are() -> None:
    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        await pool.publish("dag", "dag", policy=ALONE)
        await pool.publish("store-group", "store/main", policy=ALONE)
        await pool.send("dag", Register(WorkerInfo("w", trusts=[pool.id])))
        made = definition({"id": "hears"}, {"id": "says"}, {"id": "bad", "on_failure": "ignore"}, result="hears")
        run = await submit(pool, made, store="store/main", faults=0)
        seen = Hearing(pool, "store/main", [f"logs:{run.name.rpartition('/')[2]}/hears"])
        await seen.start()
        workers = Working(pool, "dag", "w", 3, {"gpu": "1"}, Path("nowhere"))
        await Part(workers, run.name).serve()
        assert await run.result() == [[b"news", b"hello"]]
        assert [message for _, message in await seen.get()] == [b"heard it"]
        await seen.close()

        async def ask(*words: str) -> Any:
            return await pool.send("store/main", list(words))

        short = run.name.rpartition("/")[2]
        assert await ask("SMEMBERS", "names") == [b"ann"]
        flags = [await ask("GET", f"task:{short}/{key}") for key in ("hears", "says", "bad")]
        assert flags == [b"COMPLETED", b"COMPLETED", b"FAILED"]
        presence = msgspec.json.decode(await ask("GET", f"worker:{pool.id}/w"))
        assert presence == {"slots": 3, "labels": {"gpu": "1"}, "run": short}
        assert 0 < await ask("TTL", f"worker:{pool.id}/w") <= 90


async def test_a_run_goes_on_where_its_store_does_not_answer() -> None:
    class Quick(Workers):
        async def execute(self, order: Order, ear: Ear) -> Success:
            ear.line("a line")
            return Success(order.key)

    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        await pool.publish("dag", "dag", policy=ALONE)
        await pool.send("dag", Register(WorkerInfo("w", trusts=[pool.id])))
        run = await submit(pool, definition({"id": "a"}), store="store/none", faults=0)
        await Part(Quick(pool, "dag", "w", 1, {}, Path("nowhere")), run.name).serve()
        assert await run.result() == "a"


async def test_a_task_listens_within_bounds_and_no_longer_than_it_runs() -> None:
    async with SimulatedPool(3) as sim:
        pool = await sim.client()
        await pool.publish("store-group", "store/main", policy=ALONE)
        errands = Errands(pool)
        number = await errands.do(Listen("store/main", ["news"]))
        assert await errands.do(Hear(number)) == []
        wrong: tuple[Question, ...] = (Hear(number + 1), Listen("store/main", []), Listen("store/main", ["x"] * 1000))
        for what in wrong:
            with pytest.raises(titan.BadMessage):
                await errands.do(what)
        with pytest.raises(titan.NotFound):
            await errands.do(Listen("store/none", ["news"]))
        before = len(asyncio.all_tasks())
        await errands.aclose()
        assert len(asyncio.all_tasks()) < before
        with pytest.raises(titan.BadMessage, match="listens to nothing"):
            await errands.do(Hear(number))
