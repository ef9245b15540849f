"""`titan doctor`: what could be wrong here, one line each, with the command that helps."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.grant_text import grant_facts
from titan_overlay.cli.loading import load_settings

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.pool.orders import Holding, NodeInfo

CLOCK_SECONDS = 30.0
"""A clock that differs more than this from the others' is worth a warning."""

GRANT_DAYS = 2.0
SPACE_SHARE = 1.1
"""Free room below this many times what the node may still store is a warning."""


CROWD_PROBABILITY = 1e-6
"""Nodes around an object that lie so close to it by chance this seldom were put there."""
HELD_MAX = 8
"""Objects held here around which it is looked."""
GROUP_SECONDS = 10.0
"""For the members of a mutable object to say how they are."""


class Check(NamedTuple):
    """One line of the report."""

    what: str
    ok: bool
    text: str
    help: str = ""
    """The command, or the deed, that helps."""


def register(app: typer.Typer) -> None:
    """Adds the command to `titan`."""
    command(app)(doctor)


async def doctor(
    face: Face,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Objects to look around; default: those held here.")
    ] = None,
) -> None:
    """Check the data directory, the node, its address, the clock, the grants, and the groups and crowds of objects."""
    checks = [*_directory(face), *_settings(face), *_grants(face)]
    async with AsyncExitStack() as stack:
        checks += [check async for check in _online(face, stack, names or [])]
    face.show([check._asdict() for check in checks], lambda: _report(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _report(checks: list[Check]) -> Any:
    rows = [("ok" if check.ok else "warn", check.what, check.text, check.help) for check in checks]
    return output.table(("", "what", "finding", "what helps"), rows)


def _directory(face: Face) -> Iterator[Check]:
    from titan_overlay.errors import StorageError
    from titan_overlay.storage.database import check_version

    path = face.directory
    if not path.is_dir():
        yield Check("data directory", False, f"{path} is not there yet", "titan-node, or titan id")
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        yield Check("data directory", False, f"{path} is open to others (mode {mode:o})", f"chmod 700 {path}")
    elif os.statvfs(path).f_flag & os.ST_RDONLY:
        yield Check("data directory", False, f"{path} is on a read-only file system", "mount that for writing")
    elif not os.access(path, os.W_OK):
        yield Check("data directory", False, f"{path} cannot be written", f"chown -R $USER {path}")
    else:
        try:
            check_version(path / "node.db")
        except StorageError as why:
            yield Check("data directory", False, str(why), "pip install --upgrade titan-overlay")
        else:
            yield Check("data directory", True, str(path))


def _disk(face: Face, limit: int) -> Iterator[Check]:
    import shutil

    if not face.directory.is_dir():
        return
    free = shutil.disk_usage(face.directory).free
    stored = sum(_sizes(face.directory / "blobs"))
    more = max(0, limit - stored)
    enough = free > SPACE_SHARE * more
    less = stored + free // 2 >> 20 if free else 0
    yield Check(
        "disk",
        enough,
        f"{output.size(free)} free, the node may store {output.size(more)} more",
        "" if enough else f"titan-node --max-bytes {less}MiB" if less else "make room there: nothing more can be kept",
    )


def _sizes(directory: Path) -> Iterator[int]:
    for place, _, files in os.walk(directory):
        for file in files:
            with suppress(FileNotFoundError):  # the node is at work
                yield os.stat(os.path.join(place, file)).st_size


def _settings(face: Face) -> Iterator[Check]:
    from titan_overlay.errors import ConfigError
    from titan_overlay.storage.directory import DataDirectory

    try:
        config = load_settings({"data": face.data}).config
    except ConfigError as why:
        yield Check("settings", False, str(why), "titan config show --origin")
        return
    listen, max_bytes, whose = config.listen, config.max_bytes, "at its next start"
    running = DataDirectory.running_settings(face.directory)
    if running is not None:
        in_force = {key: value for key, value, _ in running.rows}
        listen, max_bytes, whose = in_force["listen"], in_force["max_bytes"], f"process {running.process}"
    yield Check("settings", True, f"listen {', '.join(listen)} ({whose})")
    yield from _disk(face, max_bytes)


def _grants(face: Face) -> Iterator[Check]:
    from titan_overlay.ambient import Ambient
    from titan_overlay.storage.directory import DataDirectory

    now = Ambient.system().wall()
    found = [grant_facts(raw, now) for raw in DataDirectory.read_grants(face.directory)]
    valid = [each for each in found if each["state"] == "valid"]
    ask = "titan id, and let the holder of the pool's key run: titan grant KEY RIGHTS"
    if len(valid) < len(found):
        yield Check("grants", False, f"{len(found) - len(valid)} of {len(found)} have expired or are unreadable", ask)
    soon = [each for each in valid if each["days_left"] < GRANT_DAYS]
    if soon:
        yield Check("grants", False, f"{len(soon)} end within {GRANT_DAYS:g} days", ask)
    elif len(valid) == len(found):
        yield Check("grants", True, f"{len(valid)} valid" if valid else "none; ~me/... and data need none")


async def _online(face: Face, stack: AsyncExitStack, names: list[str]) -> AsyncIterator[Check]:
    from titan_overlay.errors import TitanError
    from titan_overlay.storage.directory import DataDirectory

    line = DataDirectory.running(face.directory)
    starting = line is None and DataDirectory.in_use(face.directory)
    if starting:
        yield Check("node", False, "it has started, but not joined yet", "look into its log; is its bootstrap up?")
    elif line is None:
        yield Check("node", False, f"none runs on {face.directory}", "titan-node")
    try:
        pool = await stack.enter_async_context(face.pool(str(line) if line else None))
    except TitanError as why:
        yield Check("pool", False, str(why), "titan-node, or --bootstrap HOST:PORT")
        return
    if line is not None:
        async for check in _node(pool, f"node:{line.node.hex()}"):
            yield check
    async for check in _clock(pool):
        yield check
    held = await _held(pool, f"node:{line.node.hex()}") if line is not None else []
    kinds = {each.name: each.kind for each in held}
    for name in names:
        if name not in kinds:
            kinds[name] = await _kind(pool, name)
    for name, kind in kinds.items():
        if kind == "mutable":
            yield await _group(pool, name)
    for name in names or [each.name for each in held]:
        yield await _crowd(pool, name)


async def _node(pool: "Pool", name: str) -> AsyncIterator[Check]:
    from titan_overlay.cli.nodes import ask_node
    from titan_overlay.errors import TitanError

    try:
        info: NodeInfo = await ask_node(pool, name)
    except TitanError as why:
        yield Check("node", False, f"it runs, but does not answer: {why}", "titan node leave, and start it again")
        return
    yield Check("node", True, f"{info.id[:12]} answers, up for {output.duration(info.uptime)}")
    if info.serving:
        yield Check("address", True, f"{info.address} can be dialled by others (UDP and TCP)")
    else:
        yield Check("address", False, info.reason or "client only", "titan-node --advertise HOST:PORT")
    if info.serving and info.reason:
        help = "make room, it goes on by itself; what else is wrong with the disk, mend, and start the node again"
        yield Check("writing", False, info.reason, help)
    alone = info.peers == 0
    yield Check("peers", not alone, f"{info.peers} known", "titan invite, for somebody to join" if alone else "")
    full = info.used_bytes >= info.max_bytes
    yield Check(
        "stored",
        not full,
        f"{output.size(info.used_bytes)} of {output.size(info.max_bytes)}",
        "titan-node --max-bytes SIZE" if full else "",
    )


async def _held(pool: "Pool", node: str) -> "list[Holding]":
    """Objects that this node holds."""
    from titan_overlay.pool.orders import Holdings

    answer = (await pool.multicast([node], Holdings()))[node]
    return answer[:HELD_MAX] if isinstance(answer, list) else []


async def _kind(pool: "Pool", name: str) -> str:
    """Of an object that others hold; empty: it is not found."""
    from titan_overlay.client import Description
    from titan_overlay.errors import TitanError

    try:
        found = await pool.describe(name, timeout=GROUP_SECONDS)
    except TitanError:
        return ""
    return found.kind if isinstance(found, Description) else ""


async def _group(pool: "Pool", name: str) -> Check:
    """Whether the members of a mutable object are enough."""
    from titan_overlay.cli.groups import health_of

    health = await health_of(pool, name, GROUP_SECONDS)
    if isinstance(health, str):
        return Check("group", False, f"nobody says how {name!r} is: {health}", f"titan describe {name}")
    if health.health == "unavailable":
        helps = f"start its members again; if they are lost for good: titan recover {name}"
    else:
        helps = f"titan describe {name}; start more nodes that may host it" if health.health == "degraded" else ""
    if health.health == "diverged":
        helps = f"titan describe {name} shows which; its code must do the same everywhere: publish it anew"
    return Check("group", not helps, f"{name!r}: {health.says}", helps)


async def _crowd(pool: "Pool", name: str) -> Check:
    """Whether ids were ground next to an object, to hide it or to hold it."""
    from titan_overlay.errors import TitanError

    try:
        probability, gathered, expected = await pool.crowd(name)
    except TitanError as why:
        return Check("crowd", False, f"cannot look around {name!r}: {why}", "titan locate NAME")
    if probability >= CROWD_PROBABILITY:
        return Check("crowd", True, f"the nodes around {name!r} lie as chance has it (p = {probability:.2g})")
    return Check(
        "crowd",
        False,
        f"{gathered} nodes crowd around {name!r} where {expected:.2g} are to be expected (p = {probability:.1g}): "
        "somebody made keys to be there",
        "it is still found, its statements are with the whole region; a higher min_copies helps, see docs/security.md",
    )


async def _clock(pool: "Pool") -> AsyncIterator[Check]:
    """This machine's clock beside those of the nodes that answer."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.pool.questions import Ping, Pong

    nodes = [f"node:{info.id}" for info in (await pool.census())[:8]]
    answers = await pool.multicast(nodes, Ping())
    times = [answer.at for answer in answers.values() if isinstance(answer, Pong)]
    yield Check("pool", bool(nodes), f"{len(nodes)} of its nodes asked", "" if nodes else "titan census")
    if times:
        apart = Ambient.system().wall() - median(times)
        right = abs(apart) < CLOCK_SECONDS
        text = f"{abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} the others"
        yield Check("clock", right, text, "" if right else "timedatectl set-ntp true")
