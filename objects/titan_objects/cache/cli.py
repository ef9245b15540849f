"""`titan cache`, and the flags with which a node serves a cache itself."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

import typer

import titan_overlay as titan
from titan_objects.doors import address, written

Name = Annotated[str, typer.Argument(help="Name of the cache, such as cache/main.")]
Key = Annotated[str, typer.Argument(help="The key, as text.")]
Listen = Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve. [127.0.0.1:4780]")]


def register(commands: titan.Commands) -> None:
    """Adds `titan cache ...` and `titan-node --cache`."""
    cache = commands.group("cache", "A cache that a group keeps, and its gateway for clients of the Raft cache.")
    for command in (serve, set, get, delete):
        cache.command(command)
    commands.node_flags(
        {
            "--cache": ("NAME", "serve this cache to clients of the Raft cache's protocol"),
            "--cache-listen": ("HOST:PORT", "where to serve it [127.0.0.1:4780]"),
        },
        _door,
    )


async def serve(face: titan.Face, name: Name, listen: Listen = "127.0.0.1:4780") -> None:
    """Serve a cache to clients of the Raft cache's protocol, until interrupted."""
    from titan_objects.cache.gateway import gateway

    async with face.pool() as pool, gateway(pool, name, *address(listen)) as (host, port):
        where = written(host, port)
        face.show({"listening": where}, lambda: f"{name} is served on {where}")
        await asyncio.Event().wait()


async def set(
    face: titan.Face,
    name: Name,
    key: Key,
    value: Annotated[str, typer.Argument(help="The value, as text.")],
    ttl: Annotated[int, typer.Option(min=0, metavar="SECONDS", help="How long it is kept; 0: until deleted.")] = 0,
) -> None:
    """Keep a value under a key."""
    from titan_objects.cache import Set

    async with face.pool() as pool:
        if not await pool.send(name, Set(key.encode(), value.encode(), ttl)):
            raise titan.Overloaded(f"{name!r} is full, or the value is too large")


async def get(face: titan.Face, name: Name, key: Key) -> None:
    """Print the value of a key."""
    from titan_objects.cache import Get

    async with face.pool() as pool:
        value = await pool.read(name, Get(key.encode()))
        if value is None:
            raise titan.NotFound(f"{name!r} has no {key!r}")
        face.show(value, lambda: value.decode(errors="replace"))


async def delete(face: titan.Face, name: Name, key: Key) -> None:
    """Let a key go."""
    from titan_objects.cache import Delete

    async with face.pool() as pool:
        there = await pool.send(name, Delete(key.encode()))
        face.show(there, lambda: "deleted" if there else "nothing to delete")


def _door(flags: Mapping[str, str]) -> titan.Serving:
    name = flags.get("--cache")
    if name is None:
        raise titan.ConfigError("--cache-listen says where to serve a cache; --cache NAME says which")
    where = address(flags.get("--cache-listen", "127.0.0.1:4780"))

    @asynccontextmanager
    async def serving(pool: titan.Pool) -> AsyncIterator[str]:
        from titan_objects.cache.gateway import gateway

        async with gateway(pool, name, *where) as (host, port):
            yield f"{name} is served on {written(host, port)}"

    return serving
