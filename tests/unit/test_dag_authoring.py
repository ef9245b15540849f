"""DAGs that are written as Python, and what they hand on."""

from importlib import import_module
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

import titan_overlay as titan
from tests.net.films import film, render
from titan_objects.dag import client, dag, inside, task
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.views import TaskView
from titan_objects.dag.watching import picture


async def test_what_submit_takes_and_parameters_go_their_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: dict[str, Any] = {}

    async def submit(pool: titan.Pool, definition: Definition, **options: Any) -> None:
        submitted.update(options, definition=definition)

    monkeypatch.setattr(client, "submit", submit)
    await film.submit(cast(titan.Pool, None), n=2, once="tonight", workers=["key"])
    assert (submitted["once"], submitted["workers"], submitted["code"]) == ("tonight", ["key"], film.source)
    assert submitted["definition"] == film.definition(n=2)


def test_a_parameter_of_a_dag_that_submit_would_take_is_refused() -> None:
    with pytest.raises(titan.ConfigError, match="'once' is an argument of submit"):
        dag(lambda once: None)


def imported(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module in a file, or in a package beside others."""
    root = path.parent.parent if (path.parent / "__init__.py").exists() else path.parent
    monkeypatch.syspath_prepend(root)
    return import_module(".".join(path.relative_to(root).with_suffix("").parts))


def test_a_dag_in_a_package_travels_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packed_films"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tools.py").write_text("from titan_objects.dag import task\n@task\ndef one(n): return n\n")
    (package / "film.py").write_text(
        "from titan_objects.dag import dag, task\nfrom .tools import one\n"
        "@task\ndef two(n): return n\n@dag\ndef both(n): return two(one(n))\n"
    )
    both = imported(package / "film.py", monkeypatch).both
    assert both.source == package
    assert [each.call for each in both.definition(n=1).tasks] == ["packed_films.tools:one", "packed_films.film:two"]


def test_a_task_whose_file_would_not_travel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "alone.py"
    alone.write_text(
        "from titan_objects.dag import dag\nfrom tests.net.films import render\n@dag\ndef it(n): return render(n)\n"
    )
    with pytest.raises(titan.ConfigError, match=r"render is in .*films\.py, and .*alone\.py alone travels"):
        imported(alone, monkeypatch).it.definition(n=1)


def test_a_task_that_workers_would_not_find_is_refused() -> None:
    @task
    def inner(n: int) -> int:
        return n

    unnamed = task(lambda n: n)
    written: dict[str, Any] = {}
    exec("from titan_objects.dag import dag, task\n@task\ndef t(n): ...\n@dag\ndef d(n): t(n)\n", written)  # noqa: S102
    with pytest.raises(titan.ConfigError, match="inner: workers find functions by their names at the top of a file"):
        dag(lambda n: inner(n)).definition(n=1)
    with pytest.raises(titan.ConfigError, match="<lambda>: workers find functions"):
        dag(lambda n: unnamed(n)).definition(n=1)
    with pytest.raises(titan.ConfigError, match="t is in no file"):
        written["d"].definition(n=1)


def test_a_dag_that_returns_something_else_than_what_a_task_gives_is_refused() -> None:
    """The result was that of the last task, whatever stood there."""
    with pytest.raises(titan.ConfigError, match="returns a list: return what one task gives"):
        dag(lambda: [render(1), render(2)]).definition()


def test_outside_of_a_run_progress_goes_nowhere_and_nothing_can_be_spawned() -> None:
    task.progress(0.5)
    with pytest.raises(RuntimeError, match="inside a task that runs"):
        task.spawn(render, 1)


def test_a_task_spawns_others_that_may_need_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = BytesIO()
    told = [inside.Told(1), inside.Told(2), inside.Told(3, None, "BadMessage", "there are too many")]
    frames = [msgspec.msgpack.encode(each) for each in told]
    requests = BytesIO(b"".join(len(each).to_bytes(4, "big") + each for each in frames))
    monkeypatch.setattr(inside, "here", inside.Running(7, requests, answers))
    first = task.spawn(render, 1)
    second = task.spawn(render, first)
    with pytest.raises(RuntimeError, match="too many"):
        task.spawn(render, 2)
    assert (first.id, second.id) == ("render-in-7", "render-in-7-2")
    answers.seek(0)
    said = [msgspec.msgpack.decode(cast(bytes, inside.read_frame(answers)), type=inside.Said) for _ in range(3)]
    spawned = [each.what for each in said if isinstance(each, inside.Asked)]
    tasks = [msgspec.convert(each, Task) for spawn in spawned for each in cast(inside.Spawn, spawn).tasks]
    assert [each.needs for each in tasks] == [[], ["render-in-7"], []]


def test_of_many_small_steps_whole_percents_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = BytesIO()
    running = inside.Running(7, BytesIO(), answers)
    monkeypatch.setattr(inside, "here", running)
    for step in range(100_000):
        task.progress(step / 100_000)
    running.end(inside.Answer())
    running.progress(1.0)
    answers.seek(0)
    said = 0
    while inside.read_frame(answers) is not None:
        said += 1
    assert 50 < said <= 101


def test_who_waits_sees_how_far_a_run_is_and_nothing_steers_the_terminal() -> None:
    tasks = [TaskView(f"m[{n}]", "RUNNING", "w\x1b[2J", progress=0.5) for n in range(20)]
    console = Console(width=80, record=True, file=StringIO())
    console.print(picture({"RUNNING": 20, "SUCCEEDED": 3, "SKIPPED": 1}, [*tasks, TaskView("z", "SUCCEEDED")]))
    text = console.export_text()
    assert "4 of 24 tasks: 20 RUNNING, 1 SKIPPED, 3 SUCCEEDED, and 8 more run" in " ".join(text.split())
    assert "m[11] RUNNING 50%" in " ".join(text.split())
    assert "z" not in text and "m[12]" not in text and "\x1b[2J" not in text
