"""What the classic gateway says of jobs, workers and keys, in a simulated pool."""

import asyncio
import json

import pytest

import titan_overlay as titan
from tests.sim.test_dag import opened
from tests.unit.dag_world import definition
from titan_objects.dag.classic.desk import Desk, Failed
from titan_objects.dag.client import submit
from titan_objects.dag.journal import Success, Worker
from titan_objects.dag.messages import Done, Sync
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

JOBS = definition({"id": "DAG-a"}, {"id": "DAG-b", "needs": ["DAG-a"]}, {"id": "DAG-c"}, name="classic: a")


async def test_jobs_are_found_by_their_names_through_whichever_gateway() -> None:
    async with SimulatedPool(3) as sim:
        pool = await opened(sim, slots=4, labels={"gpu": "1", "os": "linux"})
        run = await submit(pool, JOBS)
        desk, other = Desk(pool, "dag"), Desk(await sim.client(), "dag")
        assert await desk.answer(0x55, "a") == await other.answer(0x55, "DAG-a") == "PENDING"
        assert [await desk.answer(code, "none") for code in (0x55, 0x56, 0x07, 0x16)] == [
            "NULL",
            "NOT_FOUND",
            "NOT_FOUND",
            "",
        ]
        first, second = (await pool.send(run.name, Sync(Worker("w", cores=2.0), 2))).orders
        assert await desk.answer(0x55, first.key) == "RUNNING"
        assert json.loads(await desk.answer(0x09, "")) == {
            "active_workers": 1,
            "queue_size": 0,
            "workers": [{"name": f"{pool.id}/w", "port": 0, "capabilities": "GENERAL,GPU", "load": "2/4"}],
        }
        assert await desk.answer(0x01, "") == "PONG|2|4" and "2/4, GENERAL,GPU" in await desk.answer(0x08, "")
        lines = [(second.epoch, 0, "no"), (first.epoch, 0, "hello"), (first.epoch, 1, "ä")]
        await pool.send(
            run.name, Sync(Worker("w"), done=[Done(first.epoch, Success(0))], holds=[second.epoch], lines=lines, turn=1)
        )
        assert (first.key, await desk.answer(0x55, "a"), await desk.answer(0x16, "a")) == (
            "DAG-a",
            "COMPLETED",
            "hello\nä",
        )
        assert await desk.answer(0x56, "DAG-a") == "COMPLETED" and await desk.answer(0x07, "c") == "STOPPED"
        assert [await other.answer(0x56, "b"), await other.answer(0x55, "b")] == ["CANCELLED", "CANCELLED"]
        await submit(pool, JOBS)
        await asyncio.sleep(2)  # virtual: a gateway looks once a second for what others have submitted
        assert await other.answer(0x55, "b") == "PENDING", "of two with one name, the one that was submitted last"


async def test_keys_values_and_assets_are_kept_in_a_store() -> None:
    async with SimulatedPool(3) as sim:
        pool = await opened(sim)
        with pytest.raises(Failed, match="no store"):
            await Desk(pool, "dag").answer(0x60, "k|v")
        await pool.publish("store-group", "store/main")
        desk = Desk(pool, "dag", "store/main")
        for opcode, body, reply in (
            (0x61, "k", "NULL"), (0x60, "k|a|b ä", "OK"), (0x61, "k", "a|b ä"),
            (0x63, "s", ""), (0x62, "s|y", "1"), (0x62, "s|y", "0"), (0x62, "s|x", "1"), (0x63, "s", "x,y"),
            (0x53, "a.bin|AAEC", "UPLOAD_SUCCESS"), (0x54, "a.bin", "AAEC"), (0x57, "b.py|AA==", "DEPLOY_SUCCESS"),
        ):  # fmt: skip
            assert await desk.answer(opcode, body) == reply
        assert await pool.send("store/main", ["GET", "user:k"]) == "a|b ä".encode()
        with pytest.raises(Failed, match="ERROR_NOT_FOUND"):
            await desk.answer(0x54, "none")
        for opcode in (0x60, 0x62, 0x53, 0x57):
            with pytest.raises(Failed, match="2 fields"):
                await desk.answer(opcode, "k")
        with pytest.raises(titan.BadMessage, match="no base64"):
            await desk.answer(0x53, "a|?")
