"""Runs without a pool: real processes of this machine, and nothing else."""

import asyncio
import errno
import io
import socket
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import uvloop

import titan_overlay as titan
from tests.net import films
from tests.net.commands import titan as command
from tests.ports import free_port
from titan_objects.dag import Here, run_here
from titan_objects.dag import here as here_module
from titan_objects.dag.bundles import BUNDLES_MAX, Bundle, Bundles
from titan_objects.dag.journal import Begin, Cancel, Failure, Order, Renew, Success, Tick
from titan_objects.dag.processes import Failed
from titan_objects.dag.projects import PROJECT_BYTES_MAX, entries, unzip
from titan_objects.dag.reading import read_definition

CODE = Path(films.__file__)


def read(text: str) -> Any:
    return read_definition(f"name: it\ntasks:\n{text}", "it.yaml")


async def test_a_dag_of_functions_runs_as_in_a_pool() -> None:
    assert await films.film.run(n=5, slots=2) == {"frames": 5, "bytes": 50_000}


async def test_tasks_say_lines_fail_try_again_and_end_in_time() -> None:
    heard: list[tuple[str, str]] = []
    found = read(
        "  - {id: say, run: \"sh -c 'echo one; echo two >&2'\"}\n"
        '  - {id: bad, run: "false", needs: [say], on_failure: ignore, retry: {max_attempts: 2, initial: 0.05}}\n'
        '  - {id: late, run: "sleep 60", timeout: {run: 0.2}, on_failure: ignore}\n'
        '  - {id: end, run: [echo, "${item}"], needs: [bad, late], map: {over: [1, 2, 3]}}\n'
    )
    assert await run_here(found, slots=2, say=lambda key, line: heard.append((key, line))) == [0, 0, 0]
    assert sorted(heard) == [("end[0]", "1"), ("end[1]", "2"), ("end[2]", "3"), ("say", "one"), ("say", "two")]
    with pytest.raises(titan.RemoteError, match=r"the run has failed: .*bad.*status 1"):
        await run_here(read('  - {id: bad, run: "false"}\n'))


async def test_a_command_has_the_secrets_that_it_names_or_says_that_they_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[str] = []
    monkeypatch.setenv("TITAN_TEST_TOKEN", "hidden")
    task = "  - {id: a, run: \"sh -c 'echo $TITAN_TEST_TOKEN'\", secrets: [TITAN_TEST_TOKEN]}\n"
    await run_here(read(task), say=lambda key, line: heard.append(line))
    assert heard == ["hidden"]
    monkeypatch.delenv("TITAN_TEST_TOKEN")
    with pytest.raises(titan.RemoteError, match="has no TITAN_TEST_TOKEN, which the task names in secrets"):
        await run_here(read(task), say=lambda key, line: heard.append(line))
    assert heard == ["hidden"]


async def test_a_task_that_is_longer_than_its_heartbeat_runs_once() -> None:
    heard: list[str] = []
    found = read("  - {id: a, run: \"sh -c 'echo begun; sleep 1'\", timeout: {heartbeat: 100ms}}\n")
    await run_here(found, slots=2, say=lambda key, line: heard.append(line))
    assert heard == ["begun"]


async def test_a_task_that_is_cancelled_before_it_has_begun_gives_its_place_back() -> None:
    async with Here(slots=1) as here:
        run = here_module._Run(here, lambda key, line: None)
        run._step(Begin(read('  - {id: a, run: "true"}\n  - {id: b, run: "true"}\n'), name=here_module.HERE))
        ((epoch, (order, task)),) = run._begun.items()
        run._step(Cancel("me", (order.key,)))
        run._step(Renew(here_module.HERE, (epoch,)))  # so the run hears that nobody wants it
        await asyncio.wait([task])
        run._step(Tick())
        assert [each.key for each, _ in run._begun.values()] == ["b"]
        await run.close()


@pytest.mark.parametrize("requires", ["cores: 2", "memory: 60"])
async def test_no_more_runs_at_once_than_there_are_cores_and_memory_for(
    requires: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[str] = []
    together: list[list[str]] = []

    async def execute(order: Order, ear: object) -> Success:
        inside.append(order.key[0])
        together.append(sorted(inside))
        for _ in range(100 if order.key.startswith("a") else 1):  # so that b ends while a runs, and more is begun
            await asyncio.sleep(0)
        inside.remove(order.key[0])
        return Success(order.key)

    async with Here(slots=3) as here:
        monkeypatch.setattr(here.executor, "execute", execute)
        monkeypatch.setattr(here.executor, "memory", 100)
        found = read(f"  - {{id: a, run: x, requires: {{{requires}}}, map: {{over: [1, 2]}}}}\n  - {{id: b, run: x}}\n")
        await here.run(found)
    assert together.count(["a", "a"]) == 0
    assert len(together) == 3


async def test_nothing_is_left_of_a_directory_that_its_task_has_closed() -> None:
    """As caches of compilers are. Root sees no difference."""
    code = "mkdir -p a/b; touch a/b/c; ln -s /usr a/b/d; chmod 500 a/b; chmod 0 a"
    async with Here(slots=1) as here:
        await here.run(read(f'  - {{id: a, run: ["sh", "-c", "{code}"]}}\n'))
        assert [each.name for each in here.executor.directory.iterdir()] == [".in-use"]


async def test_a_command_may_end_by_a_signal_without_a_name() -> None:
    with pytest.raises(titan.RemoteError, match="sh ended with signal 40"):
        await run_here(read("  - {id: a, run: \"sh -c 'kill -40 $$'\"}\n"))


async def test_a_task_adds_tasks_keeps_data_and_has_no_pool() -> None:
    assert await run_here(read('  - {id: c, call: "films:crawl", args: [3]}\n'), code=CODE) == 3
    with pytest.raises(titan.RemoteError, match="has neither"):
        await run_here(read('  - {id: r, call: "films:relay", args: [bank, []]}\n'), code=CODE)
    with pytest.raises(titan.ConfigError, match=r"nothing\.py"):
        await run_here(read('  - {id: r, call: "nothing:x"}\n'), code=Path("nothing.py"))


async def test_results_that_are_too_many_to_travel_go_another_way() -> None:
    text = f'  - {{id: r, call: "films:render", map: {{over: {list(range(30))}}}}}\n'
    text += '  - {id: j, call: "films:join", args: ["${r}"], needs: [r]}\n'
    found = await run_here(read(text), code=CODE)
    assert found == {"frames": 30, "bytes": sum(len(b"%d," % n) for n in range(30)) * 5000}


async def test_a_service_serves_those_that_need_it_and_ends_with_the_run() -> None:
    port = free_port()
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    ask = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}')"
    await run_here(
        read(
            f'  - {{id: web, run: "{serve}", type: service, service: {{port: {port}}}}}\n'
            f'  - {{id: ask, run: ["{sys.executable}", "-c", "{ask}"], needs: [web]}}\n'
        ),
        slots=2,
    )
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ('run: "true", requires: {labels: {gpu: "1"}}', "--label gpu=1"),
        ('run: "true", requires: {cores: 3}', "--slots 3"),
        ('run: "true", requires: {memory: 1024G}', "this machine has"),
        ('type: approval, approval: {message: "may it?"}', "nobody can be asked"),
        ("uses: ./other.yaml", "another run"),
    ],
)
async def test_what_only_a_pool_has_is_said_before_anything_begins(task: str, text: str) -> None:
    with pytest.raises(titan.BadMessage, match=text):
        await run_here(read(f"  - {{id: a, {task.removeprefix('type: approval, ')}}}\n"), slots=2)


def test_the_command_shows_what_tasks_write_and_the_result(tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text('name = "it"\n[[tasks]]\nid = "say"\nrun = "echo hello"\n')
    done = command("dag", "run", "it.toml", home=tmp_path)
    assert done.stderr == b"say: hello\n" and b"it has succeeded: 0" in done.stdout
    refused = command("dag", "run", "it.toml", "--param", "n=1", home=tmp_path, status=1)
    assert b"n" in refused.stderr


# --- projects ---------------------------------------------------------------------------------------------------


def zipped(files: dict[str, bytes], mode: int = 0o100644) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return made.getvalue()


async def test_a_project_is_there_around_its_commands_and_functions(tmp_path: Path) -> None:
    script = b"#!/bin/sh\ncat data/greeting\n"
    (tmp_path / "p.zip").write_bytes(
        zipped(
            {"films.py": CODE.read_bytes(), "data/greeting": b"hi", "run.sh": script},
            0o100755,
        )
    )
    heard: list[str] = []
    text = '  - {id: say, run: "./run.sh"}\n  - {id: c, call: "films:crawl", args: [1], needs: [say]}\n'
    assert await run_here(read(text), code=tmp_path / "p.zip", say=lambda key, line: heard.append(line)) == 1
    assert heard == ["hi"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PK nothing", "no ZIP archive"),
        (zipped({"../out": b""}), "outside"),
        (zipped({"/etc/out": b""}), "outside"),
        (zipped({"a/../../out": b""}), "outside"),
        (zipped({"link": b"/etc"}, 0o120777), "is a link"),
        (zipped({"a": b"1", "a/b": b"2"}), "cannot be unpacked"),
    ],
)
def test_an_archive_stays_in_its_directory(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(Failed, match=why):
        unzip(data, tmp_path)


def test_an_archive_that_would_fill_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("titan_objects.dag.projects.PROJECT_BYTES_MAX", 1000)
    with pytest.raises(Failed, match="unpacked"):
        entries(zipped({"zeros": bytes(2000)}))
    lying = bytearray(zipped({"zeros": bytes(2000)}))
    at = lying.rindex(b"PK\x01\x02")
    lying[at + 24 : at + 28] = (10).to_bytes(4, "little")
    with pytest.raises(Failed):
        unzip(bytes(lying), tmp_path)
    assert PROJECT_BYTES_MAX > 1000


def test_a_machine_without_room_is_no_fault_of_the_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Failed) as fault:
        unzip(zipped({"a": b"1", "a/b": b"2"}), tmp_path)
    assert fault.value.failure == Failure("BadArchive", "'a/b' cannot be unpacked: File exists", False)

    def full(path: Path, mode: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(Failed) as fault:
        unzip(zipped({"a": b"1"}), tmp_path)
    assert fault.value.failure == Failure("CannotUnpack", "'a' cannot be unpacked: No space left on device", True)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
def test_an_archive_that_is_damaged_anywhere_says_so(method: int, tmp_path: Path) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr("a.py", " ".join(map(str, range(100))))
    for place in range(len(whole.getvalue())):
        damaged = bytearray(whole.getvalue())
        damaged[place] ^= 0xFF
        with suppress(Failed):  # what does not matter to anybody may be damaged
            unzip(bytes(damaged), tmp_path)


async def test_an_executor_says_what_is_wrong_with_an_archive(tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"no")
    bundles = Bundles(Nothing(), tmp_path)
    with pytest.raises(titan.ConfigError, match=r"p\.zip: it is no ZIP archive"):
        await bundles.bring(tmp_path / "p.zip")
    assert [each.name for each in tmp_path.iterdir()] == ["p.zip"]


# --- what stays, and for how long ---------------------------------------------------------------------------------

BAD = """
import os

def pid(n=0):
    return os.getpid()

def fail(n=0):
    raise ValueError(os.getpid())
"""


class Nothing:
    """A pool without data."""

    async def get(self, name: str, /) -> bytes:
        raise titan.NotFound(name)

    async def put(self, source: bytes | Path, /) -> str:
        raise titan.Unavailable("nothing is kept")

    async def read(self, name: str, message: Any, /) -> Any:
        raise titan.NotFound(name)

    async def unpack(self, bundle: bytes, /) -> dict[str, bytes]:
        raise titan.Forbidden("nobody is trusted")


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


async def test_processes_stay_for_the_next_run_until_the_code_is_another(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(BAD)
    definition = read('  - {id: p, call: "code:pid"}\n')
    async with Here(slots=1) as here:
        first = await here.run(definition, code=code)
        assert await here.run(definition, code=code) == first
        code.write_text(BAD + "# another\n")
        assert await here.run(definition, code=code) != first
        both = await asyncio.gather(*(here.run(definition, code=code) for _ in range(2)))
        assert both[0] == both[1], "one after the other"
        assert lives(first)
    assert not lives(first)


async def test_a_function_that_raises_leaves_its_process_to_the_next(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(BAD)
    text = '  - {id: f, call: "code:fail", map: {over: [1, 2, 3, 4, 5]}, on_failure: ignore}\n'
    text += '  - {id: p, call: "code:pid", needs: [f], trigger_rule: all_done}\n'
    async with Here(slots=1) as here:
        pid = await here.run(read(text), code=code)
        with pytest.raises(titan.RemoteError, match=f"ValueError: {pid}"):
            await here.run(read('  - {id: f, call: "code:fail"}\n'), code=code)


async def test_what_a_function_raises_is_in_its_log_from_the_function_on(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("""
class Mute(Exception):
    def __str__(self):
        raise ValueError

def inner(n):
    raise KeyError(n)

def outer(n):
    print("begun", end="")
    inner(n)

def mute():
    raise Mute
""")
    heard: list[str] = []
    async with Here(slots=1) as here:
        found = read('  - {id: f, call: "code:outer", args: [7]}\n')
        with pytest.raises(titan.RemoteError, match="f: KeyError: 7"):
            await here.run(found, code=code, say=lambda key, line: heard.append(line.strip()))
        with pytest.raises(titan.RemoteError, match=r"f: Mute: \(its text cannot be shown\)"):
            await here.run(read('  - {id: f, call: "code:mute"}\n'), code=code)
    places = [line.rpartition(", ")[2] for line in heard if line.startswith("File ")]
    assert heard[0].startswith("begun") and heard[-1] == "KeyError: 7"
    assert places == ["in outer", "in inner"]


async def test_a_function_may_be_a_coroutine_function(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("import asyncio\nasync def f(n):\n    await asyncio.sleep(0)\n    return n + 1\n")
    assert await run_here(read('  - {id: f, call: "code:f", args: [7]}\n'), code=code) == 8


async def test_a_dag_in_a_package_runs_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packed_reel"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tools.py").write_text("def double(n): return 2 * n\n")
    (package / "film.py").write_text(
        "from titan_objects.dag import dag, task\nfrom .tools import double\n"
        "@task\ndef twice(n): return double(n)\n@dag\ndef reel(n): return twice(n)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert await import_module("packed_reel.film").reel.run(n=4, slots=1) == 8


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_what_a_call_writes_is_said_of_it_and_of_no_other(tmp_path: Path, run: Callable[[Any], None]) -> None:
    """Under any event loop: the answer comes another way than what is written, and must not be heard before it."""
    code = tmp_path / "code.py"
    code.write_text("""
import os, sys

def write(n):
    os.write(2, b"%d\\n" % n * (n % 3))
    sys.stdout.write(str(n) * (n % 5))
    print("\\n" * (n % 2), end="")
    return n
""")
    heard: dict[str, list[str]] = {}
    text = f'  - {{id: w, call: "code:write", map: {{over: {list(range(200))}}}}}\n'

    async def main() -> None:
        async with Here(slots=2) as here:
            await here.run(read(text), code=code, say=lambda key, line: heard.setdefault(key, []).append(line))

    run(main())
    for n in range(200):
        lines = [str(n)] * (n % 3) + ([str(n) * (n % 5)] if n % 5 else [""] if n % 2 else [])
        assert heard.get(f"w[{n}]", []) == lines


async def test_a_process_that_nobody_needs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("titan_objects.dag.bundles.IDLE_SECONDS", 0.02)
    code = tmp_path / "code.py"
    code.write_text(BAD)
    async with Here(slots=1) as here:
        pid = await here.run(read('  - {id: p, call: "code:pid"}\n'), code=code)
        async with asyncio.timeout(60):
            while lives(pid):
                await asyncio.sleep(0.01)
        assert await here.run(read('  - {id: p, call: "code:pid"}\n'), code=code) != pid


async def brought(bundles: Bundles, tmp_path: Path, count: int) -> list[str]:
    """Names of so many bundles."""
    names = []
    for number in range(count):
        (tmp_path / "code.py").write_text(f"number = {number}\n")
        names.append(await bundles.bring(tmp_path / "code.py"))
    return names


async def test_of_bundles_that_no_task_uses_some_are_kept(tmp_path: Path) -> None:
    bundles = Bundles(Nothing(), tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    names = await brought(bundles, tmp_path, BUNDLES_MAX + 3)
    async with bundles.using(names[0]), bundles.using(names[1]):
        async with bundles.using(names[-1]):
            pass
        assert len(list((tmp_path / "kept").iterdir())) == BUNDLES_MAX
    for name in (names[0], names[1], names[-1]):
        async with bundles.using(name) as bundle:
            assert bundle.place is not None and bundle.place.is_dir()
    with pytest.raises(titan.NotFound):
        async with bundles.using(names[2]):
            pass
    assert len(list((tmp_path / "kept").iterdir())) == BUNDLES_MAX


async def test_no_bundle_is_removed_twice_or_while_a_task_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks make room at once, and meanwhile another one begins with what would have gone next."""
    gate, ends = asyncio.Event(), 0

    async def end(bundle: Bundle, since: float) -> None:
        nonlocal ends
        ends += 1
        await gate.wait()

    monkeypatch.setattr(Bundle, "end", end)
    monkeypatch.setattr("titan_objects.dag.bundles.BUNDLES_MAX", 2)
    bundles = Bundles(Nothing(), tmp_path)
    names = await brought(bundles, tmp_path, 6)

    async def use() -> None:
        async with bundles.using(names[5]):
            pass

    making = [asyncio.create_task(use()) for _ in range(2)]
    while ends < 2:
        await asyncio.sleep(0)
    async with bundles.using(names[2]) as bundle:
        gate.set()
        await asyncio.gather(*making)
        assert bundle.place is not None and bundle.place.is_dir()


async def test_a_bundle_goes_although_the_task_is_cancelled_that_made_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, gate = asyncio.Event(), asyncio.Event()

    async def end(bundle: Bundle, since: float) -> None:
        going.set()
        await gate.wait()

    monkeypatch.setattr(Bundle, "end", end)
    monkeypatch.setattr("titan_objects.dag.bundles.BUNDLES_MAX", 1)
    kept = tmp_path / "kept"
    kept.mkdir()
    bundles = Bundles(Nothing(), kept)
    names = await brought(bundles, tmp_path, 2)

    async def use() -> None:
        async with bundles.using(names[1]):
            pass

    using = asyncio.create_task(use())
    await going.wait()
    using.cancel()
    await asyncio.gather(using, return_exceptions=True)
    gate.set()
    await bundles.close()
    assert len(list(kept.iterdir())) == 1
