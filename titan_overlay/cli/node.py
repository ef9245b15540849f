"""`titan-node`: runs one node until it is told to leave."""

import argparse
import asyncio
import errno
import functools
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from titan_overlay.cli import event_loop, logs, outcome
from titan_overlay.cli.notify import sd_notify
from titan_overlay.version import VERSION

if TYPE_CHECKING:
    from titan_overlay.cli.daemon import Prepared
    from titan_overlay.cli.plugins import NodeDoor
    from titan_overlay.commands import Serving
    from titan_overlay.config import NodeConfig, Resolved
    from titan_overlay.node import Node
    from titan_overlay.storage.directory import DataDirectory

log = logging.getLogger("titan")

EXTEND_SECONDS = 30.0
"""Joining may wait for a network: the service manager is asked this often for patience."""

OPEN_FILES = 8192

STRAGGLER_SECONDS = 0.5

PORT_RACES = 5
"""Times that a port which was free may be taken by somebody quicker."""

FLAGS = (
    ("--bootstrap", "HOST:PORT", "append", "node to join through, or a join line; may be repeated. None: found a pool"),
    ("--listen", "HOST:PORT", "append", "address for UDP and TCP, of IPv4 or IPv6; both: twice [all, port 4747]"),
    ("--advertise", "HOST:PORT", "append", "address that others dial; of each family one"),
    ("--data", "DIR", "store", "directory with the node's key and replicas"),
    ("--trust", "KEY", "append", "run code that this key signed; may be repeated"),
    ("--label", "K=V", "append", "what this machine offers, such as region=eu; may be repeated"),
    ("--max-bytes", "SIZE", "store", "room for replicas of others [1GiB]"),
    ("--max-cpu", "CORES", "store", "cores for the objects of others [0.5]"),
    ("--max-upload", "RATE", "store", "bytes per second to send [1 MB/s]"),
    ("--puzzle-bits", "N", "store", "founding a pool: an id costs about 2^N keys [8]"),
    ("--config", "FILE", "store", "settings file [config.toml in the data directory]"),
    ("--log-level", "LEVEL", "store", "debug, info, warning or error"),
)
SWITCHES = (
    ("--private", "founding a pool: only keys with a grant may join it"),
    ("--no-host", "route only; hold no replica for anybody"),
    ("--no-fsync", "for simulations alone: a power failure loses what mutable objects have answered"),
    ("--json-logs", "one JSON object for each line of the log"),
)


def parser(doors: "Sequence[NodeDoor]" = ()) -> argparse.ArgumentParser:
    """The command line. argparse, unlike what `titan` uses, costs a process that runs for months no memory."""
    made = argparse.ArgumentParser(
        prog="titan-node",
        description="Run a node of a Titan Overlay pool. Without --bootstrap it founds a pool, and prints the line "
        "that others join with. Every setting can also come from TITAN_... variables or the settings file: "
        "titan config show --origin.",
        allow_abbrev=False,
        # To ask for the terminal's width, argparse loads half a megabyte of modules, whether it shows help or not.
        formatter_class=functools.partial(argparse.HelpFormatter, width=100),
    )
    made.add_argument("--version", action="version", version=f"titan-node {VERSION}")
    for flag, metavar, action, text in FLAGS:
        made.add_argument(flag, metavar=metavar, action=action, help=text)
    for flag, text in SWITCHES:
        made.add_argument(flag, action="store_true", default=None, help=text)
    for door in doors:
        for flag, (metavar, text) in door.flags.items():
            made.add_argument(flag, metavar=metavar, dest=flag, help=text)
    return made


def parse(words: Sequence[str]) -> "tuple[dict[str, Any], list[Serving]]":
    """Settings that were given as flags, and what flags of other wheels ask to serve.

    Raises:
        ConfigError: one of these makes no sense.
    """
    own = {flag for flag, *_ in (*FLAGS, *SWITCHES)} | {"--version"}
    if all(word.partition("=")[0] in own for word in words if word.startswith("-")):
        return vars(parser().parse_args(words)), []
    from titan_overlay.cli import plugins  # most nodes have no such flags, and need not load it

    doors = plugins.node_doors()
    flags = vars(parser(doors).parse_args(words))
    chosen = list(plugins.chosen(doors, flags))
    return {key: value for key, value in flags.items() if not key.startswith("-")}, chosen


def main() -> None:
    """Entry point."""
    outcome.run(_run, program="titan-node")


def _run() -> None:
    from titan_overlay.cli.loading import load_settings
    from titan_overlay.storage.directory import DataDirectory

    flags, doors = parse(sys.argv[1:])
    flags["labels"] = flags.pop("label")
    file = flags.pop("config")
    resolved = load_settings(flags, Path(file) if file else None)
    logs.set_up(resolved.config.log_level, json=resolved.config.json_logs)
    _allow_open_files()
    fast = event_loop.create if doors else None  # an idle node does without: its memory is a promise
    with DataDirectory(resolved.config.data) as directory, asyncio.Runner(loop_factory=fast) as runner:
        runner.run(_serve(resolved, directory, doors))


def _allow_open_files() -> None:
    """As many as the system allows: a link costs one, and strangers may open a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(resolved: "Resolved", directory: "DataDirectory", doors: "Sequence[Serving]") -> None:
    from titan_overlay.cli.daemon import choose_port, names_port
    from titan_overlay.errors import ConfigError
    from titan_overlay.values import sockets

    named = resolved.origins["listen"] != "default" and names_port(resolved.config.listen)
    told = _on_signals()
    for tries_left in reversed(range(PORT_RACES)):
        config = choose_port(resolved.config, named=named)
        wanted = sockets(resolved.config.listen)[1]
        if sockets(config.listen)[1] != wanted and not named:
            log.info("port %d is in use; listening on %s", wanted, ", ".join(config.listen))
        directory.write_settings(replace(resolved, config=config))
        prepared = await _prepared(config, directory, told)
        if prepared is None:
            return
        try:
            await _live(prepared, directory, told, config.stop_timeout, doors)
            break
        except _CannotListenError as why:
            if named or not tries_left or why.number != errno.EADDRINUSE:
                raise ConfigError(
                    f"cannot listen on {', '.join(config.listen)}: {why}; name another with --listen HOST:PORT"
                ) from None
        finally:
            prepared.close()
    await _leave_stragglers(directory)


async def _prepared(
    config: "NodeConfig", directory: "DataDirectory", told: "asyncio.Future[None]"
) -> "Prepared | None":
    """The node, or None where a signal came first: a new one waits for the rules of its pool, and works for its key."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.cli.daemon import prepare

    preparing: asyncio.Task[Prepared] = asyncio.create_task(prepare(config, directory, Ambient.system()))
    patience = asyncio.create_task(_ask_for_patience())
    try:
        first: list[asyncio.Future[Any]] = [preparing, told]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    finally:
        patience.cancel()
    if preparing.done():
        return await preparing
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    return None


async def _leave_stragglers(directory: "DataDirectory") -> None:
    """A handler that minds no cancellation would keep the process for ever: all that counts is done, so it ends."""
    stragglers = asyncio.all_tasks() - {asyncio.current_task()}
    for task in stragglers:
        task.cancel()
    if stragglers and (await asyncio.wait(stragglers, timeout=STRAGGLER_SECONDS))[1]:
        log.warning("a handler does not end; ending without it")
        directory.close()
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)


class _CannotListenError(Exception):
    """The sockets could not be opened. Another node may have been quicker to take the port that was free."""

    def __init__(self, why: OSError) -> None:
        super().__init__(why.strerror or str(why))
        self.number = why.errno


async def _live(
    prepared: "Prepared",
    directory: "DataDirectory",
    told: "asyncio.Future[None]",
    stop_seconds: float,
    doors: "Sequence[Serving]",
) -> None:
    """Starts the node, waits for a signal or for `titan node leave`, and stops it.

    Raises:
        _CannotListenError: the port is taken.
    """
    node = prepared.node
    starting = asyncio.create_task(_start(prepared, directory))
    open_doors = AsyncExitStack()
    try:
        await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            try:
                await starting
            except OSError as why:
                raise _CannotListenError(why) from None
            for each in doors:
                log.info("%s", await open_doors.enter_async_context(each(node.pool)))
            gc.collect()
            gc.freeze()  # what was loaded lives long: to look through it again and again takes 30 ms each time
            leaving = asyncio.create_task(node.stopped())
            await asyncio.wait([leaving, told], return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
        log.info("leaving: handing over and withdrawing")
        _notify("STOPPING=1")
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await open_doors.aclose()
        await _stop(node, stop_seconds)
    log.info("left")


async def _start(prepared: "Prepared", directory: "DataDirectory") -> None:
    from titan_overlay.cli.daemon import join_line, local_line
    from titan_overlay.identity.contacts import format_address

    node = prepared.node
    patience = asyncio.create_task(_ask_for_patience())
    try:
        await node.start(prepared.seeds)
    finally:
        patience.cancel()
    directory.write_address(local_line(node))
    pool = node.overlay.pool.hex()
    if prepared.founding:
        log.info("founded pool %s; keep a copy of its key off line: titan pool key --save FILE", pool[:12])
    elif not prepared.pinned:
        sure = any(seed.pool for seed in prepared.seeds)
        log.info("joined pool %s%s", pool[:12], "" if sure else " (trust on first use: from now on only this pool)")
    state = "is client only: nobody can join through it, so there is no join line"
    if node.overlay.serving:
        state = f"serves on {' and '.join(map(format_address, node.overlay.contact.addresses))}"
    log.info("node %s %s", node.key.id.hex()[:12], state)
    if node.overlay.serving:  # alone on standard output, so that a script can take it
        print(join_line(node), flush=True)
    _notify(f"READY=1\nSTATUS=pool {pool[:12]}, {state}")


async def _ask_for_patience() -> None:
    while True:
        _notify(f"EXTEND_TIMEOUT_USEC={int(3 * EXTEND_SECONDS * 1e6)}\nSTATUS=joining")
        await asyncio.sleep(EXTEND_SECONDS)


async def _stop(node: "Node", stop_seconds: float) -> None:
    try:
        async with asyncio.timeout(stop_seconds):
            await node.stop()
    except TimeoutError:
        log.warning("not everything was closed in time")


def _on_signals() -> "asyncio.Future[None]":
    """Done at the first SIGTERM or SIGINT; the second one acts as if nobody listened."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if not told.done():
            told.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return told


def _notify(state: str) -> None:
    sd_notify(state, os.environ)
