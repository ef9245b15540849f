"""Workers and gateways: `titan dag work`, `scale` and `gateway`, and the flags of `titan-node` for the same."""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import titan_overlay as titan
from titan_objects.doors import address, written

if TYPE_CHECKING:
    from titan_objects.dag.limits import Limits

BUSY_SECONDS = 0.2
"""Between two looks at how many tasks run."""

Queue = Annotated[str, typer.Option("--queue", help="The queue.")]
Slots = Annotated[int, typer.Option("--slots", min=1, max=1024, help="Tasks that a worker runs at once.")]
Labels = Annotated[str, typer.Option("--label", metavar="KEY=VALUE,...", help="Labels that tasks may require.")]
Commands = Annotated[bool, typer.Option("--commands", help="Run commands as well, on the word of the runs' hosts.")]
TaskLimits = Annotated[str, typer.Option("--limits", metavar="processes=N,disk=SIZE", help="Of each task.")]


def register(commands: titan.Commands, dag: titan.Commands) -> None:
    """Adds the sub-commands to `titan dag`, and `titan-node --workers` and `--classic`."""
    for command in (work, scale, gateway):
        dag.command(command)
    commands.node_flags(
        {
            "--workers": ("N", "run up to N tasks of DAGs at once"),
            "--queue": ("NAME", "the queue whose runs they take [dag]"),
            "--worker-label": ("KEY=VALUE,...", "labels that tasks may require of these workers"),
            "--worker-commands": ("trusted", "run commands as well, of those whose code may run here (--trust)"),
            "--worker-limits": ("processes=N,disk=SIZE", "of each of their tasks [processes=512,disk=8G]"),
        },
        _workers,
    )
    commands.node_flags(
        {
            "--classic": ("HOST:PORT", "serve programs of the Titan orchestrator"),
            "--classic-queue": ("NAME", "the queue that they submit to [dag]"),
            "--classic-store": ("NAME", "the store of their keys and assets"),
            "--classic-token": ("FILE", "the token that they must show; beyond loopback there must be one"),
        },
        _classic,
    )


async def work(
    face: titan.Face,
    queue: Queue = "dag",
    slots: Slots = 4,
    label: Labels = "",
    commands: Commands = False,
    limits: TaskLimits = "",
) -> None:
    """Run tasks of your own runs on this machine, without a node, until interrupted."""
    from titan_objects.dag.scaler import Busy, is_left_alone
    from titan_objects.dag.worker import working

    async with (
        face.pool() as pool,
        working(pool, queue, slots, labels_of(label), commands=commands, limits=limits_of(limits)) as workers,
    ):
        told: Busy | None = None
        stop = _stopped()
        while not stop.is_set() and not is_left_alone():
            if told != (busy := Busy(workers.busy)):
                told = busy
                face.show(busy, lambda busy=busy: f"{busy.busy} of {slots} tasks run")  # type: ignore[misc]
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BUSY_SECONDS)


async def scale(
    face: titan.Face,
    queue: Queue = "dag",
    least: Annotated[int, typer.Option("--least", min=0, help="Workers that are always there.")] = 0,
    most: Annotated[int, typer.Option("--most", min=1, max=256, help="Workers at once.")] = 4,
    cool_down: Annotated[float, typer.Option("--cool-down", min=1, help="Seconds idle until one is ended.")] = 45.0,
    slots: Slots = 4,
    label: Labels = "",
    commands: Commands = False,
    limits: TaskLimits = "",
) -> None:
    """Start workers on this machine while tasks of your own wait, and end idle ones, until interrupted."""
    from titan_objects.dag.scaler import Scaler
    from titan_objects.dag.scaling import Bounds

    if least > most:
        raise titan.ConfigError(f"--least {least} is more than --most {most}")
    labels_of(label), limits_of(limits)
    words = [sys.executable, sys.argv[0], "dag", "work", "--json", "--queue", queue, "--slots", str(slots)]
    words += ["--label", label] * bool(label) + ["--commands"] * commands + ["--limits", limits] * bool(limits)
    async with face.pool() as pool:
        face.note(f"{least} to {most} workers for the queue {queue!r}")
        scaler = Scaler(pool, queue, Bounds(least, most, slots, cool_down), words, face.variables)
        serving = asyncio.create_task(scaler.serve())
        try:
            await _stopped().wait()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


def _stopped() -> asyncio.Event:
    """Is set when this program is to end (SIGTERM), so that it gives back what it has."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


def _workers(flags: Mapping[str, str]) -> titan.Serving:
    text = flags.get("--workers", "")
    if not text.isdecimal() or not 0 < int(text) <= 1024:
        raise titan.ConfigError("--workers takes how many tasks run at once, 1 to 1024; --queue says whose")
    labels = labels_of(flags.get("--worker-label", ""))
    if flags.get("--worker-commands", "trusted") != "trusted":
        raise titan.ConfigError("workers that are to run commands are started with --worker-commands trusted")
    queue = flags.get("--queue", "dag")
    limits = limits_of(flags.get("--worker-limits", ""))

    @asynccontextmanager
    async def serving(pool: titan.Pool) -> AsyncIterator[str]:
        from titan_objects.dag.worker import working

        async with working(pool, queue, int(text), labels, commands="--worker-commands" in flags, limits=limits):
            yield f"{text} workers at the queue {queue!r}"

    return serving


def labels_of(text: str) -> dict[str, str]:
    """Labels as an operator writes them. Raises ConfigError: one is no label of an operator's."""
    from titan_objects.dag.queue import COMMANDS

    labels = dict(each.partition("=")[::2] for each in text.split(",") if each)
    if COMMANDS in labels:
        raise titan.ConfigError(
            "workers that are to run commands are started with --worker-commands trusted (titan dag work: --commands)"
        )
    return labels


def limits_of(text: str) -> "Limits":
    """Limits as an operator writes them. Raises ConfigError: these are none."""
    import msgspec

    from titan_objects.dag.definition import size_bytes
    from titan_objects.dag.limits import Limits

    said = dict(each.partition("=")[::2] for each in text.split(",") if each)
    try:
        if not all(re.fullmatch(r"[1-9]\d{0,8}[KMGT]?", each) for each in said.values()):
            raise ValueError("a number, or one such as 512M")
        return msgspec.convert({name: size_bytes(each) for name, each in said.items()}, Limits)
    except (msgspec.ValidationError, ValueError) as why:
        raise titan.ConfigError(f"--worker-limits takes processes=N,disk=SIZE, not {text!r}: {why}") from None


def _classic(flags: Mapping[str, str]) -> titan.Serving:
    from titan_objects.dag.classic.gateway import gateway, read_token

    if "--classic" not in flags:
        raise titan.ConfigError("--classic HOST:PORT says where to serve programs of the Titan orchestrator")
    queue, store = flags.get("--classic-queue", "dag"), flags.get("--classic-store", "")
    token = read_token(Path(flags["--classic-token"])) if "--classic-token" in flags else ""
    where = address(flags["--classic"])

    @asynccontextmanager
    async def serving(pool: titan.Pool) -> AsyncIterator[str]:
        async with gateway(pool, queue, store, token, *where) as (host, port):
            yield f"the queue {queue!r} is served on {written(host, port)}"

    return serving


async def gateway(
    face: titan.Face,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve.")] = "127.0.0.1:9090",
    queue: Queue = "dag",
    store: Annotated[
        str, typer.Option("--store", help="The store of keys and assets; without one they are refused.")
    ] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="The token that clients must show first.")
    ] = None,
) -> None:
    """Serve programs of the Titan orchestrator, until interrupted. What they submit runs as yours."""
    from titan_objects.dag.classic.gateway import gateway as serving
    from titan_objects.dag.classic.gateway import read_token

    token = read_token(token_file) if token_file is not None else ""
    async with face.pool() as pool, serving(pool, queue, store, token, *address(listen)) as (host, port):
        where = written(host, port)
        face.show({"listening": where}, lambda: f"the queue {queue!r} is served on {where}")
        await asyncio.Event().wait()
