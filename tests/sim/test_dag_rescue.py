"""A run is rescued from one pool, and goes on in another: with its data, under another owner."""

from pathlib import Path

import pytest

import titan_overlay as titan
from tests.sim.test_dag import opened
from tests.unit.dag_world import definition
from titan_objects.dag.archive import Archive, archived
from titan_objects.dag.client import resume, submit
from titan_objects.dag.journal import Success, Worker
from titan_objects.dag.messages import Done, Sync, TakeOver
from titan_objects.dag.rescue import again, read_rescue, written
from titan_objects.dag.submitted import SubmittedRun
from titan_overlay.identity.keys import SigningKey
from titan_overlay.testing.pool import SimulatedPool

pytestmark = pytest.mark.loops("virtual")

TASKS = definition({"id": "a"}, {"id": "many", "map": {"over": list(range(20))}}, {"id": "b", "needs": ["a", "many"]})


async def half_done(pool: titan.Pool, value: bytes) -> SubmittedRun:
    """All but `b` is done; what `a` gave is data of the pool."""
    run = await submit(pool, TASKS)
    given = Success({"$data": await pool.put(value)})
    synced = await pool.send(run.name, Sync(Worker("w", cores=100.0), 100))
    done = [Done(each.epoch, given if each.key == "a" else Success("x" * 5000)) for each in synced.orders]
    for n in range(0, 21, 10):
        await pool.send(run.name, Sync(Worker("w", cores=0.0), 0, done[n : n + 10], [d.epoch for d in done[n + 10 :]]))
    return run


async def ends(pool: titan.Pool, run: SubmittedRun) -> None:
    """What is left is `b`, and it gets what was taken over."""
    (order,) = (await pool.send(run.name, Sync(Worker("w", cores=100.0), 100))).orders
    assert order.key == "b"
    await pool.send(run.name, Sync(Worker("w"), done=[Done(order.epoch, Success("end"))]))
    assert await run.result() == "end"


async def test_a_rescued_run_goes_on_in_another_pool_under_another_owner(tmp_path: Path) -> None:
    value = b"v" * 50_000
    async with SimulatedPool(3) as sim:
        run = await half_done(await opened(sim), value)
        file = written(await run.rescue())
        lean = await run.rescue(data=False)
        assert len(await run.journal()) > 20
        await ends(run.pool, await resume(run.pool, lean))
    found = read_rescue(file, "it")
    assert len(file) > 20 * 5000
    async with SimulatedPool(3) as sim:
        pool = await opened(sim)
        with pytest.raises(titan.NotFound, match="export it with its data"):
            await resume(pool, lean)
        run = await resume(pool, found)
        view = await run.look(tasks=True)
        assert view.counts == {"SUCCEEDED": 21, "READY": 1}
        with pytest.raises(titan.Conflict, match="once it has ended"):
            await archived(run)
        await ends(pool, run)
        archive = Archive(f"sqlite:///{tmp_path}/runs.db")
        archive.keep(await archived(run))
        (kept,) = archive.runs()
        assert (kept.name, kept.state, kept.owner) == (run.name, "SUCCEEDED", pool.id)
        assert [each.state for each in archive.show(run.name)[1]] == ["SUCCEEDED"] * 22
        await ends(pool, await resume(pool, again(archive.rescue(run.name), ["b"])))
        archive.close()
        stranger = await sim.client(user=SigningKey(bytes(32)))
        with pytest.raises(titan.Forbidden, match="who submitted"):
            await stranger.send(run.name, TakeOver(found.found))
