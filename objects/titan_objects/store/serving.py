"""A store in a process of its own: settings in, a server that runs until it is told to stop."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import titan_overlay as titan
from titan_objects.doors import written
from titan_objects.store import settings_file
from titan_objects.store.busy import Busy
from titan_objects.store.config import SETTINGS, Config, canonical
from titan_objects.store.host import Store
from titan_objects.store.resp import CommandError
from titan_objects.store.server import Server
from titan_objects.store.whole_file import WholeFile


@dataclass(frozen=True)
class Options:
    """What `titan store serve` was told."""

    directory: Path
    port: int
    hosts: list[str]
    socket: Path | None
    password_file: Path | None
    appendfsync: str | None
    memory_only: bool
    settings: list[str]
    config_file: Path | None


def run(options: Options, say: Callable[[str], None]) -> str:
    """Serves until SIGINT, SIGTERM or SHUTDOWN; why it could not, or nothing."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        _run(_serve(options, configured(options), say))
    except (titan.TitanError, CommandError, ValueError) as why:
        return str(why)
    return ""


def configured(options: Options) -> Config:
    """The settings, of the file and of the flags. ConfigError, CommandError, ValueError: they cannot be."""
    values = {
        "port": str(options.port),
        "bind": " ".join(options.hosts),
        "dir": str(options.directory),
        "unixsocket": str(options.socket or ""),
    }
    if options.appendfsync is not None:
        values["appendfsync"] = options.appendfsync
    for pair in options.settings:
        name, equals, value = pair.partition("=")
        if not equals:
            raise titan.ConfigError(f"--set takes NAME=VALUE, not {pair!r}")
        values[canonical(name)] = value
    if options.password_file is not None:
        values["requirepass"] = first_line(options.password_file)
    if options.memory_only:
        values["appendonly"] = "no"
    return Config(**values) if options.config_file is None else from_file(options.config_file, values)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def from_file(
    path: Path,
    flags: dict[str, str],
    make: Callable[..., AnyConfig] = Config,  # type: ignore[assignment]
    elsewhere: frozenset[str] = frozenset(),
) -> AnyConfig:
    """The settings in a file. Flags come before what it says, and are not written into it.

    Args:
        elsewhere: settings that are kept by others, and may not stand in it.

    Raises:
        ConfigError: it is wrong, or cannot be read.
    """
    file = WholeFile(path)
    try:
        given = settings_file.parse(file.read())
        foreign = sorted(elsewhere & given.keys())
        if foreign:
            raise ValueError(f"{foreign[0]} is kept by the group: change it there with CONFIG SET")
        config = make(**(given | flags))
    except OSError as why:
        raise titan.ConfigError(f"{path}: {why.strerror}") from None
    except ValueError as why:
        raise titan.ConfigError(f"{path}: {why}") from None
    before = config.all()

    def rewrite() -> None:
        own = {name: now for name, now in config.all().items() if name not in flags or now != before[name]}
        wanted = {name: value for name, value in own.items() if value != SETTINGS[name][0] and name not in elsewhere}
        file.write(settings_file.rewritten(file.read(), own, wanted))

    config.rewrite = rewrite
    return config


def first_line(path: Path) -> str:
    """The password in a file. ConfigError: there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as why:
        raise titan.ConfigError(f"{path}: {why.strerror}") from None
    if not lines or not lines[0]:
        raise titan.ConfigError(f"{path} has no password in its first line")
    return lines[0]


def _run(main: Coroutine[None, None, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(options: Options, config: Config, say: Callable[[str], None]) -> None:
    gc.set_threshold(100_000, 50, 1000)  # commands make no cycles, neither those of the log nor those of clients
    store = Store(options.directory, config)
    server = Server(store)
    store.engine.scripts.supervisor = Busy(server)
    try:
        port = await server.listen(options.hosts, options.port)
        if options.socket is not None:
            await server.listen_unix(options.socket)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, store.stopped.set)
        gc.collect()
        gc.freeze()  # what was loaded lives long; looking through it again and again would stall clients
        where = "memory" if options.memory_only else options.directory
        say(f"store in {where} serves on {written(options.hosts[0], port)}")
        await store.stopped.wait()
    finally:
        await server.close()
        await store.close()
