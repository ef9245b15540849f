"""`titan store`: serve a store to Redis clients; and the flags with which a node opens a door to one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

import titan_overlay as titan


def register(commands: titan.Commands) -> None:
    """Adds `titan store ...` and `titan-node --redis`."""
    store = commands.group("store", "A store for Redis clients.")
    import_.__name__ = "import"  # commands are named after their functions, and this is a word of Python
    for command in (serve, create, door, import_, export):
        store.command(command)
    commands.node_flags(
        {
            "--redis": ("[HOST:]PORT", "serve a store that a group keeps to Redis clients [127.0.0.1]"),
            "--store": ("NAME", "which store --redis serves"),
            "--redis-password-file": ("FILE", "its first line is the password of Redis clients"),
            "--redis-config": ("FILE", "settings of that door, as in redis.conf"),
        },
        _node_door,
    )


def serve(
    face: titan.Face,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the store's log lies; made if it is not there.")
    ] = Path("titan-store"),
    port: Annotated[int, typer.Option("--port", help="TCP port; 0: any free one.")] = 6379,
    bind: Annotated[str, typer.Option("--bind", help="Addresses to listen on, separated by blanks.")] = "127.0.0.1",
    socket: Annotated[Path | None, typer.Option("--socket", metavar="PATH", help="A Unix socket as well.")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="Its first line is the default user's password."),
    ] = None,
    appendfsync: Annotated[
        str | None,
        typer.Option("--appendfsync", help="When the disk confirms: always (the default), everysec or no."),
    ] = None,
    memory_only: Annotated[bool, typer.Option("--memory-only", help="Keep nothing on disk.")] = False,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting that CONFIG GET shows.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings, as in redis.conf; CONFIG REWRITE writes them there."),
    ] = None,
) -> None:
    """Serve a store of this machine to Redis clients until it is interrupted."""
    # Imported here, so that `titan`'s other commands start without it.
    from titan_objects.store.serving import Options, run

    options = Options(
        directory, port, bind.split(), socket, password_file, appendfsync, memory_only, setting or [], config
    )
    error = run(options, typer.echo)
    if error:
        typer.echo(f"titan store: {error}", err=True)
        raise typer.Exit(2)


Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The store's directory; no server may use it.")]


def import_(
    face: titan.Face,
    file: Annotated[Path, typer.Argument(help="An RDB or append-only file of Redis.")],
    directory: Directory = Path("titan-store"),
) -> None:
    """Load a file of Redis into a new store."""
    from titan_objects.store.moving import import_file

    count = import_file(file, directory)
    face.show({"keys": count, "dir": str(directory)}, lambda: f"{directory} has {count} keys")


def export(
    face: titan.Face,
    file: Annotated[Path, typer.Argument(help="Where to write: commands if it ends in .aof, else a snapshot (RDB).")],
    directory: Directory = Path("titan-store"),
) -> None:
    """Write a store's keys into a file that Redis reads."""
    from titan_objects.store.moving import export_file

    count = export_file(directory, file)
    face.show({"keys": count, "file": str(file)}, lambda: f"{file} has {count} keys")


Name = Annotated[str, typer.Argument(help="Name of the store, such as store/main.")]


async def create(
    face: titan.Face,
    name: Name,
    faults: Annotated[int, typer.Option(min=0, help="Members that may fail: of 2 times as many and one.")] = 1,
    byzantine: Annotated[
        bool, typer.Option("--byzantine", help="Members that fail may lie: of 3 times as many and one; slower.")
    ] = False,
) -> None:
    """Create a store that a group of nodes keeps."""
    async with face.pool() as pool:
        policy = titan.Policy(faults=faults, byzantine=byzantine)
        receipt = await pool.publish("store-group", name, policy=policy)
        face.show(
            {"name": name, "members": list(receipt.holders)}, lambda: f"{name} has {len(receipt.holders)} members"
        )


async def door(
    face: titan.Face,
    name: Name,
    redis: Annotated[str, typer.Option("--redis", metavar="[HOST:]PORT", help="Where to serve.")] = "6379",
    password_file: Annotated[
        str, typer.Option("--password-file", metavar="FILE", help="Its first line is the clients' password.")
    ] = "",
    config: Annotated[
        str,
        typer.Option("--config", metavar="FILE", help="The door's settings, as in redis.conf; CONFIG REWRITE too."),
    ] = "",
) -> None:
    """Serve a store that a group keeps to Redis clients, until interrupted."""
    serving = _door_to(name, redis, password_file, config)
    async with face.pool() as pool:
        found = await pool.describe(name)
        kind = "node" if isinstance(found, titan.NodeInfo) else found.type or found.kind
        if kind != "store-group":
            raise titan.ConfigError(f"{name} is no store but a {kind}; titan store create NAME makes a store")
        async with serving(pool) as where:
            face.show({"listening": where}, lambda: f"{name} is served on {where}")
            await asyncio.Event().wait()


def _node_door(flags: Mapping[str, str]) -> titan.Serving:
    name, redis = flags.get("--store"), flags.get("--redis")
    if name is None or redis is None:
        raise titan.ConfigError("a door takes both: --redis PORT says where, --store NAME says which store")
    door = _door_to(name, redis, flags.get("--redis-password-file", ""), flags.get("--redis-config", ""))

    @asynccontextmanager
    async def serving(pool: titan.Pool) -> AsyncIterator[str]:
        async with door(pool) as where:
            yield f"{name} is served to Redis clients on {where}"

    return serving


def _door_to(name: str, where: str, password_file: str, config_file: str) -> titan.Serving:
    from titan_objects.store.group.serving import door_to

    password, config = (Path(file) if file else None for file in (password_file, config_file))
    return door_to(name, where, password, config)
