"""The virtual loop: time that jumps, an order that holds, and what is refused."""

import asyncio
import os
import random
import secrets
import sys
import threading
import time
import types
import uuid

import pytest

from titan_overlay import testing
from titan_overlay.ambient import SIMULATED_EPOCH, Ambient


def test_an_hour_of_sleep_takes_no_time():
    async def main():
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert testing.run(main) == 3600.0


def test_timers_of_equal_deadline_fire_in_the_order_they_were_set():
    async def main():
        loop = asyncio.get_running_loop()
        order = []
        for number in range(1000):
            loop.call_at(1.0 + (number * 7919 % 5), order.append, (number * 7919 % 5, number))
        await asyncio.sleep(10)
        return order

    order = testing.run(main)
    assert len(order) == 1000
    assert order == sorted(order)


def test_a_timer_set_in_the_past_fires_now_and_the_clock_never_goes_back():
    async def main():
        loop = asyncio.get_running_loop()
        await asyncio.sleep(5)
        fired = loop.create_future()
        loop.call_at(1.0, lambda: fired.set_result(loop.time()))
        return await fired

    assert testing.run(main) == 5.0


def test_cancelled_timers_are_forgotten_and_the_others_fire():
    async def main():
        loop = asyncio.get_running_loop()
        fired = []
        timers = [loop.call_later(1 + number, fired.append, number) for number in range(10_000)]
        for number, timer in enumerate(timers):
            if number % 10:
                timer.cancel()
                timer.cancel()
        assert len(loop._scheduled) < 5_000
        await asyncio.sleep(20_000)
        assert loop._timer_cancelled_count == 0
        return fired

    assert testing.run(main) == list(range(0, 10_000, 10))


def test_cancelling_a_timer_that_is_due_in_the_same_round_stops_it():
    async def main():
        loop = asyncio.get_running_loop()
        fired = []
        second = None
        loop.call_at(1.0, lambda: second.cancel())
        second = loop.call_at(1.0, fired.append, "second")
        await asyncio.sleep(2)
        return fired

    assert testing.run(main) == []


@pytest.mark.parametrize("attempt", range(3))
def test_wait_and_task_groups_visit_tasks_in_the_same_order_every_run(attempt):
    ballast = [object() for _ in range(attempt * 1000)]  # moves what comes after it to other addresses

    async def main():
        order = []

        async def worker(number):
            await asyncio.sleep(1)
            order.append(number)

        tasks = {asyncio.create_task(worker(number)) for number in range(200)}
        done, _ = await asyncio.wait(tasks)
        futures = {asyncio.get_running_loop().create_future() for _ in range(200)}
        return [task.get_name() for task in done], [hash(future) for future in futures], order

    names, hashes, order = testing.run(main)
    assert order == list(range(200))
    assert (names, hashes) == (_first_run.setdefault("run", (names, hashes)))
    del ballast


_first_run: dict[str, object] = {}


def test_a_deadlock_is_an_error_that_says_who_waits_where():
    async def waits_for_ever():
        await asyncio.get_running_loop().create_future()

    async def main():
        await asyncio.create_task(waits_for_ever(), name="the-stuck-one")

    with pytest.raises(testing.Deadlock, match=r"the-stuck-one .*waits_for_ever waits at .*test_virtual_loop.py:\d+"):
        testing.run(main)


def test_a_spinning_task_is_an_error_instead_of_a_run_without_end():
    async def main():
        loop = asyncio.get_running_loop()
        loop.rounds_max = 1000
        while loop.time() < 1:
            await asyncio.sleep(0)

    with pytest.raises(testing.Livelock, match="without the clock moving"):
        testing.run(main)


def test_a_task_that_yields_does_not_starve_a_timer_that_is_due():
    async def main():
        fired = []
        asyncio.get_running_loop().call_later(0, fired.append, True)
        while not fired:
            await asyncio.sleep(0)
        return fired

    assert testing.run(main) == [True]


def _from_a_thread(loop, work):
    raised = []

    def body():
        try:
            work()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return raised


def test_another_thread_is_refused():
    loop = testing.VirtualLoop()
    called = []
    try:
        (error,) = _from_a_thread(loop, lambda: loop.call_soon_threadsafe(called.append, 1))
        loop.run_until_complete(asyncio.sleep(1))
    finally:
        loop.close()
    assert isinstance(error, testing.OutsideWorld)
    assert not called


def test_the_loops_own_thread_may_use_call_soon_threadsafe():
    async def main():
        called = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon_threadsafe(called.set_result, 1)
        return await called

    assert testing.run(main) == 1


async def _to_thread():
    await asyncio.to_thread(print)


async def _start_thread():
    threading.Thread(target=print).start()


async def _sleep():
    time.sleep(0.001)


async def _subprocess():
    await asyncio.create_subprocess_exec("true")


async def _reader():
    asyncio.get_running_loop().add_reader(0, print)


async def _unix():
    await asyncio.open_unix_connection("/tmp/x")


@pytest.mark.parametrize("leave", [_to_thread, _start_thread, _sleep, _subprocess, _reader, _unix])
def test_what_leaves_the_simulated_world_is_refused_with_advice(leave):
    with pytest.raises(testing.OutsideWorld, match=r": |; "):
        testing.run(leave)


async def _ambient_draws():
    await asyncio.sleep(0.5)
    return [
        time.time(),
        time.time_ns(),
        time.monotonic(),
        time.perf_counter(),
        time.gmtime()[:6],
        os.urandom(8),
        secrets.token_hex(8),
        secrets.randbelow(1 << 60),
        uuid.uuid4(),
        random.random(),
        random.Random().random(),
        random.SystemRandom().random(),
    ]


def test_time_and_chance_that_libraries_reach_for_are_the_same_every_run():
    first, second = testing.run(_ambient_draws, seed=3), testing.run(_ambient_draws, seed=3)
    other = testing.run(_ambient_draws, seed=4)
    assert first == second
    assert first[:5] == other[:5]
    assert all(mine != theirs for mine, theirs in zip(first[5:], other[5:], strict=True))
    assert first[0] == SIMULATED_EPOCH + 0.5
    assert first[2] == 0.5


def test_the_real_world_is_back_after_a_run_and_undisturbed():
    names = [(time, "time"), (time, "monotonic"), (time, "sleep"), (os, "urandom"), (random.Random, "seed")]
    before = [getattr(owner, name) for owner, name in names]
    random.seed(5)
    expected = random.Random(5).random()
    testing.run(_ambient_draws)

    async def fails():
        raise LookupError

    with pytest.raises(LookupError):
        testing.run(fails)
    assert [getattr(owner, name) for owner, name in names] == before
    assert random.random() == expected
    assert os.urandom(16) != os.urandom(16)


def test_a_name_bound_at_import_is_sealed_too():
    module = types.ModuleType("a_library_under_test")
    module.now, module.entropy = time.monotonic, os.urandom
    sys.modules[module.__name__] = module

    async def main():
        await asyncio.sleep(2)
        return module.now(), module.entropy(4)

    try:
        first = testing.run(main)
        assert first == testing.run(main)
        assert first[0] == 2.0
        assert module.now is time.monotonic
    finally:
        del sys.modules[module.__name__]


def test_a_run_cut_in_pieces_draws_the_same_numbers_as_one():
    async def draw():
        return [random.random(), os.urandom(4), secrets.token_bytes(4)]

    loop = testing.VirtualLoop(seed=1)
    pieces = [loop.run_until_complete(draw()) for _ in range(3)]
    loop.close()

    async def whole():
        return [await draw() for _ in range(3)]

    assert pieces == testing.run(whole, seed=1)


def test_at_the_end_tasks_are_cancelled_and_generators_closed_in_order():
    ended = []

    async def ticks(number):
        try:
            while True:
                yield await asyncio.sleep(1)
        finally:
            ended.append(("generator", number))

    async def forever(number):
        try:
            await asyncio.sleep(1e9)
        finally:
            await asyncio.sleep(1)
            ended.append(("task", number))

    async def main():
        main.tasks = [asyncio.create_task(forever(number)) for number in range(5)]
        main.generators = [ticks(number) for number in range(5)]
        for generator in main.generators:
            await anext(generator)

    testing.run(main)
    assert ended == [("task", number) for number in range(5)] + [("generator", number) for number in range(5)]


def test_a_callback_that_raises_is_reported_and_the_rest_run():
    async def main():
        loop = asyncio.get_running_loop()
        reports, ran = [], []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        loop.call_soon(lambda: 1 / 0)
        loop.call_soon(ran.append, 1)
        loop.post_at(1.0, lambda: 1 / 0)
        loop.post_at(1.0, ran.append, 2)
        await asyncio.sleep(2)
        return [type(error) for error in reports], ran

    assert testing.run(main) == ([ZeroDivisionError, ZeroDivisionError], [1, 2])


def test_run_refuses_to_nest_and_closes_the_loop():
    async def inner():
        pass

    async def main():
        with pytest.raises(RuntimeError, match="running event loop"):
            testing.run(inner)
        return asyncio.get_running_loop()

    assert testing.run(main).is_closed()


def test_names_resolve_numerically():
    async def main():
        loop = asyncio.get_running_loop()
        loop.network.names["seed.example"] = "10.1.2.3"
        known = await loop.getaddrinfo("seed.example", 4747)
        v6 = await loop.getaddrinfo("::1", 1)
        with pytest.raises(OSError, match="no such name"):
            await loop.getaddrinfo("nobody.example", 1)
        return known[0][4], v6[0][4]

    assert testing.run(main) == (("10.1.2.3", 4747), ("::1", 1, 0, 0))


def test_a_seeded_ambient_is_a_function_of_its_seed():
    async def main():
        loop = asyncio.get_running_loop()
        mine, again, other = Ambient.seeded("7/1", loop), Ambient.seeded("7/1", loop), Ambient.seeded("7/2", loop)
        await asyncio.sleep(1)
        assert mine.wall() == SIMULATED_EPOCH + 1
        assert mine.random.random() == again.random.random() != other.random.random()
        assert mine.token_bytes(16) == again.token_bytes(16) != other.token_bytes(16)

    testing.run(main)


def test_the_systems_ambient_differs_every_time():
    one, two = Ambient.system(), Ambient.system()
    assert one.token_bytes(16) != two.token_bytes(16)
    assert one.random.random() != two.random.random()
    assert one.wall() > SIMULATED_EPOCH


def test_a_module_first_imported_during_a_run_is_given_the_real_clock_afterwards(tmp_path, monkeypatch):
    (tmp_path / "a_late_library.py").write_text("from time import monotonic\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def main():
        import a_late_library

        return a_late_library.monotonic()

    try:
        assert testing.run(main) == 0.0
        assert sys.modules["a_late_library"].monotonic is time.monotonic
    finally:
        sys.modules.pop("a_late_library", None)
