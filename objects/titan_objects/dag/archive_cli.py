"""`titan dag archive ...`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import titan_overlay as titan

if TYPE_CHECKING:
    from titan_objects.dag.archive import Archive

Url = Annotated[
    str,
    typer.Option(
        "--archive",
        metavar="URL",
        envvar="TITAN_DAG_ARCHIVE",
        help="The database: a file, sqlite:///FILE or postgresql://... [dag-archive.db among your data]",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the run, as list shows it.")]
Names = Annotated[list[str] | None, typer.Argument(help="Runs; none: all of yours that have ended.")]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="That run again, with all behind them; none: those that failed.")
]
Queue = Annotated[str, typer.Option("--queue", help="The queue.")]


def register(dag: titan.Commands) -> None:
    """Adds them."""
    group = dag.group("archive", "Runs that have ended, in an SQL database.")
    for command in (add, list, show, logs, rerun):
        group.command(command)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator["Archive"]:
    import platformdirs

    try:
        from titan_objects.dag.archive import Archive
    except ModuleNotFoundError:
        raise titan.ConfigError("the archive needs SQLAlchemy: pip install 'titan-overlay[archive]'") from None
    archive = await asyncio.to_thread(Archive, url or f"sqlite:///{_default(platformdirs.user_data_path)}")
    try:
        yield archive
    finally:
        archive.close()


def _default(data: Any) -> Path:
    directory: Path = data("titan-overlay", appauthor=False)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory / "dag-archive.db"


async def add(
    face: titan.Face,
    name: Names = None,
    url: Url = "",
    queue: Queue = "dag",
    without_data: Annotated[bool, typer.Option("--without-data", help="Leave data in the pool.")] = False,
) -> None:
    """Keep runs that have ended. One that is there already is replaced."""
    from titan_objects.dag.queue import Runs, listed
    from titan_objects.dag.submitted import ENDED, SubmittedRun, is_below

    async with face.pool() as pool, _opened(url) as archive:
        from titan_objects.dag.archive import archived

        names = name or [
            each.name
            for each in await listed(pool, queue, Runs)
            if each.owner == pool.id and each.state in ENDED and not is_below(each.name)
        ]
        failed: dict[str, titan.TitanError] = {}
        for each in names:
            try:
                found = await archived(SubmittedRun(pool, each, queue), data=not without_data)
            except titan.TitanError as why:  # it keeps no other from being kept
                failed[each] = why
                if len(names) > 1:
                    face.note(f"{each} is not kept: {why}")
                continue
            await asyncio.to_thread(archive.keep, found)
            face.show(found.summary, lambda each=each: f"{each} is kept")  # type: ignore[misc]
    if failed:
        one, first = next(iter(failed.items()))
        if len(names) == 1:
            raise first
        verb = "is" if len(failed) == 1 else "are"
        raise type(first)(f"{len(failed)} of {len(names)} runs {verb} not kept, the first one {one}: {first}")


async def list(
    face: titan.Face,
    url: Url = "",
    count: Annotated[int, typer.Option("--count", min=1, help="As many, the newest first.")] = 100,
) -> None:
    """List the runs in the archive."""
    async with _opened(url) as archive:
        found = await asyncio.to_thread(archive.runs, count)
    lines = [f"{each.name}  {each.state:10} {each.ended - each.began:8.1f} s  {each.title}" for each in found]
    face.show(found, lambda: "\n".join(lines) or "the archive is empty")


async def show(face: titan.Face, name: Name, url: Url = "") -> None:
    """Show a run and its tasks."""
    async with _opened(url) as archive:
        run, tasks = await asyncio.to_thread(archive.show, name)
    lines = [f"{run.title}: {run.state}, {run.executions} executions, definition {run.revision[:16]}"]
    for each in tasks:
        took = f"{each.until - each.since:.1f} s" if each.until and each.since else ""
        lines.append(f"  {each.key:30} {each.state:10} {took:>9} {each.worker} {each.error}".rstrip())
    face.show({"run": run, "tasks": tasks}, lambda: "\n".join(lines))


async def logs(
    face: titan.Face,
    name: Name,
    task: Annotated[str, typer.Option("--task", help="Of this task alone.")] = "",
    url: Url = "",
) -> None:
    """Print what the tasks of a run have written."""
    async with _opened(url) as archive:
        await asyncio.to_thread(archive.show, name)  # a run that is not there says so
        found = await asyncio.to_thread(archive.lines, name, task)
    if not found:
        face.note(nothing_written(name, task))
    face.show(found, lambda: "\n".join(f"{each.key}: {each.text}" for each in found))


def nothing_written(name: str, task: str) -> str:
    """What is said in place of lines. Not that there is no such task: it may be one of a section, which was silent."""
    return f"nothing was written by {f'a task {task!r}' if task else 'the tasks'} of {name}"


async def rerun(
    face: titan.Face,
    name: Name,
    task: Tasks = None,
    all: Annotated[bool, typer.Option("--all", help="All of it runs again.")] = False,
    url: Url = "",
    queue: Queue = "dag",
) -> None:
    """Submit a run of the archive anew; results that it has are taken over."""
    from titan_objects.dag.client import resume
    from titan_objects.dag.rescue import again

    async with _opened(url) as archive:
        found = await asyncio.to_thread(archive.rescue, name)
    found = again(found, [each.id for each in found.definition.tasks] if all else task or [])
    async with face.pool() as pool:
        run = await resume(pool, found, queue=queue)
        face.show(run.name, lambda: run.name)
