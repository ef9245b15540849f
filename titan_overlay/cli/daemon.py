"""From a data directory to a node: settings, addresses, budgets. Which pool it is in is `membership`'s business."""

import errno
import logging
import os
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from titan_overlay.ambient import Ambient
from titan_overlay.cli.membership import settle, trusted
from titan_overlay.config import NodeConfig
from titan_overlay.errors import ConfigError
from titan_overlay.identity.contacts import family, format_address
from titan_overlay.identity.grants import JoinLine
from titan_overlay.node import Node
from titan_overlay.overlay import udp
from titan_overlay.pool.finding.census import FACTS
from titan_overlay.pool.hosting.packing import installed_types
from titan_overlay.storage.database import SqliteDatabase
from titan_overlay.storage.directory import DataDirectory
from titan_overlay.storage.disk import RealDisk
from titan_overlay.values import parse_address, sockets

log = logging.getLogger("titan")

HAND_OVER_SHARE: Final = 0.8
"""Of the time to stop: for handing over and withdrawing. The rest is for closing sockets and files."""

PORTS_TRIED: Final = 100


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node that is ready to start, and what is closed after it."""

    node: Node
    seeds: tuple[JoinLine, ...]
    founding: bool
    """It has just founded its pool."""
    pinned: bool
    """The pool was known before this start (else: trust on first use, unless a join line names it)."""
    database: SqliteDatabase
    disk: RealDisk

    def close(self) -> None:
        """After the node has stopped."""
        self.database.close()
        self.disk.close()


async def prepare(config: NodeConfig, directory: DataDirectory, ambient: Ambient) -> Prepared:
    """The node of this directory, with its keys, its pool and its grants.

    Raises:
        ConfigError: as `membership.settle`, or a setting cannot be used. StorageError: a file cannot be used.
    """
    config = replace(config, advertise=_literal(config.advertise))
    _check_trust(config.trust)
    _mention_labels(config.labels)
    check_objects(config)
    lines = [JoinLine.parse(text) for text in config.bootstrap]
    database = SqliteDatabase(directory.database)
    try:
        member = await settle(config, directory, database, lines, ambient)
        config = replace(
            config,
            trust=trusted(config.trust, member.grants, member.rights, ambient.wall()),
            stop_timeout=HAND_OVER_SHARE * config.stop_timeout,
        )
        seeds = lines or [JoinLine(each.ip, each.port, node=each.id) for each in database.peers()]
        disk = RealDisk(directory.path)
        node = Node(
            member.key,
            member.rights,
            ambient,
            _dialable(config) if member.founder else config,
            database=database,
            disk=disk,
            founder=member.founder,
            owner=member.owner,
            grants=member.grants,
            cpu_seconds=_cpu_seconds,
        )
    except BaseException:
        database.close()
        raise
    return Prepared(node, tuple(seeds), member.founding, member.pinned, database, disk)


def _check_trust(named: Sequence[str]) -> None:
    """Raises ConfigError for what is no key. Before anything is founded: a wrong flag leaves no pool behind."""
    for text in named:
        if len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
            raise ConfigError(f"--trust {text}: a key has 64 hexadecimal digits; `titan id` shows it")


def _mention_labels(labels: Collection[str]) -> None:
    """Says which labels a census will not look at."""
    for name in sorted(FACTS.intersection(labels)):
        log.warning(
            "label %s: a census goes by the %s that nodes measure; only `requires` of a policy sees the label",
            name,
            name,
        )


def check_objects(config: NodeConfig) -> None:
    """Raises ConfigError for a `[[section]]` whose installed type cannot be set up from the settings file."""
    for name in config.objects:
        if not hasattr(installed_types()[name].load(), "from_config"):
            raise ConfigError(f"[[{name}]]: this type has no from_config; publish it: titan publish {name}")


def _cpu_seconds() -> float:
    """Of this process, and of those that it started: workers compute for the objects of others as well."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + running_children_seconds()


def running_children_seconds() -> float:
    """CPU of child processes that still run. 0 where the system does not tell: there they count when they end."""
    ticks = 0
    with suppress(OSError):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
            with suppress(OSError, ValueError):  # it has ended meanwhile
                # After the name in brackets; the times of itself and of its own children (proc(5), fields 14 to 17).
                stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
                ticks += sum(map(int, stat.split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- addresses -------------------------------------------------------------------------------------------------


def choose_port(config: NodeConfig, *, named: bool) -> NodeConfig:
    """The settings with a port that is free for UDP and TCP, on addresses that this machine has.

    Args:
        named: the operator named the port; then no other will do.

    Raises:
        ConfigError: it is taken, or an address is not this machine's.
    """
    hosts, port = sockets(config.listen)
    hosts = udp.here(hosts)
    listen = ", ".join(_addresses(hosts, port))
    if not hosts:
        raise ConfigError(f"this machine has none of {', '.join(config.listen)}; name another with --listen HOST:PORT")
    for candidate in range(port, min(port + (1 if named or port == 0 else PORTS_TRIED), 65536)):
        problems = [problem for host in hosts if (problem := _taken(host, candidate)) is not None]
        if not problems:
            return replace(config, listen=_addresses(hosts, candidate))
        if problems[0].errno != errno.EADDRINUSE:
            raise ConfigError(
                f"cannot listen on {listen}: {problems[0].strerror}; name another with --listen HOST:PORT"
            )
    raise ConfigError(f"cannot listen on {listen}: it is in use; name another port with --listen HOST:PORT")


def names_port(listen: Sequence[str]) -> bool:
    """Whether addresses say which port ("host" alone leaves it open)."""
    return any(parse_address(each, 1) == parse_address(each, 2) for each in listen)


def _taken(host: str, port: int) -> OSError | None:
    """Why an address cannot be listened on, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as trial:
            if kind == socket.SOCK_STREAM:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                trial.bind((host, port))
            except OSError as why:
                return why
    return None


def _dialable(config: NodeConfig) -> NodeConfig:
    """A founder has nobody to tell it how it looks from outside: it says the addresses that its packets leave by."""
    hosts, port = sockets(config.listen)
    if config.advertise or port == 0:
        return config
    ways = [udp.outgoing_ip(family(host)) for host in hosts if host in udp.EVERYWHERE]
    return replace(config, advertise=_addresses(ways, port))


def _literal(advertise: Sequence[str]) -> tuple[str, ...]:
    """The addresses to advertise, with their names looked up: others are told numbers.

    Raises:
        ConfigError: nobody could dial one.
    """
    found = []
    for text in advertise:
        host, port = parse_address(text)
        if host in udp.EVERYWHERE or port == 0:
            raise ConfigError(f"--advertise {text}: others need one address and a port to dial")
        try:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as why:
            reason = getattr(why, "strerror", None) or "no such name"
            raise ConfigError(f"--advertise {text}: {reason}; name an address that others can dial") from None
        four = [each for each in known if each[0] == socket.AF_INET]
        found.append(format_address((str((four or known)[0][4][0]), port)))
    return tuple(found)


def _addresses(hosts: Sequence[str], port: int) -> tuple[str, ...]:
    return tuple(format_address((host, port)) for host in hosts)


def local_line(node: Node) -> JoinLine:
    """How programs on this machine reach this node: where it listens, whatever it advertises."""
    bound = node.overlay.whereabouts.bound
    ip, port = bound[min(bound)]
    return JoinLine(ip, port, node.overlay.pool, node.key.id)


def join_line(node: Node) -> JoinLine:
    """How others reach this node."""
    contact = node.overlay.contact
    return JoinLine(contact.ip, contact.port, node.overlay.pool, contact.id)
