"""`titan-sim`: runs a simulation, shows a progress bar and a table, writes JSON, CSV and figures into `--out`."""

import errno
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import track

from titan_overlay.errors import ConfigError
from titan_overlay.version import VERSION
from titan_simulations import attacks, lifetimes, results, runner, termination
from titan_simulations.adversary import ALL, PATHS_MAX, SHIPPED, VOTES_MAX, AdversaryConfig
from titan_simulations.churn import ChurnConfig
from titan_simulations.classes import Population
from titan_simulations.consensus.engines import KINDS
from titan_simulations.consensus.runs import failed, replay, run_seeds, summary
from titan_simulations.consensus.world import ConsensusConfig
from titan_simulations.copies import CopiesConfig, room
from titan_simulations.groups import GroupsConfig
from titan_simulations.lookups import LookupsConfig
from titan_simulations.many import command_line, each_point, each_seed
from titan_simulations.scale import ScaleConfig
from titan_simulations.skademlia import SKademliaConfig
from titan_simulations.statistics import parse_seeds
from titan_simulations.tables import show, show_copies, show_paths, show_points

Number = TypeVar("Number", int, float)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Whole pools of real nodes on a virtual clock. The same seed gives the same run.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"titan-sim {VERSION}")
        raise typer.Exit


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


@app.callback()
def titan_sim(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes what stands before the command."""


Out = Annotated[Path, typer.Option(help="Directory for result.json, series.csv and figures.")]
Seeds = Annotated[str, typer.Option(help="Run several seeds, like 1-3, and give 95 % intervals (of two: both values).")]
Seed = Annotated[int, typer.Option(help="Decides everything that chance decides.")]
Fake = Annotated[bool, typer.Option("--fake-crypto", help="Hashes for signatures: faster; the result says so.")]
Loss = Annotated[float, typer.Option(min=0, max=0.5, help="Probability of losing a packet.")]

LOST = 1
"""Status of a run of groups that has lost a write, or executed one twice."""

CHURN_SECONDS = 1800.0
"""Of an adversary with churn."""

QUICK = ChurnConfig(nodes=150, seconds=720.0, session="weibull:0.6:20m", objects=150)
QUICK_GROUPS = GroupsConfig(nodes=60, seconds=600.0, groups=9, session="weibull:0.6:20m", downtime="weibull:0.6:5m")
QUICK_ADVERSARY = AdversaryConfig(nodes=150, objects=40, services=15, lookups=300, sends=300)
QUICK_COPIES = CopiesConfig(nodes=100, copies=(1, 2, 4, 8, 16, 32), objects=4, lookups=200, messages=400)


@app.command()
def churn(
    nodes: Annotated[int | None, typer.Option(min=8, help="Nodes at any time.  [default: 1000]")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, callback=_finite, help="Simulated time with churn.  [default: 1]")
    ] = None,
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
    max_copies: Annotated[
        int | None, typer.Option(min=1, max=64, help="[default: 8, or --min-copies if that is more]")
    ] = None,
    messages: Annotated[float, typer.Option(min=0, callback=_finite, help="Per second, over the whole pool.")] = 5.0,
    lookups: Annotated[float, typer.Option(min=0, callback=_finite, help="Per second, over the whole pool.")] = 2.0,
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
    if max_copies is not None and max_copies < min_copies:
        raise typer.BadParameter(f"--max-copies {max_copies} is less than --min-copies {min_copies}")
    config = ChurnConfig(
        nodes=nodes or preset.nodes,
        seconds=3600 * hours if hours else preset.seconds,
        session=session or preset.session,
        start=_one_of("start", start, ("balanced", "fresh")),
        classes=tuple(classes.split(",")),
        objects=objects or preset.objects,
        kind=_one_of("kind", kind, ("data", "service")),
        min_copies=min_copies,
        max_copies=max_copies or max(preset.max_copies, min_copies),
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
        show(each_seed(wanted, jobs, out), "churn, mean of the seeds", out)
        return
    config = msgspec.structs.replace(config, seed=wanted[0])
    result = runner.churn_to(out, config, command_line())
    if sweep:
        base = QUICK_COPIES if quick else CopiesConfig(nodes=min(500, config.nodes))
        base = msgspec.structs.replace(base, seed=config.seed, loss=loss, fake_crypto=fake_crypto)
        runner.copies_to(out, base.fitting(), command_line())
    show(result, f"churn, seed {config.seed}", out)


@app.command()
def groups(
    nodes: Annotated[int | None, typer.Option(min=4, help="All up when the clock starts.  [default: 1000]")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, callback=_finite, help="Simulated time with churn.  [default: 2]")
    ] = None,
    groups: Annotated[int | None, typer.Option(min=1, help="Mutable objects (Raft).  [default: 200]")] = None,
    sizes: Annotated[str, typer.Option(help="Members of a group: odd numbers, one size after the other.")] = "5,7",
    session: Annotated[
        str | None,
        typer.Option(
            help="How long nodes stay up: weibull:SHAPE:MEDIAN, exponential:MEDIAN, fixed:LENGTH or forever; when the "
            "clock starts, they have been up for a while.  [default: weibull:0.6:1h]"
        ),
    ] = None,
    downtime: Annotated[
        str | None,
        typer.Option(
            help="How long they are then off, before they return with their disks. By default, many restarts and some "
            "nights: with the default sessions, a node returns 6.5 times a day, and 6.4 times were measured in the "
            "field (Bhagwan, Savage and Voelker, IPTPS 2003).  [default: weibull:0.6:20m]"
        ),
    ] = None,
    gone: Annotated[
        float, typer.Option(min=0, max=1, help="Share of departures from which nobody returns: a disk that broke.")
    ] = 0.05,
    operations: Annotated[float, typer.Option(min=0, callback=_finite, help="Per second, over all groups.")] = 5.0,
    writes: Annotated[
        float, typer.Option(min=0, max=1, help="Share of them; the others are linearizable reads.")
    ] = 0.5,
    clients: Annotated[int, typer.Option(min=1, help="Programs that stay up, and ask.")] = 8,
    loss: Loss = 0.0,
    seed: Seed = 1,
    seeds: Seeds = "",
    jobs: Annotated[int, typer.Option(min=1, help="Seeds that run at the same time.")] = 1,
    out: Out = Path("out/groups"),
    quick: Annotated[bool, typer.Option("--quick", help="A small pool, done in a minute or two.")] = False,
    fake_crypto: Fake = False,
) -> None:
    """Members of groups crash and return with their disks: do mutable objects answer, and forget nothing?

    The status is 1 if a write that was acknowledged was lost, or one was executed twice.
    """
    preset = QUICK_GROUPS if quick else GroupsConfig()
    try:
        config = msgspec.structs.replace(
            preset,
            nodes=nodes or preset.nodes,
            seconds=3600 * hours if hours else preset.seconds,
            groups=groups or preset.groups,
            sizes=tuple(_numbers("--sizes", sizes, int)),
            session=session or preset.session,
            downtime=downtime or preset.downtime,
            gone_share=gone,
            operations_per_second=operations,
            write_share=writes,
            clients=clients,
            loss=loss,
            seed=seed,
            fake_crypto=fake_crypto,
        )
        config.check()
        wanted = parse_seeds(seeds) if seeds else [seed]
    except ValueError as why:
        raise typer.BadParameter(str(why)) from None
    if len(wanted) > 1:
        result = each_seed(wanted, jobs, out, once=(), ended=(0, LOST))
        show(result, "groups, mean of the seeds", out)
    else:
        result = runner.groups_to(out, msgspec.structs.replace(config, seed=wanted[0]), command_line())
        show(result, f"groups, seed {wanted[0]}", out)
    if result["lost_writes"] or result["writes_executed_twice"]:
        raise typer.Exit(LOST)


@app.command()
def adversary(
    nodes: Annotated[int | None, typer.Option(min=8, help="Honest nodes and liars together.  [default: 1000]")] = None,
    malicious: Annotated[str, typer.Option(help="Share of liars, or several: 0,0.2,0.5.")] = "0.2",
    attack: Annotated[
        str, typer.Option(help=f"{', '.join(attacks.BUILT_IN)} (each liar draws one), or module:Class; or several.")
    ] = "all",
    paths: Annotated[
        str, typer.Option(help="Paths of a look-up: shipped (the default of a node), a number, all; or several.")
    ] = SHIPPED,
    churn: Annotated[str, typer.Option(help="Nodes come and go, as weibull:0.6:1h; for half an hour.")] = "",
    seconds: Annotated[
        float | None, typer.Option(min=1, callback=_finite, help="Simulated time in which requests begin.")
    ] = None,
    objects: Annotated[int | None, typer.Option(min=1, help="Data published.  [default: 100]")] = None,
    services: Annotated[
        int | None, typer.Option(min=1, help="Of each kind: asked alone, and of each number of votes.  [default: 30]")
    ] = None,
    lookups: Annotated[int | None, typer.Option(min=1, help="In all; as many messages.  [default: 1000]")] = None,
    votes: Annotated[str, typer.Option(help="Of the services that are voted on; 0: there are none.")] = "5,7",
    loss: Loss = 0.0,
    seed: Seed = 1,
    seeds: Seeds = "",
    jobs: Annotated[int, typer.Option(min=1, help="Points that are computed at the same time.")] = 1,
    out: Out = Path("out/adversary"),
    quick: Annotated[bool, typer.Option("--quick", help="A small pool, done in about a minute.")] = False,
    fake_crypto: Fake = False,
) -> None:
    """Some nodes lie, from the first on: do the honest find what is there, and are their messages answered rightly?"""
    preset = QUICK_ADVERSARY if quick else AdversaryConfig()
    try:
        shares = _numbers("--malicious", malicious, float)
        voters = tuple(dict.fromkeys(each for each in _numbers("--votes", votes, int) if each))
        wanted = parse_seeds(seeds) if seeds else [seed]
        if churn:
            lifetimes.parse(churn)
    except ValueError as why:
        raise typer.BadParameter(str(why)) from None
    for share in shares:
        if not 0 <= share <= 0.9:
            raise typer.BadParameter(f"--malicious is a share of the nodes from 0 to 0.9, not {share:g}")
    for number in voters:
        if not 1 <= number <= VOTES_MAX:
            raise typer.BadParameter(f"--votes is 0 for none, or numbers from 1 to {VOTES_MAX}, not {number}")
    kinds = attack.split(",")
    for each in kinds:
        attacks.find(each)
    config = msgspec.structs.replace(
        preset,
        nodes=nodes or preset.nodes,
        malicious=shares[0],
        attack=kinds[0],
        paths=tuple(_path_setting(each) for each in paths.split(",")),
        session=churn,
        seconds=seconds or (CHURN_SECONDS if churn else preset.seconds),
        objects=objects or preset.objects,
        services=services or preset.services,
        lookups=lookups or preset.lookups,
        sends=lookups or preset.sends,
        votes=voters,
        loss=loss,
        seed=wanted[0],
        fake_crypto=fake_crypto,
    )
    grid = [(kind, share, each) for kind in kinds for share in shares for each in wanted]
    if len(grid) == 1:
        result = runner.adversary_to(out, config, command_line())
    else:
        result = each_point(grid, jobs, out)
    show_points(result, out)


@app.command("skademlia")
def s_kademlia(
    nodes: Annotated[int, typer.Option(min=100)] = 10_000,
    k: Annotated[int, typer.Option(min=1, help="Contacts in a bucket.")] = 16,
    lookups: Annotated[int, typer.Option(min=1, help="For each number of paths and share of liars.")] = 300,
    seed: Seed = 1,
    out: Out = Path("out/skademlia"),
) -> None:
    """A check of the simulator: S/Kademlia's look-ups (d = 1, 2, 4, 8), its closed form, and ours, on ideal tables."""
    config = SKademliaConfig(nodes=nodes, k=k, lookups=lookups, seed=seed)
    result = runner.skademlia_to(out, config, command_line())
    show_paths(result)


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
    if not room(copies, nodes):
        raise typer.BadParameter(
            f"--copies {copies} of {nodes} nodes: a fifth of the nodes, at least, has to look for it"
        )
    config = LookupsConfig(
        nodes=nodes, objects=objects, copies=copies, lookups=lookups, loss=loss, seed=seed, fake_crypto=fake_crypto
    )
    show(runner.lookups_to(out, config, command_line()), f"lookups, seed {seed}", out)


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
    """Hops and load against the number of copies: 1 to 64, as far as the nodes go round."""
    config = CopiesConfig(
        nodes=nodes, objects=objects, lookups=lookups, messages=messages, loss=loss, seed=seed, fake_crypto=fake_crypto
    )
    result = runner.copies_to(out, config.fitting(), command_line())
    show_copies(result)


@app.command()
def scale(
    nodes: Annotated[int, typer.Option(min=2)] = 1000,
    objects: Annotated[int, typer.Option(min=0)] = 1000,
    minutes: Annotated[
        float, typer.Option(min=0.1, callback=_finite, help="Measured, after joining and publishing.")
    ] = 5.0,
    join_gap: Annotated[
        float, typer.Option(min=0.001, callback=_finite, help="Simulated seconds between two joins.")
    ] = 0.1,
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
    show(runner.scale_to(out, config, command_line()), f"scale, seed {seed}", out)


@app.command()
def consensus(
    engine: Annotated[str, typer.Option(help="raft: crashes; bft: liars, too.")] = "raft",
    seeds: Annotated[int, typer.Option(min=1, help="So many, from --seed on.")] = 1,
    seed: Seed = 1,
    operations: Annotated[int, typer.Option(min=1, help="At least so many in each seed.")] = 1000,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds that run at the same time.")] = 1,
    out: Out = Path("out/consensus"),
    transcript: Annotated[bool, typer.Option(help="Print the story of the first seed, even if it ends well.")] = False,
) -> None:
    """Groups of replicas through crashes, losses and partitions: is every history linearizable?

    The status is 1 if any seed shows what should never be; its story is printed and kept, and --seed tells it again.
    """
    engine = _one_of("engine", engine, tuple(KINDS))
    config = ConsensusConfig(operations=operations)
    runner.make(out)
    wanted = range(seed, seed + seeds)
    outcomes = []
    for outcome in track(
        run_seeds(engine, wanted, config, jobs), f"consensus, {engine}", seeds, console=Console(stderr=True)
    ):
        outcomes.append(outcome)
        if failed(outcome) or (transcript and outcome.seed == seed):
            sys.stdout.write("\n".join(replay(engine, outcome.seed, config, out)[-200:]) + "\n")
    result = summary(engine, outcomes, config, command_line())
    results.write(result, out / "result.json")
    show(result, f"consensus, {engine}, seeds {wanted[0]} to {wanted[-1]}", out)
    if any(failed(outcome) for outcome in outcomes):
        raise typer.Exit(1)


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"--{what} is one of {', '.join(allowed)}, not {value!r}")
    return value


def _numbers(flag: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(each) for each in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{flag} takes numbers with commas between them, not {text!r}") from None


def _path_setting(text: str) -> str:
    if text not in (SHIPPED, ALL) and not (text.isdecimal() and 1 <= int(text) <= PATHS_MAX):
        raise typer.BadParameter(f"--paths is {SHIPPED}, {ALL}, or a number from 1 to {PATHS_MAX}, not {text!r}")
    return text


def main() -> None:
    """The command."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    parent = os.environ.pop(termination.PARENT, "")
    if parent.isdigit():
        termination.end_with(int(parent))
    try:
        app()
    except ConfigError as why:
        sys.stderr.write(f"titan-sim: {why}\n")
        raise SystemExit(2) from None
    except OSError as why:
        if why.errno not in FULL:
            raise
        sys.stderr.write(f"titan-sim: --out cannot be written whole: {why.strerror}; make room, and run it again\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
