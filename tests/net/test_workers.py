"""Services in a process of their own: the node stays responsive, whatever they do."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import DeadlineExceeded, NotFound, Overloaded, RemoteError, Unavailable
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Descriptor
from titan_overlay.pool.hosting import workers
from titan_overlay.pool.hosting.bundles import BundleLoader, Source, runner_of
from titan_overlay.pool.hosting.host import Host, Sender
from titan_overlay.pool.hosting.object import service
from titan_overlay.pool.hosting.workers import ProcessRunner
from titan_overlay.pool.message import encode_message
from titan_overlay.pool.questions import Ping, Stats
from titan_overlay.testing import run
from titan_overlay.wire import codec

KEY = SigningKey(bytes(32))
POOL = PoolId(KEY.public)
ME = Sender(KEY.id, KEY.public)

HEAVY = """
import asyncio, logging, os, subprocess, sys
from pathlib import Path
from typing import Any
from titan_overlay.errors import NotFound, RemoteError, error
from titan_overlay.pool.hosting.object import Context, service

@error("heavy.tired")
class Tired(RemoteError):
    pass

@service(isolation="process", mailbox=2)
class Heavy:
    def __init__(self) -> None:
        self.count = 0

    async def start(self, ctx: Context) -> None:
        self.started_as = ctx.name

    async def stop(self) -> None:
        if hasattr(self, "farewell"):
            Path(self.farewell).write_text("stopped")

    async def do(self, what: str, ctx: Context) -> Any:
        self.count += 1
        print("what a handler prints does not disturb the pipe")
        if what.startswith("log "):
            ctx.log.warning("got %s", what)
            ctx.log.debug("nobody wants to know")
            logging.getLogger("elsewhere").warning("seen")
            print("printed " + what, end="")
        if what == "leave":
            return subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL).pid
        if what == "count":
            return self.count
        if what == "name":
            return self.started_as
        if what == "pid":
            return os.getpid()
        if what == "spin":
            while True:
                pass
        if what == "sleep":
            await asyncio.sleep(3600)
        if what == "die":
            os._exit(7)
        if what == "exit":
            sys.exit(3)
        if what == "bug":
            raise ValueError("a bug")
        if what == "tired":
            raise Tired("later")
        if what == "memory":
            return len(bytearray(8 << 30))
        if what == "environment":
            return sorted(os.environ)
        return what

    async def spin_until(self, path: bytes) -> str:
        while not os.path.exists(path):
            pass
        return "seen"

    async def ask(self, words: list[str], ctx: Context) -> Any:
        return [ctx.chain == (b"before",), await ctx.send(words[0], words[1]), ctx.sender.public, ctx.remaining <= 10]

    async def say_farewell(self, how: dict[str, str]) -> None:
        self.farewell = how["path"]
"""


class Others:
    """Stands for the router."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        self.seen.append((name, type, codec.decode(body, Any), chain))
        if name == "nobody":
            raise NotFound("no such object", asked=5)
        return codec.encode("from afar")

    def stream(self, *_: Any) -> AsyncIterator[bytes]:
        raise NotImplementedError


class Bench:
    def __init__(self, tmp_path: Path, **options: Any) -> None:
        path = tmp_path / "heavy.py"
        path.write_text(HEAVY)
        source = Source.of(f"{path}:Heavy", KEY, POOL)
        runner = runner_of(*BundleLoader([KEY.public], POOL).code(source.bundle, "Heavy", KEY.public))
        assert isinstance(runner, ProcessRunner)
        self.runner = runner
        self.others = Others()
        self.host = Host(Ambient.system(), pool=POOL, outbound=self.others)
        self.object_id = names.object_id(POOL, "heavy")
        self.descriptor = records.sign(Descriptor("heavy", "service", "Heavy", 1, 0.0), KEY, POOL)

    async def __aenter__(self) -> "Bench":
        await self.host.open(self.descriptor, self.runner)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.host.close()

    async def ask(self, message: Any, timeout: float = 60.0, **options: Any) -> Any:
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        reply = await self.host.deliver(ME, self.object_id, type_name, body, deadline=deadline, **options)
        assert isinstance(reply, bytes)
        return codec.decode(reply, Any)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_the_node_answers_others_while_a_handler_computes(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        gate = tmp_path / "gate"
        # The handler ends only when this loop, which is free, has made the file.
        computing = asyncio.ensure_future(bench.ask(os.fsencode(gate)))
        await until(lambda: bench.host.get(bench.object_id).calls.mailbox.running == 1)  # type: ignore[union-attr]
        for _ in range(100):
            await bench.ask(Ping())
        assert not computing.done()
        gate.touch()
        assert await computing == "seen"


async def test_the_worker_is_warm_and_keeps_its_state(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        assert await bench.ask("name") == "heavy"
        pid = await bench.ask("pid")
        assert pid == bench.runner.pid != os.getpid()
        assert await bench.ask("count") == 3
    await until(lambda: not alive(pid))


async def test_a_handler_that_computes_past_its_deadline_is_killed_with_its_process(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        first = await bench.ask("pid")
        with pytest.raises(DeadlineExceeded):
            await bench.ask("spin", timeout=0.2)
        await until(lambda: not alive(first))
        assert await bench.ask("pid") != first
        assert await bench.ask("count") == 2


async def test_a_handler_that_waits_past_its_deadline_is_cancelled_and_its_process_lives(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        first = await bench.ask("pid")
        with pytest.raises(DeadlineExceeded):
            await bench.ask("sleep", timeout=0.2)
        assert await bench.ask("pid") == first


async def test_a_worker_that_dies_is_an_error_for_its_caller_and_the_next_message_starts_another(
    tmp_path: Path,
) -> None:
    async with Bench(tmp_path) as bench:
        with pytest.raises(Unavailable, match=r"worker process of 'heavy' has ended .exit status 7") as lost:
            await bench.ask("die")
        assert lost.value.maybe_executed
        assert await bench.ask("fine") == "fine"
        assert bench.runner.pid is not None
        os.kill(bench.runner.pid, signal.SIGKILL)
        await until(lambda: bench.runner._worker.over)  # type: ignore[union-attr]
        assert await bench.ask("fine again") == "fine again"


async def test_errors_of_handlers_cross_the_pipe(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        with pytest.raises(RemoteError, match="a bug") as bug:
            await bench.ask("bug")
        assert bug.value.type == "ValueError"
        assert bug.value.correlation
        assert bug.value.maybe_executed
        with pytest.raises(RemoteError, match="later") as tired:
            await bench.ask("tired")
        assert tired.value.code == "heavy.tired"
        with pytest.raises(RemoteError) as left:
            await bench.ask("exit")
        assert left.value.type == "SystemExit"
        assert await bench.ask("count") == 4


async def test_a_worker_has_only_so_much_memory(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        with pytest.raises(RemoteError) as full:
            await bench.ask("memory")
        assert full.value.type == "MemoryError"


async def test_a_worker_does_not_see_the_settings_of_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TITAN_SECRET", "x")
    async with Bench(tmp_path) as bench:
        assert "TITAN_SECRET" not in await bench.ask("environment")


async def test_a_handler_in_a_worker_reaches_other_objects_through_the_node(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        assert await bench.ask(["other", "hi"], chain=(b"before",), timeout=10) == [True, "from afar", KEY.public, True]
        assert bench.others.seen == [("other", "str", "hi", (b"before", bench.object_id))]
        with pytest.raises(NotFound, match="no such object") as missing:
            await bench.ask(["nobody", "hi"])
        assert missing.value.asked == 5


async def test_what_a_worker_logs_and_prints_is_logged_by_its_node_in_the_name_of_the_object(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    # Commands that other tests have run in this process leave a handler whose stream is closed.
    monkeypatch.setattr(logging.root, "handlers", [caplog.handler])
    said = "log \x1b[31m red\n2026-11-29 00:00:00 error forged line"
    async with Bench(tmp_path) as bench:
        await bench.ask(said)
        with pytest.raises(RemoteError) as bug:
            await bench.ask("bug")
    assert capfd.readouterr() == ("", "")
    heard = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert heard[:3] == [
        ("INFO", "heavy: what a handler prints does not disturb the pipe"),
        ("WARNING", f"heavy: got {said}"),
        ("WARNING", "heavy: elsewhere: seen"),
    ]
    assert ("INFO", "heavy: 2026-11-29 00:00:00 error forged line" + heard[0][1].removeprefix("heavy: ")) in heard
    assert "nobody wants to know" not in caplog.text
    failure = caplog.records[-1]
    assert failure.getMessage() == f"heavy: the handler of str raised (correlation {bug.value.correlation})"
    assert failure.exc_text is not None
    assert failure.exc_text.endswith("ValueError: a bug")
    assert {each.name for each in caplog.records} == {"titan_overlay.object"}


async def test_a_process_that_a_worker_leaves_behind_does_not_keep_its_end_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LAST_WORDS_SECONDS", 0.1)
    async with Bench(tmp_path) as bench:
        left = await bench.ask("leave")
        try:
            with pytest.raises(Unavailable):
                await bench.ask("die")
            assert await bench.ask("fine") == "fine"
            assert alive(left)
        finally:
            os.kill(left, signal.SIGKILL)


async def test_the_mailbox_before_a_worker_is_bounded(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        gate = tmp_path / "gate"
        busy = [asyncio.ensure_future(bench.ask(os.fsencode(gate))) for _ in range(3)]
        await until(lambda: bench.host.get(bench.object_id).calls.mailbox.waiting == 2)  # type: ignore[union-attr]
        with pytest.raises(Overloaded):
            await bench.ask("one too many")
        assert (await bench.ask(Stats()))["waiting"] == 2
        gate.touch()
        assert await asyncio.gather(*busy) == ["seen"] * 3


async def test_stop_runs_in_the_worker_before_it_ends(tmp_path: Path) -> None:
    farewell = tmp_path / "farewell"
    async with Bench(tmp_path) as bench:
        await bench.ask({"path": str(farewell)})
        pid = bench.runner.pid
    assert farewell.read_text() == "stopped"
    assert pid is not None
    assert not alive(pid)


async def test_a_worker_that_computes_does_not_outlive_its_node(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        pid = await bench.ask("pid")
        spinning = asyncio.ensure_future(bench.ask("spin"))
        await until(lambda: bench.host.get(bench.object_id).calls.mailbox.running == 1)  # type: ignore[union-attr]
        worker = bench.runner._worker
        assert worker is not None
        assert worker.process.stdin is not None
        worker.process.stdin.close()  # as the end of the node would
        with pytest.raises(Unavailable):
            await spinning
        assert not alive(pid)


async def test_a_class_that_cannot_start_in_its_worker_is_not_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(HEAVY.replace("self.started_as = ctx.name", "raise OSError('no licence server')"))
    source = Source.of(f"{path}:Heavy", KEY, POOL)
    runner = runner_of(*BundleLoader([KEY.public], POOL).code(source.bundle, "Heavy", KEY.public))
    host = Host(Ambient.system(), pool=POOL)
    with pytest.raises(RemoteError, match="no licence server"):
        await host.open(records.sign(Descriptor("heavy", "service", "Heavy", 1, 0.0), KEY, POOL), runner)
    assert host.ids() == ()


def test_a_service_with_streams_cannot_have_a_process() -> None:
    class Streams:
        async def count(self, up_to: int) -> AsyncIterator[int]:
            yield up_to

    with pytest.raises(TypeError, match="answers with a stream, which isolation='process' does not do"):
        service(isolation="process")(Streams)


def test_a_simulation_has_no_processes_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        with pytest.raises(Unavailable, match='isolation="process", and no process can be started here'):
            await bench.host.open(bench.descriptor, bench.runner)

    run(main, seed=1)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CANCEL_SECONDS", 0.3)
