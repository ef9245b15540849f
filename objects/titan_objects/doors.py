"""TCP doors to objects of the pool, for programs that speak a protocol of their own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

import titan_overlay as titan

log = logging.getLogger("titan")

READ_BYTES = 64 << 10
IDLE_SECONDS = 600.0
"""A client that says nothing, or takes no reply, for so long is let go."""
PARTING_SECONDS = 2.0

Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""One connection, until it ends."""


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. ConfigError: it is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise titan.ConfigError(f"{text!r} is no address; write HOST:PORT, such as 127.0.0.1:4780")
    return host.strip("[]"), int(port)


def written(host: str, port: int) -> str:
    """As `address` reads it: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def receive(reader: asyncio.StreamReader) -> bytes:
    """What comes next; nothing: it has ended. Raises TimeoutError: the client is idle."""
    async with asyncio.timeout(IDLE_SECONDS):
        return await reader.read(READ_BYTES)


async def drain(writer: asyncio.StreamWriter) -> None:
    """Until the client has taken most of what was written. Raises TimeoutError: it does not."""
    async with asyncio.timeout(IDLE_SECONDS):
        await writer.drain()


async def _part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ends it so that the client can read what was said last: closing on unread bytes would take it away again."""
    async with asyncio.timeout(PARTING_SECONDS):
        await writer.drain()
        writer.write_eof()
        while await reader.read(READ_BYTES):
            pass


@asynccontextmanager
async def door(
    converse: Converse, what: str, host: str, port: int, *, most: int, full: bytes
) -> AsyncIterator[tuple[str, int]]:
    """Has connections to an address conversed with until left; gives the address (port 0: any that is free).

    Args:
        what: is served, for logs.
        most: connections at once.
        full: is said to one more, before it is let go.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        room = most - len(connections)
        connections.add(task)
        try:
            if room > 0:
                await converse(reader, writer)
            else:
                writer.write(full)
            if room > -most:
                await _part(reader, writer)
        except (OSError, TimeoutError) as why:
            log.debug("a connection to %s has ended: %s", what, why)
        finally:
            connections.discard(task)
            writer.close()

    try:
        server = await asyncio.start_server(serve, host, port, limit=READ_BYTES)
    except OSError as why:
        raise titan.ConfigError(
            f"cannot listen on {host}:{port}: {why.strerror}; name another with --listen HOST:PORT"
        ) from None
    try:
        bound = server.sockets[0].getsockname()
        yield bound[0], bound[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()
