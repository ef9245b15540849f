"""`titan-sim`: runs a simulation, shows a progress bar and a table, writes JSON, CSV and figures into `--out`."""

import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from titan_overlay.errors import ConfigError
from titan_simulations import lifetimes, results, runner
from titan_simulations.churn import ChurnConfig
from titan_simulations.classes import Population
from titan_simulations.copies import CopiesConfig
from titan_simulations.lookups import LookupsConfig
from titan_simulations.results import Result
from titan_simulations.scale import ScaleConfig
from titan_simulations.statistics import parse_seeds

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Whole pools of real nodes on a virtual clock. The same seed gives the same run.",
)

Out = Annotated[Path, typer.Option(help="Directory for result.json, series.csv and figures.")]
Seeds = Annotated[str, typer.Option(help="Run several seeds, like 1-3, and give 95 % intervals.")]
Seed = Annotated[int, typer.Option(help="Decides everything that chance decides.")]
Fake = Annotated[bool, typer.Option("--fake-crypto", help="Hashes for signatures: faster; the result says so.")]
Loss = Annotated[float, typer.Option(min=0, max=0.5, help="Probability of losing a packet.")]

QUICK = ChurnConfig(nodes=150, seconds=720.0, session="weibull:0.6:20m", objects=150)
QUICK_COPIES = CopiesConfig(nodes=100, copies=(1, 2, 4, 8, 16, 32), objects=4, lookups=200, messages=400)


@app.command()
def churn(
    nodes: Annotated[int | None, typer.Option(min=8, help="Nodes at any time.  [default: 1000]")] = None,
    hours: Annotated[float | None, typer.Option(min=0.01, help="Simulated time with churn.  [default: 1]")] = None,
    session: Annotated[
        str | None, typer.Option(help="weibull:SHAPE:MEDIAN, exponential:MEDIAN, fixed:LENGTH or forever.")
    ] = None,
    start: Annotated[str, typer.Option(help="balanced: a pool that has long been running; fresh.")] = "balanced",
    classes: Annotated[str, typer.Option(help="Kinds of machines, mixed.")] = "home,server",
    objects: Annotated[
        int | None, typer.Option(min=1, help="Published before the clock starts.  [default: 2000]")
    ] = None,
    kind: Annotated[str, typer.Option(help="Of the objects: data, or service (the installed type echo).")] = "data",
    min_copies: Annotated[int, typer.Option(min=1, max=64)] = 3,
    max_copies: Annotated[int, typer.Option(min=1, max=64)] = 8,
    messages: Annotated[float, typer.Option(min=0, help="Per second, over the whole pool.")] = 5.0,
    lookups: Annotated[float, typer.Option(min=0, help="Per second, over the whole pool.")] = 2.0,
    zipf: Annotated[float, typer.Option(min=0, max=3, help="Exponent of the objects' popularity; 0: alike.")] = 0.0,
    clean: Annotated[float, typer.Option(min=0, max=1, help="Share of departures that are clean stops.")] = 0.0,
    cache: Annotated[
        bool, typer.Option("--cache", help="Nodes keep data in passing, as the default policy says.")
    ] = False,
    loss: Loss = 0.0,
    seed: Seed = 1,
    seeds: Seeds = "",
    jobs: Annotated[int, typer.Option(min=1, help="Seeds that run at the same time.")] = 1,
    out: Out = Path("out/churn"),
    quick: Annotated[bool, typer.Option("--quick", help="A small pool, done in a minute.")] = False,
    sweep: Annotated[bool, typer.Option(help="Also measure hops and load against copies.")] = True,
    fake_crypto: Fake = False,
) -> None:
    """Nodes leave for ever, new ones come: do objects survive, are messages answered, at what cost?"""
    preset = QUICK if quick else ChurnConfig()
    config = ChurnConfig(
        nodes=nodes or preset.nodes,
        seconds=3600 * hours if hours else preset.seconds,
        session=session or preset.session,
        start=_one_of("start", start, ("balanced", "fresh")),
        classes=tuple(classes.split(",")),
        objects=objects or preset.objects,
        kind=_one_of("kind", kind, ("data", "service")),
        min_copies=min_copies,
        max_copies=max(max_copies, min_copies),
        cache=cache,
        messages_per_second=messages,
        lookups_per_second=lookups,
        zipf=zipf,
        clean_share=clean,
        loss=loss,
        seed=seed,
        fake_crypto=fake_crypto,
    )
    try:
        Population(config.classes, lifetimes.parse(config.session))
        wanted = parse_seeds(seeds) if seeds else [seed]
    except ValueError as why:
        raise typer.BadParameter(str(why)) from None
    if len(wanted) > 1:
        _show(_several(wanted, jobs, out), "churn, mean of the seeds", out)
        return
    config = msgspec.structs.replace(config, seed=wanted[0])
    result = runner.churn_to(out, config, _command())
    if sweep:
        base = QUICK_COPIES if quick else CopiesConfig(nodes=min(500, config.nodes))
        runner.copies_to(
            out, msgspec.structs.replace(base, seed=config.seed, loss=loss, fake_crypto=fake_crypto), _command()
        )
    _show(result, f"churn, seed {config.seed}", out)


@app.command()
def lookups(
    nodes: Annotated[int, typer.Option(min=8)] = 1000,
    objects: Annotated[int, typer.Option(min=1)] = 1000,
    copies: Annotated[int, typer.Option(min=1, max=64, help="Of each object.")] = 3,
    lookups: Annotated[int, typer.Option(min=1)] = 10_000,
    loss: Loss = 0.0,
    seed: Seed = 1,
    out: Out = Path("out/lookups"),
    fake_crypto: Fake = False,
) -> None:
    """No churn: is everything found, and in how many requests?"""
    config = LookupsConfig(
        nodes=nodes, objects=objects, copies=copies, lookups=lookups, loss=loss, seed=seed, fake_crypto=fake_crypto
    )
    _show(runner.lookups_to(out, config, _command()), f"lookups, seed {seed}", out)


@app.command()
def copies(
    nodes: Annotated[int, typer.Option(min=8)] = 500,
    objects: Annotated[int, typer.Option(min=1, help="For each number of copies.")] = 10,
    lookups: Annotated[int, typer.Option(min=1, help="For each number of copies.")] = 1000,
    messages: Annotated[int, typer.Option(min=1, help="For each number of copies.")] = 2000,
    loss: Loss = 0.0,
    seed: Seed = 1,
    out: Out = Path("out/copies"),
    fake_crypto: Fake = False,
) -> None:
    """Hops and load against the number of copies, 1 to 64."""
    config = CopiesConfig(
        nodes=nodes, objects=objects, lookups=lookups, messages=messages, loss=loss, seed=seed, fake_crypto=fake_crypto
    )
    result = runner.copies_to(out, config, _command())
    table = Table("copies", "requests, mean", "95 %", "hops, mean", "busiest holder", "1 / copies")
    for point in result["points"]:
        table.add_row(
            str(point["copies"]),
            f"{point['rpcs_mean']:.2f}",
            f"{point['rpcs_p95']:.0f}",
            f"{point['hops_mean']:.2f}",
            f"{point['load_max_share']:.1%}",
            f"{1 / point['copies']:.1%}",
        )
    Console().print(table)


@app.command()
def scale(
    nodes: Annotated[int, typer.Option(min=2)] = 1000,
    objects: Annotated[int, typer.Option(min=0)] = 1000,
    minutes: Annotated[float, typer.Option(min=0.1, help="Measured, after joining and publishing.")] = 5.0,
    join_gap: Annotated[float, typer.Option(min=0.001, help="Simulated seconds between two joins.")] = 0.1,
    seed: Seed = 1,
    out: Out = Path("out/scale"),
    trace: Annotated[bool, typer.Option(help="Fold every packet into the trace hash.")] = True,
    fake_crypto: Fake = False,
) -> None:
    """What the simulator itself costs: CPU per simulated minute, memory per node."""
    config = ScaleConfig(
        nodes=nodes,
        objects=objects,
        seconds=60 * minutes,
        join_gap=join_gap,
        seed=seed,
        trace=trace,
        fake_crypto=fake_crypto,
    )
    _show(runner.scale_to(out, config, _command()), f"scale, seed {seed}", out)


def _several(seeds: list[int], jobs: int, out: Path) -> Result:
    """Each seed in a process of its own, so that each has the memory and the trace that it would have alone."""
    arguments = _without(sys.argv[1:], ("--seeds", "--seed", "--out", "--jobs"))
    waiting = [(seed, out / f"seed-{seed}") for seed in seeds]
    running: list[subprocess.Popen[bytes]] = []
    for seed, directory in waiting:
        if len(running) >= jobs:
            _finish(running.pop(0))
        own = [*arguments, "--seed", str(seed), "--out", str(directory)]
        if seed != seeds[0] and "--no-sweep" not in own:
            own.append("--no-sweep")
        running.append(subprocess.Popen([sys.executable, "-m", "titan_simulations.cli", *own]))
    for process in running:
        _finish(process)
    loaded = [json.loads((directory / "result.json").read_text(encoding="utf-8")) for _, directory in waiting]
    result = results.combined(loaded, command=_command())
    results.write(result, out / "result.json")
    return result


def _finish(process: "subprocess.Popen[bytes]") -> None:
    if process.wait():
        raise SystemExit(process.returncode)


def _command() -> str:
    """What to type to get the same run again; where it writes is left out."""
    return shlex.join(["titan-sim", *_without(sys.argv[1:], ("--out", "--jobs"))])


def _without(arguments: list[str], options: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    skip = False
    for each in arguments:
        if skip:
            skip = False
        elif each in options:
            skip = True
        elif not each.startswith(tuple(f"{option}=" for option in options)):
            kept.append(each)
    return kept


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"--{what} is one of {', '.join(allowed)}, not {value!r}")
    return value


def _show(result: Result, title: str, out: Path) -> None:
    table = Table("figure", "value", title=title)
    intervals: dict[str, Any] = result.get("intervals", {})
    for key, value in result.items():
        if isinstance(value, dict | list | str) or key in ("kind", "seed"):
            continue
        text = f"{value:,.6g}" if isinstance(value, int | float) else "-"
        bounds = intervals.get(key, [None, None])
        if bounds[0] is not None and bounds[0] == bounds[0]:
            text += f"  [{bounds[0]:,.4g}, {bounds[1]:,.4g}]"
        table.add_row(key.replace("_", " "), text)
    console = Console()
    console.print(table)
    console.print(f"written to {out}/", highlight=False)


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except ConfigError as why:
        sys.stderr.write(f"titan-sim: {why}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
