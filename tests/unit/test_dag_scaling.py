"""When workers are started, and when they are ended: the rules, a queue that grows and empties, and real processes."""

import asyncio
import os
import signal
import sys
from typing import Any, cast

import pytest

import titan_overlay as titan
from tests.unit.test_dag_senders import by, key, space
from titan_objects.dag import queue as queues
from titan_objects.dag import scaler
from titan_objects.dag.queue import AskOpen, Open, RunInfo
from titan_objects.dag.scaler import Scaler
from titan_objects.dag.scaling import SETTLE_SECONDS, Bounds, Decision, Scaling, Seen


def worker(number: int, busy: int = 0, idle_since: float | None = None, worked: bool = True) -> Seen:
    return Seen(number, 0.0, busy, idle_since, worked)


def test_as_many_are_started_as_what_waits_needs_within_the_limits() -> None:
    scaling = Scaling(Bounds(least=1, most=5, slots=4))
    assert scaling.decide(0.0, 0, []) == Decision(1)
    assert scaling.decide(0.0, 9, []) == Decision(3)
    assert scaling.decide(0.0, 1000, []) == Decision(5)
    assert scaling.decide(0.0, 9, [worker(1)]) == Decision(2), "the first is still starting, and counts"
    assert scaling.decide(0.0, 3, [worker(1, busy=1)]) == Decision()
    assert scaling.decide(0.0, 4, [worker(1, busy=4)]) == Decision(1)
    assert scaling.decide(0.0, 1000, [worker(number, busy=4) for number in range(5)]) == Decision()


def test_the_longest_idle_go_first_after_the_cool_down_and_some_stay() -> None:
    scaling = Scaling(Bounds(least=1, most=4, cool_down=45.0))
    workers = [worker(1, idle_since=10.0), worker(2, idle_since=0.0), worker(3, busy=1), worker(4, idle_since=90.0)]
    assert scaling.decide(44.0, 0, workers) == Decision()
    assert scaling.decide(50.0, 0, workers) == Decision(reap=(2,))
    assert scaling.decide(55.0, 0, workers) == Decision(reap=(2, 1))
    assert scaling.decide(55.0, 0, workers[1:2]) == Decision()


def test_tasks_that_are_not_for_such_workers_start_no_more_of_them() -> None:
    scaling, now, started = Scaling(Bounds(most=8, cool_down=10.0)), 0.0, 0
    workers: dict[int, Seen] = {}
    while now < 3600:
        decision = scaling.decide(now, 100, list(workers.values()))
        for number in decision.reap:
            del workers[number]
        for _ in range(decision.start):
            started += 1
            workers[started] = Seen(started, now)
            workers[started].tell(0, now)
        now += 1.0
    assert 8 < started < 40
    idle = worker(1, idle_since=0.0)
    assert Scaling(Bounds(most=8)).decide(SETTLE_SECONDS + 1, 100, [idle]) == Decision()


def test_workers_that_end_at_once_are_started_less_and_less_often_until_one_works() -> None:
    scaling, now, starts = Scaling(Bounds(most=1)), 0.0, 0
    while now < 3600:
        starts += scaling.decide(now, 1, []).start
        if starts and now >= scaling._not_before:
            scaling.ended(now)
        now += 1.0
    assert 10 < starts < 30
    scaling.decide(now, 1, [worker(1, busy=1)])
    assert scaling.decide(now, 1, []) == Decision(1)


def test_a_queue_that_fills_and_empties_again_has_workers_while_it_needs_them() -> None:
    bounds = Bounds(most=6, slots=2, cool_down=45.0)
    scaling, now, waiting, most = Scaling(bounds), 0.0, 0, 0
    workers: dict[int, Seen] = {}
    started = 0
    for turn in range(600):
        waiting += 3 if 10 <= turn < 100 else 0
        decision = scaling.decide(now, waiting, list(workers.values()))
        assert not (decision.start and decision.reap)
        for number in decision.reap:
            assert not workers.pop(number).busy
        for _ in range(decision.start):
            started += 1
            workers[started] = Seen(started, now)
        for each in workers.values():  # a task takes as long as a turn
            if now > each.started:
                each.tell(min(waiting, bounds.slots), now)
                waiting -= each.busy
        most = max(most, len(workers))
        assert len(workers) <= bounds.most
        now += 1.0
    assert (waiting, workers) == (0, {})
    assert 2 <= most <= started <= 6


class Queue:
    """As much of a pool as says what waits."""

    trusted = ("key",)

    def __init__(self) -> None:
        self.waiting: Any = 0

    async def read(self, name: str, message: Any, **_: Any) -> Any:
        if isinstance(message, AskOpen):
            return Open(1, [RunInfo("~key/1", "", "key", 0.0), RunInfo("~key/2", "", "key", 0.0)])
        if isinstance(self.waiting, Exception):
            raise self.waiting
        return self.waiting if name == "~key/1" else -1


CHILD = """\
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print('no json', flush=True)
print('{"busy": 0}', flush=True)
while True:
    time.sleep(60)
"""


def test_a_worker_is_left_alone_once_its_parent_is_not_its_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not scaler.is_left_alone()
    monkeypatch.setenv(scaler.SCALER, str(os.getppid()))
    assert not scaler.is_left_alone()
    monkeypatch.setenv(scaler.SCALER, "1")
    monkeypatch.setattr(os, "getppid", lambda: 2)
    assert scaler.is_left_alone()


async def until(what: Any) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


async def test_processes_are_started_and_reaped_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaler, "LOOK_SECONDS", 0.02)
    queue = Queue()
    made = Scaler(cast(titan.Pool, queue), "dag", Bounds(1, 3, 4, 0.2), [sys.executable, "-c", CHILD], dict(os.environ))
    serving = asyncio.create_task(made.serve())
    await until(lambda: len(made._workers) == 1)
    queue.waiting = 9
    await until(lambda: len(made._workers) == 3)
    pids = [each._process.pid for each in made._workers.values()]
    queue.waiting = titan.Unavailable("nobody is there")
    await until(lambda: all(each.seen.idle_since is not None for each in made._workers.values()))
    queue.waiting = 0
    await until(lambda: len(made._workers) == 1)
    (last,) = made._workers.values()
    os.kill(last._process.pid, signal.SIGKILL)
    await until(lambda: made._workers and last not in made._workers.values())
    pids += [each._process.pid for each in made._workers.values()]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_is_left_to_the_loop_to_reap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else asked for its status would take it away, and the loop would warn of a child it does not know."""
    process = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    popen = process._transport._proc  # type: ignore[attr-defined]
    monkeypatch.setattr(popen, "poll", lambda: pytest.fail("its status was taken"))
    await scaler._Process(process, Seen(1, 0.0)).reap()
    assert process.returncode == -signal.SIGTERM


async def test_tasks_of_all_open_runs_are_counted_however_many_answers_name_them() -> None:
    there = queues.Queue()
    there.runs, there.workers = {}, {}
    for number in range(queues.RUNS_AT_ONCE + 9):
        there.submit(queues.Submit(f"{space('ann')}/{number}", ""), by("ann"))
    owner = key("ann").hex()[:32]

    class Pool:
        trusted = (owner,)

        async def read(self, name: str, message: Any, **_: Any) -> Any:
            return there.list_open(message) if isinstance(message, AskOpen) else int(name.endswith("/264"))

    assert await scaler.waiting_tasks(cast(Any, Pool()), "dag") == 1
