"""The blocking API, and `titan.send`: in scripts, threads, notebooks, forks, and at a program's end."""

import asyncio
import signal
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.net.commands import SECONDS
from tests.net.nodes import QUICK, Nodes
from tests.net.services import Add, Count, Desk, Hold, InsufficientError, Overdraw


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A pool with a desk, that no test here harms."""
    with Nodes(tmp_path_factory.mktemp("pool"), 2) as running:
        with titan.connect_sync(running.line, data=running.user) as pool:
            pool.publish(Desk, "desk")
        yield running


@pytest.fixture
def pool(nodes: Nodes) -> Iterator[titan.SyncPool]:
    with titan.connect_sync(nodes.line, data=nodes.user) as connected:
        yield connected


def script(nodes: Nodes, text: str) -> Path:
    """A program of the user's. It finds the pool through the data directory of its user."""
    path = nodes.home / "program.py"
    path.write_text("import titan_overlay as titan\n" + textwrap.dedent(text))
    return path


def until_at_work(pool: titan.SyncPool) -> None:
    """Waits until a desk has a message at work. Any holder may answer, so all do in turn."""
    turn = threading.Event()
    for _ in range(SECONDS * 20):
        if pool.send("desk", titan.Stats()).running:
            return
        turn.wait(0.05)
    raise AssertionError("no desk is at work")


# ---- connect_sync ----------------------------------------------------------------------------------------------


def test_everything_that_a_pool_does_blocks_until_it_is_done(
    nodes: Nodes, pool: titan.SyncPool, tmp_path: Path
) -> None:
    assert pool.send("desk", Add(1, 2)) == 3
    assert list(pool.stream("desk", Count(500))) == list(range(500))
    assert pool.send_raw("desk", "str", b"\xa2hi") == b"\xa2hi"
    here = pool.ref(Desk, "desk")
    assert here.echo("hello") == "hello"
    assert list(here.count(Count(3))) == [0, 1, 2]
    with pytest.raises(InsufficientError) as own:
        pool.send("desk", Overdraw(7))
    assert own.value.missing == 7

    receipt = pool.publish(Desk, "another")
    assert {each.node for each in pool.locate("another")} == set(receipt.holders)
    described = pool.describe("another")
    assert isinstance(described, titan.Description)
    assert described.owner == pool.id
    assert pool.move("another", nodes.ids[0]).version == receipt.version
    assert pool.delete("another", receipt.token) == "deleted"

    name = pool.put(b"some bytes", policy=titan.Policy(min_copies=2))
    assert pool.put_receipt(b"some bytes").name == name
    assert pool.get(name) == b"some bytes"
    pool.get(name, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"some bytes"

    assert len(pool.census()) == 2
    (nearest,) = pool.nearest("desk")
    assert pool.multicast([nearest], titan.Ping())[nearest].holder == nearest.removeprefix("node:")


def test_the_blocking_pool_has_every_method_of_the_other() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert public(titan.Pool) - public(titan.SyncPool) == {"stream_raw"}
    assert public(titan.SyncPool) - public(titan.Pool) == {"close", "closed"}


def test_a_stream_that_is_left_ends_at_the_other_end_too(pool: titan.SyncPool) -> None:
    numbers = pool.stream("desk", Count(10**9))
    assert next(numbers) == 0
    numbers.close()  # type: ignore[attr-defined]
    turn = threading.Event()
    for _ in range(SECONDS * 20):
        if not pool.send("desk", titan.Stats()).running:
            return
        turn.wait(0.05)
    raise AssertionError("the handler still runs")


def test_a_stream_that_is_let_go_after_its_pool_was_closed_has_nothing_left_to_end(nodes: Nodes) -> None:
    with titan.connect_sync(nodes.line, data=nodes.user) as pool:
        numbers = pool.stream("desk", Count(10**9))
        assert next(numbers) == 0
    numbers.close()  # type: ignore[attr-defined]


def test_many_threads_use_one_pool(pool: titan.SyncPool) -> None:
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda n: pool.send("desk", Add(n, 1)), range(200))) == list(range(1, 201))


async def test_it_works_while_a_loop_is_running_in_the_same_thread(nodes: Nodes) -> None:
    # As in a notebook, whose cells run inside a loop.
    assert asyncio.get_running_loop().is_running()
    with titan.connect_sync(nodes.line, data=nodes.user) as pool:
        assert pool.send("desk", "hello") == "hello"
        assert list(pool.stream("desk", Count(3))) == [0, 1, 2]


def test_a_closed_pool_says_so(nodes: Nodes) -> None:
    pool = titan.connect_sync(nodes.line, data=nodes.user)
    numbers = pool.stream("desk", Count(10**9))
    assert next(numbers) == 0
    assert not pool.closed
    pool.close()
    pool.close()
    assert pool.closed
    with pytest.raises(RuntimeError, match="this pool is closed"):
        pool.send("desk", "hello")
    with pytest.raises(RuntimeError, match="this pool is closed"):
        next(numbers)


def test_closing_ends_the_calls_of_other_threads(nodes: Nodes, pool: titan.SyncPool, tmp_path: Path) -> None:
    closing = titan.connect_sync(nodes.line, data=nodes.user)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(closing.send, "desk", Hold(str(tmp_path / "never")), timeout=2 * SECONDS)
        until_at_work(pool)
        closing.close()
        with pytest.raises((RuntimeError, titan.Unavailable), match="clos"):
            waiting.result(SECONDS)


def test_a_callback_that_would_wait_for_itself_is_refused(pool: titan.SyncPool) -> None:
    refusals: list[str] = []

    def progress(done: int, total: int) -> None:
        try:
            pool.send("desk", "hello")
        except RuntimeError as why:
            refusals.append(str(why))

    pool.get(pool.put(b"some bytes"), progress=progress)
    assert refusals
    assert "would wait for itself" in refusals[0]


def test_a_pool_that_cannot_be_reached_leaves_no_thread_behind(tmp_path: Path) -> None:
    with pytest.raises(titan.Unavailable, match="no node answers"):
        titan.connect_sync("127.0.0.1:9", data=tmp_path, timeout=0.3)
    with pytest.raises(titan.ConfigError):
        titan.connect_sync("no:address", data=tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name == "titan"]


def test_a_program_without_files_left_is_told_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> asyncio.AbstractEventLoop:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)
    monkeypatch.setattr(asyncio.events, "new_event_loop", refuse)
    trouble: list[str] = []

    def program() -> None:
        try:
            titan.connect_sync("127.0.0.1:9", data=tmp_path, timeout=1)
        except OSError as why:
            trouble.append(str(why.strerror))

    running = threading.Thread(target=program, daemon=True)
    running.start()
    running.join(SECONDS)
    assert trouble == ["Too many open files"]


# ---- titan.send, titan.asend -----------------------------------------------------------------------------------


def test_send_goes_through_the_node_of_this_user_or_the_one_that_is_named(nodes: Nodes, tmp_path: Path) -> None:
    program = script(nodes, "print(titan.send('desk', 'hello'))\n")
    assert nodes.run(program) == "hello\n"
    elsewhere = {"TITAN_DATA": str(tmp_path / "nothing"), "TITAN_BOOTSTRAP": nodes.line_of(nodes.ids[1])}
    assert nodes.run(program, **elsewhere) == "hello\n"


def test_a_notebook_sends_and_awaits_in_its_running_loop(nodes: Nodes) -> None:
    program = script(
        nodes,
        """
        import asyncio

        async def cell():
            print(titan.send("desk", "blocking"))
            print(await titan.asend("desk", "awaited"))
            print(sorted(await asyncio.gather(*(titan.asend("desk", str(n)) for n in range(3)))))
            with titan.connect_sync() as pool:
                print(pool.send("desk", "own connection"))
            try:
                async with asyncio.timeout(0.2):
                    await titan.asend("desk", HOLD, timeout=50)
            except TimeoutError:
                print("given up")

        class Hold(titan.Message[str], namespace="net"):
            path: str
        HOLD = Hold("/nowhere/at/all")
        asyncio.run(cell())
        asyncio.run(cell())  # another loop, the same connection
        """,
    )
    once = "blocking\nawaited\n['0', '1', '2']\nown connection\ngiven up\n"
    assert nodes.run(program) == once + once


def test_threads_share_the_connection_of_the_process(nodes: Nodes) -> None:
    program = script(
        nodes,
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as threads:
            print(sum(map(len, threads.map(lambda n: titan.send("desk", "x" * n), range(50)))))
        print(sum(thread.name == "titan" for thread in threading.enumerate()))
        """,
    )
    assert nodes.run(program) == f"{sum(range(50))}\n1\n"


def test_a_forked_process_has_a_connection_of_its_own_and_both_end_cleanly(nodes: Nodes) -> None:
    program = script(
        nodes,
        """
        import os, sys, warnings
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # Python 3.12 and later, of any fork
        print(titan.send("desk", "before"), flush=True)
        pool = titan.connect_sync()
        child = os.fork()
        if child == 0:
            print(titan.send("desk", "child"), flush=True)
            try:
                pool.send("desk", "inherited")
            except RuntimeError as why:
                print(why, flush=True)
            pool.close()
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        print(titan.send("desk", "parent"), pool.send("desk", "too"))
        """,
    )
    assert nodes.run(program).splitlines() == [
        "before",
        "child",
        "this pool was opened before the process was forked; open one in each process",
        "7",
        "parent too",
    ]


def test_a_pool_of_worker_processes_sends(nodes: Nodes) -> None:
    program = script(
        nodes,
        """
        import multiprocessing, warnings
        warnings.filterwarnings("ignore", "This process .* is multi-threaded")

        def work(n):
            return titan.send("desk", str(n))

        if __name__ == "__main__":
            titan.send("desk", "the parent has a connection already")
            for method in "fork", "spawn":
                with multiprocessing.get_context(method).Pool(2) as workers:
                    print(workers.map(work, range(4)))
        """,
    )
    assert nodes.run(program) == "['0', '1', '2', '3']\n" * 2


def test_what_runs_last_at_exit_may_still_send(nodes: Nodes) -> None:
    # Registered before the connection is made, it runs after the connection was closed.
    program = script(
        nodes, "import atexit\natexit.register(lambda: print(titan.send('desk', 'bye')))\ntitan.send('desk', 'hello')\n"
    )
    assert nodes.run(program) == "bye\n"


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "raise SystemExit(0)",
        "import atexit; atexit.register(lambda: titan.send('desk', 'bye'))",
        "class Count(titan.Message[int], namespace='net'): up_to: int\n"
        "pool = titan.connect_sync(); numbers = pool.stream('desk', Count(10**9)); next(numbers)",
        "import threading; threading.Thread(target=lambda: titan.send('desk', 'from a thread at the end')).start()",
    ],
)
def test_a_program_ends_without_a_word(nodes: Nodes, ending: str) -> None:
    program = script(nodes, f"titan.send('desk', 'hello')\n{ending}\n")
    assert nodes.run(program) == ""


def test_ctrl_c_ends_a_call_and_the_pool_lives_on(nodes: Nodes, tmp_path: Path) -> None:
    program = script(
        nodes,
        """
        import sys

        class Hold(titan.Message[str], namespace="net"):
            path: str

        print(titan.send("desk", "ready"), flush=True)
        try:
            titan.send("desk", Hold(sys.argv[1]), timeout=1000)
        except KeyboardInterrupt:
            print("interrupted")
        print(titan.send("desk", "goes on"))
        """,
    )
    process = nodes.program(program, str(tmp_path / "never"))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with titan.connect_sync(nodes.line, data=nodes.user) as watcher:
            until_at_work(watcher)
            process.send_signal(signal.SIGINT)
            out, complaints = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out, complaints) == (0, "interrupted\ngoes on\n", "")


# ---- nodes that go ---------------------------------------------------------------------------------------------


def test_a_program_goes_on_when_the_node_it_came_through_dies(tmp_path: Path) -> None:
    with Nodes(tmp_path, 4, **QUICK) as nodes:
        program = script(
            nodes,
            """
            import asyncio, sys
            print(titan.send("desk", "ready"), flush=True)
            sys.stdin.readline()
            print(asyncio.run(titan.asend("desk", "awaited")), titan.send("desk", "sent"))
            """,
        )
        with titan.connect_sync(nodes.line, data=nodes.user) as pool:
            pool.publish(Desk, "desk", policy=titan.Policy(min_copies=3))
        process = nodes.program(program, TITAN_BOOTSTRAP=nodes.line_of(nodes.ids[0]))
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            nodes.kill(nodes.ids[0])
            out, complaints = process.communicate("now\n", timeout=SECONDS)
        finally:
            process.kill()
        assert (process.returncode, out, complaints) == (0, "awaited sent\n", "")


@pytest.mark.parametrize("address", ["the same", "another"])
def test_a_program_finds_its_only_node_again_after_a_restart(tmp_path: Path, address: str) -> None:
    with Nodes(tmp_path, 1) as nodes:
        (node,) = nodes.ids
        with titan.connect_sync(data=nodes.user) as pool:
            pool.publish(Desk, "desk")
            before = nodes.address(node)
            nodes.restart(node, listen=before if address == "the same" else "127.0.0.1:0")
            assert (nodes.address(node) == before) == (address == "the same")
            assert pool.send("desk", "hello") == "hello"
            nodes.kill(node)
            with pytest.raises(titan.Unavailable):
                pool.send("desk", "hello", timeout=5)
