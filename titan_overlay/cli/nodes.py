"""Commands about nodes: census, top, node status, node leave."""

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.pool.orders import NodeInfo

WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", "-w", metavar="CONDITION", help="Such as cores>=4 or region=eu; repeat it."),
]
NODE_SECONDS = 10.0
STOP_SECONDS = 15.0


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    command(app)(census)
    command(app)(top)
    node = typer.Typer(no_args_is_help=True, help="Your node on this machine.")
    command(node, connects=False)(status)
    command(node, connects=False)(leave)
    app.add_typer(node, name="node")


async def census(
    face: Face,
    where: WhereOption = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to ask around.")] = 10.0,
) -> None:
    """List the nodes of the pool, as they describe themselves."""
    async with face.pool() as pool:
        infos = await pool.census(where or (), timeout=timeout)
    face.show(infos, lambda: _census_table(infos))


async def top(
    face: Face,
    where: WhereOption = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds from one picture to the next.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One picture, and done.")] = False,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to ask around.")] = 5.0,
) -> None:
    """Watch the nodes at work: load, objects, messages a second."""
    async with face.pool() as pool:
        if once or face.json:
            infos = await pool.census(where or (), timeout=timeout)
            face.show(infos, lambda: _top_table(infos, {}))
            return
        await _watch(pool, where or [], interval, timeout)


async def _watch(pool: "Pool", where: list[str], interval: float, timeout: float) -> None:
    import sys

    from rich.live import Live

    loop = asyncio.get_running_loop()
    before: dict[str, tuple[float, float]] = {}
    with Live(auto_refresh=False) if sys.stdout.isatty() else nullcontext() as live:
        while True:
            infos = await pool.census(where, timeout=timeout)
            now = loop.time()
            rates = {
                info.id: max(0.0, (_messages(info) - before[info.id][1]) / (now - before[info.id][0]))
                for info in infos
                if info.id in before
            }
            before = {info.id: (now, _messages(info)) for info in infos}
            picture = _top_table(infos, rates)
            if live is not None:
                live.update(picture, refresh=True)
            else:
                output.print_rich(picture)
                sys.stdout.flush()
            await asyncio.sleep(interval)


async def status(face: Face) -> None:
    """Show what your node on this machine is doing."""
    line = local_node(face)
    async with face.pool(str(line)) as pool:
        info = await ask_node(pool, f"node:{line.node.hex()}")
    from titan_overlay.identity.grants import JoinLine

    host, _, port = info.address.rpartition(":")
    join = str(JoinLine(host.strip("[]"), int(port), line.pool, line.node)) if info.serving else None
    face.show({**_plain(info), "join": join}, lambda: _status_lines(info, join))


async def leave(face: Face) -> None:
    """Tell your node on this machine to hand over, withdraw and stop."""
    from titan_overlay.errors import Unavailable
    from titan_overlay.pool.orders import Leave
    from titan_overlay.storage.directory import DataDirectory

    line = local_node(face)
    async with face.pool(str(line)) as pool:
        await pool.send(f"node:{line.node.hex()}", Leave(), timeout=NODE_SECONDS)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_SECONDS
    while DataDirectory.in_use(face.directory):
        if loop.time() > deadline:
            raise Unavailable(f"the node has been told to leave, but has not ended within {STOP_SECONDS:g} s")
        await asyncio.sleep(0.1)
    face.show({"node": line.node.hex(), "outcome": "left"}, lambda: f"node {line.node.hex()[:12]} has left")


def local_node(face: Face) -> Any:
    """How to reach the node that runs on the data directory.

    Raises:
        ConfigError: none does.
    """
    from titan_overlay.errors import ConfigError
    from titan_overlay.storage.directory import DataDirectory

    line = DataDirectory.running(face.directory)
    if line is None and DataDirectory.in_use(face.directory):
        raise ConfigError(f"the node on {face.directory} has not joined yet; its log says why")
    if line is None:
        raise ConfigError(
            f"no node of yours runs on {face.directory}; start one with: titan-node (another directory: --data DIR)"
        )
    return line


async def ask_node(pool: "Pool", name: str) -> "NodeInfo":
    """What one node says of itself."""
    from titan_overlay.pool.orders import Census

    return await pool.send(name, Census(), timeout=NODE_SECONDS)


async def node_name(face: Face, pool: "Pool", text: str) -> str:
    """`node:<id>` for an id, its first digits, or "here".

    Raises:
        ConfigError: no node or several begin so.
    """
    from titan_overlay.errors import ConfigError

    if text == "here":
        return f"node:{local_node(face).node.hex()}"
    digits = text.removeprefix("node:").lower()
    if len(digits) == 64:
        return f"node:{digits}"
    found = [info.id for info in await pool.census() if info.id.startswith(digits)]
    if len(found) != 1:
        raise ConfigError(f"{len(found) or 'no'} nodes have an id that begins with {text!r}; see: titan census")
    return f"node:{found[0]}"


def _plain(info: "NodeInfo") -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(info)
    return plain


def _role(info: "NodeInfo") -> str:
    return ("host" if info.hosting else "routes only") if info.serving else "client only"


def _census_table(infos: "list[NodeInfo]") -> Any:
    rows = [
        (
            info.id[:12],
            info.address,
            _role(info),
            info.cores,
            output.size(info.memory_bytes),
            f"{output.size(info.used_bytes)} / {output.size(info.max_bytes)}",
            output.duration(info.uptime),
            " ".join(f"{key}={value}" for key, value in sorted(info.labels.items())),
        )
        for info in infos
    ]
    head = ("node", "address", "role", ">cores", ">memory", ">stored", ">up", "labels")
    return output.table(head, rows, title=f"{len(infos)} nodes")


def _messages(info: "NodeInfo") -> float:
    return info.counters.get("messages", 0.0)


def _top_table(infos: "list[NodeInfo]", rates: dict[str, float]) -> Any:
    rows = [
        (
            info.id[:12],
            info.address,
            f"{info.load:.2f}",
            info.objects,
            f"{rates[info.id]:.1f}" if info.id in rates else "-",
            f"{_messages(info):.0f}",
            output.size(info.used_bytes),
            info.peers,
            output.duration(info.uptime),
        )
        for info in sorted(infos, key=lambda each: (-rates.get(each.id, 0.0), each.id))
    ]
    head = ("node", "address", ">load", ">objects", ">msg/s", ">messages", ">stored", ">peers", ">up")
    return output.table(head, rows, title=f"{len(infos)} nodes")


def _status_lines(info: "NodeInfo", join: str | None) -> Any:
    rows = [
        ("node", info.id),
        ("address", info.address),
        ("role", _role(info)),
        ("objects", info.objects),
        ("stored", f"{output.size(info.used_bytes)} of {output.size(info.max_bytes)}"),
        ("peers", f"{info.peers} (pool of about {info.pool_size:.0f})"),
        ("up", output.duration(info.uptime)),
        ("version", info.version),
    ]
    if join:
        rows.append(("join line", join))
    if info.reason:
        rows.insert(3, ("because", info.reason))
    return output.pairs(rows)
