"""A door with its socket: where a node, or `titan store door`, serves a group's store to Redis clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import titan_overlay as titan
from titan_objects.doors import written
from titan_objects.store.group.clients import DoorConfig
from titan_objects.store.group.door import Door
from titan_objects.store.group.places import GROUP_SETTINGS
from titan_objects.store.server import Server
from titan_objects.store.serving import first_line, from_file


def door_to(name: str, where: str, password_file: Path | None = None, config_file: Path | None = None) -> titan.Serving:
    """Serves a store while it is open; gives HOST:PORT.

    Args:
        where: PORT (0: any free one) or HOST:PORT; loopback, if it does not say.
        config_file: the door's own settings; CONFIG REWRITE writes them there.

    Raises:
        ConfigError: it cannot be served there (when it is opened), or not with these settings.
    """
    host, _, port = where.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise titan.ConfigError(f"{where!r} is no place for Redis clients; write PORT or HOST:PORT")
    host = host.strip("[]") or "127.0.0.1"
    settings = {"port": port, "bind": host, "appendonly": "no"}
    if password_file is not None:
        settings["requirepass"] = first_line(password_file)
    if config_file is None:
        config = DoorConfig(**settings)
    else:
        config = from_file(config_file, settings, DoorConfig, GROUP_SETTINGS)

    @asynccontextmanager
    async def serving(pool: titan.Pool) -> AsyncIterator[str]:
        door = Door(pool, name, config=config)
        server = Server(door)
        try:
            yield written(host, await server.listen([host], int(port)))
        finally:
            await server.close()
            await door.close()

    return serving
