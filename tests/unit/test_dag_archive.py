"""The archive of ended runs, in SQLite and on a real PostgreSQL server: what is kept is found again as it was."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from typer.testing import CliRunner

import titan_overlay as titan
from tests.store.postgres import postgresql
from tests.unit.dag_world import Desk, definition
from titan_objects.dag import archive_cli, cli
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Failure, Success
from titan_objects.dag.messages import Line
from titan_objects.dag.rescue import Left, again, rescue_of
from titan_objects.dag.steps import State
from titan_objects.dag.submitted import SubmittedRun
from titan_objects.dag.views import TaskView
from titan_overlay.cli.face import Face
from titan_overlay.cli.titan import complete

pytest.importorskip("sqlalchemy")

from titan_objects.dag.archive import Archive, Archived, Summary


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('archive') / 'runs.db'}"
    else:
        with postgresql() as server:
            yield server


@pytest.fixture
def archive(url: str) -> Iterator[Archive]:
    made = Archive(url)
    yield made
    made.close()


def ended() -> Desk:
    tasks: list[dict[str, Any]] = [
        {"id": "m", "map": {"over": [1, 2]}}, {"id": "bad", "needs": ["m"]}, {"id": "end", "needs": ["bad"]}
    ]  # fmt: skip
    desk = Desk(definition(*tasks))
    desk.run(lambda order: Failure("Bad", "luck") if order.key == "bad" else b"\0\xff")
    assert desk.engine.state is State.FAILED
    return desk


def kept(name: str, began: float = 1.5, lines: int = 3, **more: Any) -> Archived:
    found = msgspec.structs.replace(
        rescue_of(Left(name, Engine.replay(ended().engine.journal))), data={"sha256:1": b"\0x"}, code={"a.py": b""}
    )
    summary = Summary(name, "it", "~me", "FAILED", began, began + 60, 4, "r" * 64, "bad: Bad: luck")
    tasks = [
        TaskView("m[0]", "SUCCEEDED", "w", 0, 2.0, 3.25),
        TaskView("bad", "FAILED", "w", 1, 3.0, 4.0, "Bad: a\0b", 0.5),
    ]
    said = [Line(n, f"m[{n % 2}]" if n else "m_x", f"line {n} ä\0", 2.0 + n) for n in range(lines)]
    return Archived(msgspec.structs.replace(summary, **more), tasks, said, found)


def test_a_run_is_listed_shown_and_run_again_from_the_archive(archive: Archive) -> None:
    for number in (2, 3, 1):
        archive.keep(kept(f"~me/dag/{number}", began=number * 10.0))
    assert [each.name[-1] for each in archive.runs()] == ["3", "2", "1"]
    assert [each.name[-1] for each in archive.runs(2)] == ["3", "2"]
    run, tasks = archive.show("~me/dag/2")
    assert run == kept("~me/dag/2", began=20.0).summary
    assert tasks == [
        TaskView("m[0]", "SUCCEEDED", "w", 0, 2.0, 3.25), TaskView("bad", "FAILED", "w", 1, 3.0, 4.0, "Bad: a\ufffdb")
    ]  # fmt: skip
    found = archive.rescue("~me/dag/2")
    assert found == kept("~me/dag/2").rescue
    desk = Desk(found.definition)
    desk.step(found.found)
    assert desk.run() == ["bad", "end"] and desk.engine.steps["m"].result == [b"\0\xff"] * 2


def test_lines_are_found_by_the_task_that_wrote_them(archive: Archive) -> None:
    archive.keep(kept("~me/dag/lines", lines=2500))
    assert [each.number for each in archive.lines("~me/dag/lines")] == list(range(2500))
    assert [each.number for each in archive.lines("~me/dag/lines", "m")] == list(range(1, 2500)), "m_x is another"
    assert archive.lines("~me/dag/lines", "m[1]")[0] == Line(1, "m[1]", "line 1 ä\ufffd", 3.0)


def test_of_a_run_that_is_kept_again_the_last_time_counts(archive: Archive) -> None:
    archive.keep(kept("~me/dag/twice"))
    archive.keep(kept("~me/dag/twice", lines=1, state="SUCCEEDED"))
    assert archive.show("~me/dag/twice")[0].state == "SUCCEEDED"
    assert len(archive.lines("~me/dag/twice")) == 1


def test_what_cannot_be_kept_leaves_what_was_there(archive: Archive) -> None:
    archive.keep(kept("~me/dag/whole"))
    bad = kept("~me/dag/whole", lines=1)
    with pytest.raises(titan.StorageError, match="the archive"):
        archive.keep(msgspec.structs.replace(bad, lines=[*bad.lines, *bad.lines]))
    assert len(archive.lines("~me/dag/whole")) == 3
    for ask in (archive.show, archive.rescue):
        with pytest.raises(titan.NotFound, match="is not in the archive"):
            ask("~me/dag/none")


def test_an_archive_that_cannot_be_used_is_refused_without_showing_its_password(tmp_path: Path) -> None:
    for url in ("nonsense://x", "://"):
        with pytest.raises(titan.ConfigError, match="this archive cannot be used"):
            Archive(url)
    for url in ("sqlite://", "sqlite:///", ":memory:"):
        with pytest.raises(titan.ConfigError, match="names no file"):
            Archive(url)
    for url in (str(tmp_path / "none" / "runs.db"), "postgresql://me:secret@127.0.0.1:1/x"):
        with pytest.raises(titan.StorageError, match="the archive") as why:
            Archive(url).keep(kept("~me/dag/1"))
        assert "secret" not in str(why.value)


def test_who_asks_an_archive_that_is_not_there_makes_none(tmp_path: Path) -> None:
    mistyped, other, one = tmp_path / "rnus.db", tmp_path / "other.db", "~me/dag/1"
    with sqlite3.connect(other) as of_somebody:
        of_somebody.execute("CREATE TABLE songs (title)")
    before = other.read_bytes()
    for path in (mistyped, other):
        archive = Archive(str(path))
        asked: list[Callable[[], Any]] = [
            archive.runs, lambda: archive.show(one), lambda: archive.lines(one), lambda: archive.rescue(one)  # noqa: B023
        ]  # fmt: skip
        for ask in asked:
            with pytest.raises(titan.NotFound, match=f"there is no archive sqlite:///{path}"):
                ask()
        archive.close()
    assert not mistyped.exists() and other.read_bytes() == before


def test_the_archive_is_read_without_a_pool(tmp_path: Path) -> None:
    def said(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(complete(), ["dag", "archive", *words, "--archive", str(tmp_path / "runs.db")])
        assert done.exit_code == status, done.output
        return str(done.output)

    assert "there is no archive sqlite:///" in said("list", status=1)
    archive = Archive(str(tmp_path / "runs.db"))
    archive.keep(kept("~me/dag/1"))
    archive.close()
    assert said("list").split() == ["~me/dag/1", "FAILED", "60.0", "s", "it"]
    assert "it: FAILED, 4 executions" in said("show", "~me/dag/1") and "Bad: a" in said("show", "~me/dag/1")
    assert said("logs", "~me/dag/1", "--task", "m[1]") == "m[1]: line 1 ä\ufffd\n"
    assert said("logs", "~me/dag/1", "--task", "mm").startswith("nothing was written by a task 'mm' of ~me/dag/1")
    assert "is not in the archive" in said("show", "~me/dag/2", status=1)


@pytest.mark.parametrize("lines", [[], [Line(0, "m", "hello")]])
async def test_logs_of_nothing_say_so(
    lines: list[Line], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @asynccontextmanager
    async def no_pool(face: Face, target: str | None = None) -> AsyncIterator[None]:
        yield None

    async def written(run: SubmittedRun, key: str, *, follow: bool) -> AsyncIterator[Line]:
        for line in lines:
            yield line

    monkeypatch.setattr(Face, "pool", no_pool)
    monkeypatch.setattr(SubmittedRun, "logs", written)
    await cli.logs(Face(False, None, None, False), "~me/dag/1", "nosuch")
    told = capsys.readouterr()
    assert (told.out == "") is (not lines) and ("nothing was written by a task 'nosuch'" in told.err) is (not lines)


async def test_a_run_that_cannot_be_kept_keeps_no_other_from_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Screen:
        said: list[str] = []

        @asynccontextmanager
        async def pool(self) -> AsyncIterator[None]:
            yield None

        def note(self, text: str) -> None:
            self.said.append(text)

        def show(self, value: Any, render: Callable[[], str]) -> None:
            self.said.append(render())

    async def all_but_two(run: Any, *, data: bool) -> Archived:
        if run.name.endswith("2"):
            raise titan.NotFound("its data is gone")
        return kept(run.name)

    monkeypatch.setattr("titan_objects.dag.archive.archived", all_but_two)
    names = [f"~me/dag/{number}" for number in (1, 2, 3)]
    with pytest.raises(titan.NotFound, match="1 of 3 runs is not kept, the first one ~me/dag/2: its data is gone"):
        await archive_cli.add(cast(Any, Screen()), names, str(tmp_path / "runs.db"))
    assert Screen.said == ["~me/dag/1 is kept", "~me/dag/2 is not kept: its data is gone", "~me/dag/3 is kept"]


def test_chosen_tasks_run_again_with_all_behind_them() -> None:
    tasks = {"id": "a", "map": {"over": [1, 2]}}, {"id": "b", "needs": ["a"]}, {"id": "c"}
    desk = Desk(definition(*tasks))
    given = Success({"$data": f"sha256:{'0' * 64}"})
    desk.run(lambda order: given if order.key == "b" else order.key)
    found = msgspec.structs.replace(
        rescue_of(Left("it", Engine.replay(desk.engine.journal))), data={given.value["$data"]: b""}
    )
    for chosen, left, data in (
        (["a[1]"], ["a[1]", "b"], 0), (["b"], ["b"], 0), (["c"], ["c"], 1), ([], [], 1),
        (["a", "c"], ["a[0]", "a[1]", "c", "b"], 0),
    ):  # fmt: skip
        other = again(found, chosen)
        desk = Desk(other.definition)
        desk.step(other.found)
        assert sorted(desk.run()) == sorted(left) and len(other.data) == data
    with pytest.raises(titan.BadMessage, match="no task 'none'"):
        again(found, ["none"])
