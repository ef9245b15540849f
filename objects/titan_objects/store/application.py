"""A store as an object of a pool: bound to its node, asked with the words of a command.

    [[store]]
    name = "store/main"
    dir = "/var/lib/titan/store"
    redis = "127.0.0.1:6379"

Then `await pool.send("store/main", ["SET", "k", "v"])`, from any node, and redis-cli on that machine.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

import titan_overlay as titan
from titan_objects.store.config import Config
from titan_objects.store.hearing import Subscribe as Subscribe
from titan_objects.store.host import Store
from titan_objects.store.programs import words_of
from titan_objects.store.resp import CommandError, decode_all
from titan_objects.store.server import Server

POLICY = titan.Policy(min_copies=1, max_copies=1, bound=True, hosts="anyone")
"""One node has it: what is acknowledged is on that node's disk."""

WAITING_MAX = 4096
"""Messages that a subscriber of the pool may be behind; one that is further behind is let go."""


class StoreTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator writes under `[[store]]`."""

    name: str
    kind: Literal["node"] = "node"
    """One node has it alone."""
    dir: str = ""
    """Where its log lies; empty: it keeps nothing on disk."""
    redis: str = ""
    """HOST:PORT at which Redis clients are served; empty: none are."""
    senders: list[str] = []
    """Who may use it: fingerprints of keys (`titan id`), or `*` for anyone. Nobody else is answered."""
    settings: dict[str, str] = {}
    """What CONFIG GET shows, by its name."""


@titan.service(policy=POLICY, concurrency=256, mailbox=1024)
class StoreObject:
    """Takes the words of a command, and answers as Redis would."""

    def __init__(self, table: StoreTable) -> None:
        self._table = table
        try:
            self._config = Config(**{**table.settings, **({} if table.dir else {"appendonly": "no"})})
        except (CommandError, ValueError) as why:
            raise titan.ConfigError(f"store {table.name!r}: {why}") from None
        self._store: Store | None = None
        self._server: Server | None = None

    @classmethod
    def from_config(cls, table: Mapping[str, Any]) -> "StoreObject":
        """The store that a table describes. Raises ConfigError."""
        try:
            found = msgspec.convert(table, StoreTable)
        except msgspec.ValidationError as why:
            raise titan.ConfigError(f"store {table.get('name')!r}: {why}") from None
        directory = Path(found.dir)
        if found.dir and not directory.is_absolute():
            raise titan.ConfigError(
                f"store {found.name!r}: dir takes a path from the root on, such as {str(directory.absolute())!r}: "
                f"{found.dir!r} would count from wherever the node is started"
            )
        return cls(found)

    async def start(self, ctx: titan.Context) -> None:
        """Loads the log, and opens the door for Redis clients."""
        self._store = Store(Path(self._table.dir) if self._table.dir else None, self._config)
        ctx.log.info(
            "kept in %s", self._table.dir or "memory alone: it is lost when the node ends; dir names a directory"
        )
        if self._table.redis:
            host, _, port = self._table.redis.rpartition(":")
            if not host or not port.isdigit():
                raise titan.ConfigError(f"store {self._table.name!r}: redis takes HOST:PORT, not {self._table.redis!r}")
            self._server = Server(self._store)
            await self._server.listen([host.strip("[]")], int(port))
            ctx.log.info("Redis clients are served on %s", self._table.redis)

    async def stop(self) -> None:
        """Writes out, and lets clients go."""
        if self._server is not None:
            await self._server.close()
        if self._store is not None:
            await self._store.close()

    async def command(self, words: list[Any], ctx: titan.Context) -> Any:
        """Executes one command; strings of the reply are bytes. A command that waits does so until the deadline."""
        store = self._opened(ctx)
        args = words_of(words)
        try:
            async with asyncio.timeout(ctx.remaining):
                return await store.execute(args)
        except CommandError as why:
            raise titan.BadMessage(str(why)) from None
        except TimeoutError:
            raise titan.DeadlineExceeded(f"{words[0]!r} was still waiting at the deadline") from None

    async def subscribe(self, message: Subscribe, ctx: titan.Context) -> AsyncIterator[list[bytes]]:
        """A stream of what is published to channels of the store."""
        store = self._opened(ctx)
        if not message.channels:
            raise titan.BadMessage("no channels to listen to")
        listener = _Listener()
        session = store.let_in(listener, f"pool/{ctx.sender.id.hex()[:12]}:0")
        try:
            store.run(session, [[b"SUBSCRIBE", *(name.encode() for name in message.channels)]])
            while True:
                item = await listener.heard.get()
                if item is None:
                    raise titan.Unavailable("the listener was too slow, or the store has ended")
                yield item
        finally:
            store.disconnect(session)

    def _opened(self, ctx: titan.Context) -> Store:
        who = ctx.sender.id.hex()[:32]
        if "*" not in self._table.senders and all(who != known.removeprefix("~") for known in self._table.senders):
            raise titan.Forbidden(
                f"{ctx.name!r} takes no messages from key {who}; its operator lists who may: senders = [...]"
            )
        if self._store is None:
            raise titan.Unavailable(f"{self._table.name!r} is not open yet")
        return self._store


class _Listener:
    """The sink of one subscriber of the pool; bounded."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[list[bytes] | None] = asyncio.Queue()

    full = False

    def send(self, data: bytes) -> None:
        for value in decode_all(data):
            if isinstance(value, list) and value[0] == b"message":
                self.heard.put_nowait(value[1:])
        if self.heard.qsize() > WAITING_MAX:
            self.close()

    def unanswered(self) -> None:
        """It listens on."""

    def close(self) -> None:
        while not self.heard.empty():
            self.heard.get_nowait()
        self.heard.put_nowait(None)
