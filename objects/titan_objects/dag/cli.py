"""`titan dag ...`, and `titan-node --workers`."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import titan_overlay as titan
from titan_objects.dag import archive_cli, node_cli

if TYPE_CHECKING:
    from titan_objects.dag.definition import Definition
    from titan_objects.dag.rescue import Rescue
    from titan_objects.dag.views import RunView

Code = Annotated[
    Path | None, typer.Option("--code", help="What is called: a Python file, a package, or a project (.zip).")
]
Params = Annotated[list[str] | None, typer.Option("--param", metavar="NAME=JSON", help="A parameter.")]
Name = Annotated[str, typer.Argument(help="Name of the run, as submit and runs show it.")]
Queue = Annotated[str, typer.Option("--queue", help="The queue.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="A task, such as render or render[3]; all: none.")]
Decided = Annotated[list[str] | None, typer.Option("--task", help="A task that waits; may be repeated.")]
Note = Annotated[str, typer.Option("--note", help="Why.")]


def register(commands: titan.Commands) -> None:
    """Adds `titan dag ...` and `titan-node --workers`."""
    dag = commands.group("dag", "Workflows: tasks that need one another, run by whatever nodes offer workers.")
    for command in (
        submit, run, runs, show, logs, cancel, suspend, resume, rerun, approve, reject, graph, export, save, history,
        forget, schema,
    ):  # fmt: skip
        dag.command(command)
    archive_cli.register(dag)
    node_cli.register(commands, dag)


async def submit(
    face: titan.Face,
    file: Annotated[
        Path,
        typer.Argument(help="The definition (.yaml, .toml, .json), the name of one in the pool, or a rescue."),
    ],
    queue: Queue = "dag",
    code: Code = None,
    param: Params = None,
    store: Annotated[str, typer.Option("--store", metavar="NAME", help="A store of the pool that the run uses.")] = "",
    faults: Annotated[
        int | None, typer.Option("--faults", min=0, help="Crashes that the run survives. [1, on three nodes or more]")
    ] = None,
    worker_key: Annotated[
        list[str] | None,
        typer.Option(
            "--worker-key", metavar="KEY", help="Whose workers may take its tasks; may be repeated. [anybody's]"
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended, showing how it goes.")] = False,
) -> None:
    """Submit a run, or go on with one that was rescued (`titan dag export`)."""
    from titan_objects.dag.client import resume as go_on
    from titan_objects.dag.client import submit as send
    from titan_objects.dag.definition import Definition
    from titan_objects.dag.definitions import NAMED, load
    from titan_objects.dag.watching import watch

    found = None if NAMED.fullmatch(str(file)) and not file.exists() else _read(file)
    given = _params(param or [])
    how: dict[str, Any] = {
        "queue": queue, "code": code, "faults": faults, "workers": worker_key or [], "store": store
    }  # fmt: skip
    if given and not (found is None or isinstance(found, Definition)):
        raise titan.ConfigError(f"{file}: a rescued run goes on with the parameters that it had; leave out --param")
    async with face.pool() as pool:
        if found is None:
            found = await load(pool, str(file))
        if isinstance(found, Definition):
            run = await send(pool, found, params=given, base=file.parent, **how)
        else:
            run = await go_on(pool, found, **how)
        if not wait:
            face.show(run.name, lambda: run.name)
            return
        face.note(f"{run.name} runs")
        await watch(face, run)
        result = await run.result()
        face.show({"run": run.name, "result": result}, lambda: f"{run.name} has succeeded: {result!r}")


async def run(
    face: titan.Face,
    file: Annotated[Path, typer.Argument(help="The definition (.yaml, .toml, .json).")],
    code: Code = None,
    param: Params = None,
    slots: Annotated[int, typer.Option("--slots", min=0, help="Tasks at once; 0: as many as processors.")] = 0,
    label: Annotated[str, typer.Option("--label", metavar="KEY=VALUE,...", help="Labels of this machine.")] = "",
) -> None:
    """Run a definition here, without a pool: to try it, or because it needs no more. Nothing of it is kept."""
    from titan_objects.dag.definition import Definition
    from titan_objects.dag.here import run_here

    found = _read(file)
    if not isinstance(found, Definition):
        raise titan.ConfigError(f"{file}: a run that was rescued goes on in a pool: titan dag submit")
    result = await run_here(
        found,
        params=_params(param or []),
        code=code,
        slots=slots,
        labels=node_cli.labels_of(label),
        say=lambda key, line: face.note(f"{key}: {line}"),
    )
    face.show({"result": result}, lambda: f"{found.name} has succeeded: {result!r}")


def _read(file: Path) -> "Definition | Rescue":
    from titan_objects.dag.reading import read_definition
    from titan_objects.dag.rescue import is_rescue, read_rescue

    try:
        data = file.read_bytes()
        return read_rescue(data, file.name) if is_rescue(data) else read_definition(data.decode(), file.name)
    except (OSError, UnicodeDecodeError) as why:
        raise titan.ConfigError(f"{file}: {getattr(why, 'strerror', None) or 'is no text'}") from None


def _read_definition(file: Path) -> "Definition":
    from titan_objects.dag.definition import Definition

    found = _read(file)
    return found if isinstance(found, Definition) else found.definition


def _params(given: list[str]) -> dict[str, Any]:
    found = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals:
            raise titan.ConfigError(f"--param takes NAME=VALUE, not {each!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


async def runs(face: titan.Face, queue: Queue = "dag") -> None:
    """List the runs of a queue."""
    from titan_objects.dag.queue import Runs, listed

    async with face.pool() as pool:
        found = await listed(pool, queue, Runs)
        lines = [f"{each.name}  {each.state:10} {each.title}" for each in found]
        face.show(found, lambda: "\n".join(lines) or "no runs")


async def show(face: titan.Face, name: Name) -> None:
    """Show a run and its tasks."""
    from titan_objects.dag.submitted import SubmittedRun

    async with face.pool() as pool:
        run = SubmittedRun(pool, name)
        view = await run.look(tasks=True)
        counts = await run.counts()
        face.show(view, lambda: _shown(view, counts))


def _shown(view: "RunView", counts: dict[str, int]) -> str:
    shown = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    lines = [f"{view.name}: {view.state} ({shown}), {view.executions} executions"]
    for each in view.tasks:
        took = f"{each.until - each.since:.1f} s" if each.until and each.since else ""
        if each.recalled:
            took = "known"
        elif each.state == "RUNNING" and each.progress:
            took = f"{each.progress:.0%}"
        lines.append(f"  {each.key:30} {each.state:18} {took:>9} {f'{each.child} {each.error}'.strip()}".rstrip())
        if each.decided:
            lines.append(f"    {_at(each.decided_at)} {each.decided}")
    return "\n".join(lines)


def _at(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def logs(
    face: titan.Face,
    name: Name,
    task: Annotated[str, typer.Option("--task", help="Of this task alone.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
) -> None:
    """Print what the tasks of a run have written."""
    from titan_objects.dag.submitted import SubmittedRun

    said = False
    async with face.pool() as pool:
        async for line in SubmittedRun(pool, name).logs(task, follow=follow):
            said, shown = True, f"{line.key}: {line.text}"
            face.show(line, lambda shown=shown: shown)  # type: ignore[misc]
    if not said:
        face.note(archive_cli.nothing_written(name, task))


async def _act(face: titan.Face, name: str, queue: str, what: str, tasks: list[str] | None, note: str = "") -> None:
    from titan_objects.dag.submitted import SubmittedRun

    async with face.pool() as pool:
        state = await SubmittedRun(pool, name, queue).act(what, *(tasks or []), note=note)
        face.show(state, lambda: f"{name} is {state}")


async def cancel(face: titan.Face, name: Name, task: Tasks = None, queue: Queue = "dag") -> None:
    """End a run, or a task and all that hangs on it."""
    await _act(face, name, queue, "cancel", task)


async def suspend(face: titan.Face, name: Name, queue: Queue = "dag") -> None:
    """Let a run begin nothing new."""
    await _act(face, name, queue, "suspend", None)


async def resume(face: titan.Face, name: Name, queue: Queue = "dag") -> None:
    """Let a run go on."""
    await _act(face, name, queue, "resume", None)


async def rerun(
    face: titan.Face,
    name: Name,
    task: Tasks = None,
    failed: Annotated[bool, typer.Option("--failed", help="Those that failed; so it is without --task.")] = False,
    queue: Queue = "dag",
) -> None:
    """Run tasks again, with all behind them; without --task, those that failed."""
    if failed and task:
        raise titan.ConfigError("--failed and --task are two choices; take one")
    await _act(face, name, queue, "rerun", task)


async def approve(face: titan.Face, name: Name, task: Decided = None, note: Note = "", queue: Queue = "dag") -> None:
    """Let tasks go on that wait for approval."""
    await _act(face, name, queue, "approve", task, note)


async def reject(face: titan.Face, name: Name, task: Decided = None, note: Note = "", queue: Queue = "dag") -> None:
    """Let tasks fail that wait for approval."""
    await _act(face, name, queue, "reject", task, note)


async def save(
    face: titan.Face,
    file: Annotated[Path, typer.Argument(help="The definition.")],
    name: Annotated[str, typer.Option("--name", help="Under which it is kept.")],
    note: Note = "",
    code: Code = None,
) -> None:
    """Keep a definition in the pool, and make this revision the head; `titan dag submit NAME` runs it."""
    import msgspec

    from titan_objects.dag.definitions import save as keep
    from titan_objects.dag.projects import packed

    definition = _read_definition(file)
    async with face.pool() as pool:
        if code is not None:
            definition = msgspec.structs.replace(definition, code=await packed(pool, code))
        revision = await keep(pool, name, definition, note)
        face.show(revision, lambda: revision)


async def history(
    face: titan.Face, name: Annotated[str, typer.Argument(help="NAME, or ~KEY/NAME of another.")]
) -> None:
    """List the revisions of a definition: which was the head when, who made it that, and why. The last one is."""
    from titan_objects.dag.definitions import history as ask

    async with face.pool() as pool:
        found = await ask(pool, name)
        lines = [f"{each.data}  {_at(each.when)}  {each.who}  {each.why}".rstrip() for each in found]
        face.show(found, lambda: "\n".join(lines))


async def forget(
    face: titan.Face,
    results: Annotated[bool, typer.Option("--results", help="Results under cache keys.")] = False,
    records: Annotated[bool, typer.Option("--records", help="Whose workers were right.")] = False,
) -> None:
    """Forget what your runs have learned."""
    from titan_objects.dag.memory import Forget

    if not (results or records):
        raise titan.ConfigError("say what to forget: --results, --records, or both")
    async with face.pool() as pool:
        await pool.send(f"~{pool.id}/dag/memory", Forget(results, records))
        face.show(None, lambda: "forgotten")


async def graph(face: titan.Face, file: Annotated[Path, typer.Argument(help="The definition.")]) -> None:
    """Print a definition as a graph in the DOT language."""
    from titan_objects.dag.checking import waits

    edges = waits(_read_definition(file).tasks)
    lines = [f'  "{need}" -> "{name}"' for name, each in edges.items() for need in each.ids]
    text = "\n".join(["digraph {", *(f'  "{name}"' for name in edges), *lines, "}"])
    face.show({name: each.ids for name, each in edges.items()}, lambda: text)


async def export(
    face: titan.Face,
    name: Name,
    file: Annotated[
        Path | None, typer.Argument(help="The rescue file to write. [the run's last name, .rescue]")
    ] = None,
    without_data: Annotated[
        bool, typer.Option("--without-data", help="Leave data in the pool; only there can it be gone on with.")
    ] = False,
    journal: Annotated[bool, typer.Option("--journal", help="Print all that has happened, as JSON.")] = False,
) -> None:
    """Write how far a run is, to go on from it elsewhere (`titan dag submit FILE`)."""
    import msgspec

    from titan_objects.dag.rescue import written
    from titan_objects.dag.submitted import SubmittedRun

    async with face.pool() as pool:
        run = SubmittedRun(pool, name)
        if journal:
            plain = msgspec.to_builtins(await run.journal())
            face.show(plain, lambda: json.dumps(plain))
            return
        found = await run.rescue(data=not without_data)
    path = file or Path(f"{name.rpartition('/')[2]}.rescue")
    try:
        path.write_bytes(written(found))
    except OSError as why:
        raise titan.ConfigError(f"{path}: {why.strerror}") from None
    there = len(found.found.results)
    face.show(
        {"file": str(path), "results": there, "data": len(found.data)},
        lambda: f"{path}: {there} results of {found.definition.name}; go on with: titan dag submit {path}",
    )


async def schema(face: titan.Face) -> None:
    """Print the JSON schema of definition files."""
    from titan_objects.dag.definition import schema as made

    face.show(made(), lambda: json.dumps(made(), indent=2))
