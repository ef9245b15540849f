"""The door for Redis clients: a TCP (or Unix) socket that speaks RESP."""

import asyncio
import ipaddress
from contextlib import suppress
from pathlib import Path
from typing import Any

import titan_overlay as titan
from titan_objects.store.connection import Connection, Served, kind_of
from titan_objects.store.parser import make_reader
from titan_objects.store.redaction import redacted
from titan_objects.store.session import Session
from titan_objects.store.stats import WORDS_MAX, shortened
from titan_objects.store.system import monotonic
from titan_objects.store.table import Args

SAMPLE_SECONDS = 0.1
"""So often it is looked how much was done meanwhile, for what INFO says of a second."""

_DENIED = (
    b"-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the "
    b"default user: connections are only accepted from the loopback interface. Set one (--password-file, or CONFIG "
    b"SET requirepass from this machine), or bind to loopback only.\r\n"
)


class Server:
    """Listens, and lets in whom it should.

    Args:
        store: what its clients see.
    """

    def __init__(self, store: Served) -> None:
        self.store = store
        self.connections: set[Connection] = set()
        self._servers: list[asyncio.AbstractServer] = []
        self._paths: dict[Path, int] = {}
        """Of Unix sockets, and their inodes: by then another server's may be there."""
        self.query_max = 0
        self.noted_seconds: float | None = None
        self._slow_micros = self._latency_ms = 0
        self.output_limits: dict[str, tuple[int, int, int]] = {}
        self._idle_timer: asyncio.TimerHandle | None = None
        self._sampling: asyncio.TimerHandle | None = None
        store.config.watch(self._on_config)
        self._on_config()

    async def listen(self, hosts: list[str], port: int) -> int:
        """Opens a TCP port (0: any free one); returns it.

        Raises:
            ConfigError: it cannot be opened.
        """
        make_reader()  # says at once what is missing
        loop = asyncio.get_running_loop()
        if self._sampling is None:
            self._sample()
        for host in hosts:
            try:
                server: Any = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
            except OSError as why:
                raise titan.ConfigError(f"cannot listen on {host}:{port}: {why.strerror or why}") from None
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]
        return port

    @property
    def sockets(self) -> list[Any]:
        """That it listens on."""
        return [each for server in self._servers for each in server.sockets]  # type: ignore[attr-defined]

    async def listen_unix(self, path: Path) -> None:
        """Opens a Unix socket. Raises ConfigError: it cannot be opened."""
        loop = asyncio.get_running_loop()
        try:
            self._servers.append(await loop.create_unix_server(lambda: Connection(self), str(path)))
            self._paths[path] = _made_socket(path, int(self.store.config.get("unixsocketperm"), 8))
        except OSError as why:
            raise titan.ConfigError(f"cannot listen on {path}: {why.strerror or why}") from None

    def refusal(self, peer: object) -> bytes:
        """Why a new client is sent away, as a reply; empty: it is not."""
        store = self.store
        if len(self.connections) >= int(store.config.get("maxclients")):
            store.engine.stats.rejected += 1
            return b"-ERR max number of clients reached\r\n"
        default = store.engine.acl.default
        if store.config.get("protected-mode") == "yes" and default.nopass and not _is_local(peer):
            store.engine.stats.rejected += 1
            return _DENIED
        return b""

    def note_slow(self, session: Session, commands: list[Args], micros: int) -> None:
        """A turn took long. Of a pipeline the first command is shown, and how many came with it."""
        now = self.store.now() // 1000
        if 0 < self._latency_ms <= micros // 1000:
            self.store.engine.stats.latency.note("command", now, micros // 1000)
        if not 0 <= self._slow_micros <= micros:
            return
        more = len(commands) - 1
        words = shortened(redacted(commands[0]), WORDS_MAX - 1 if more else WORDS_MAX)
        if more:
            words.append(b"(and %d more commands in one pipeline)" % more)
        most = int(self.store.config.get("slowlog-max-len"))
        self.store.engine.stats.slow.note(words, micros, now, session.address, session.name, most)

    def let_idle_go(self) -> None:
        """Closes what was silent for `timeout` seconds, and looks again in a second. Who waits or listens may be so."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        seconds = int(self.store.config.get("timeout"))
        if not seconds:
            return
        since = self.store.now() - seconds * 1000
        for connection in list(self.connections):
            session = connection.session
            if session.last_ms < since and not session.waits and kind_of(self.store.engine, session) == "normal":
                connection.close()
        self._idle_timer = asyncio.get_running_loop().call_later(1, self.let_idle_go)

    def _sample(self) -> None:
        engine = self.store.engine
        engine.stats.sample(monotonic(), engine.usages.calls)
        self._sampling = asyncio.get_running_loop().call_later(SAMPLE_SECONDS, self._sample)

    async def close(self) -> None:
        """Stops listening, and lets everybody go."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self.store.config.unwatch(self._on_config)
        if self._sampling is not None:
            self._sampling.cancel()
        for server in self._servers:
            server.close()
        for path, inode in self._paths.items():
            _remove_socket(path, inode)
        for connection in list(self.connections):
            connection.close()
        for server in self._servers:
            await server.wait_closed()

    def _on_config(self) -> None:
        config = self.store.config
        self.query_max = int(config.get("client-query-buffer-limit"))
        self._slow_micros = int(config.get("slowlog-log-slower-than"))
        self._latency_ms = int(config.get("latency-monitor-threshold"))
        limits = [self._slow_micros / 1e6] if self._slow_micros >= 0 else []
        limits += [self._latency_ms / 1e3] if self._latency_ms else []
        self.noted_seconds = min(limits, default=None)
        self.output_limits = config.output_limits()
        self.let_idle_go()


def _made_socket(path: Path, mode: int) -> int:
    """Its inode. `mode`: who may use it; 0: as the system had it made."""
    if mode:
        path.chmod(mode)
    return path.stat().st_ino


def _remove_socket(path: Path, inode: int) -> None:
    with suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def _is_local(peer: object) -> bool:
    if not isinstance(peer, tuple):
        return peer is not None  # a Unix socket; None: it has hung up already, and nobody knows who it was
    try:
        return ipaddress.ip_address(str(peer[0])).is_loopback
    except ValueError:
        return False
