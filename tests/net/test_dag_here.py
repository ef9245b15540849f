"""Runs without a pool: real processes of this machine, and nothing else."""

import io
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import titan_overlay as titan
from tests.net import films
from tests.net.commands import titan as command
from titan_objects.dag import run_here
from titan_objects.dag.executor import Executor
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
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
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


async def test_an_executor_says_what_is_wrong_with_an_archive(tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"no")
    executor = Executor(None, "e", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(titan.ConfigError, match=r"p\.zip: it is no ZIP archive"):
        executor.bring("p", tmp_path / "p.zip")
