"""A TCP gateway to a cache, for programs that speak the Raft cache's protocol. Any node, or any program, can open one.

What came together on a connection is worked off together: SETs that follow one another take one place in the group's
order, GETs one question. Nothing more is read meanwhile, so a client that sends faster than the group works waits in
its own socket. GETs see all SETs that were answered before, through whichever gateway.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby

import titan_overlay as titan
from titan_objects.cache import Get, Set
from titan_objects.cache.wire import BadFrame, Command, Decoder, GetCommand, JoinCommand, SetCommand, Status, get_reply
from titan_objects.doors import door, drain, receive

log = logging.getLogger("titan")

PORT = 4780
CONNECTIONS_MAX = 256
TOGETHER_MAX = 512
"""Commands that are sent to the group as one."""
TOGETHER_BYTES = 512 << 10
ANSWER_SECONDS = 10.0
JOIN_SECONDS = 60.0


class Gateway:
    """See the module.

    Args:
        name: of the cache.
    """

    def __init__(self, pool: titan.Pool, name: str) -> None:
        self._pool = pool
        self._name = name

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        decoder = Decoder()
        while data := await receive(reader):
            for kind, run in groupby(decoder.feed(data), type):
                if kind is BadFrame:
                    writer.write(bytes((Status.ERROR,)))
                    log.debug("a client of %s: %s", self._name, next(run))
                    return
                for together in _portions([each for each in run if not isinstance(each, BadFrame)]):
                    writer.writelines(await self._answer(together))
                    await drain(writer)

    async def _answer(self, commands: Sequence[Command]) -> list[bytes]:
        """The replies to commands of one kind, in their order."""
        try:
            match commands[0]:
                case SetCommand():
                    return await self._set([each for each in commands if isinstance(each, SetCommand)])
                case GetCommand():
                    return await self._get([each for each in commands if isinstance(each, GetCommand)])
                case JoinCommand():
                    return [await self._join(each) for each in commands if isinstance(each, JoinCommand)]
        except titan.TitanError as why:
            log.warning("%s does not answer: %s", self._name, why)
        failed = get_reply(Status.ERROR) if isinstance(commands[0], GetCommand) else bytes((Status.ERROR,))
        return [failed] * len(commands)

    async def _set(self, commands: Sequence[SetCommand]) -> list[bytes]:
        messages = [Set(each.key, each.value, each.ttl) for each in commands]
        kept = await self._pool.send_batch(self._name, messages, timeout=ANSWER_SECONDS)
        return [bytes((Status.OK if each is True else Status.ERROR,)) for each in kept]

    async def _get(self, commands: Sequence[GetCommand]) -> list[bytes]:
        asked = (self._pool.read(self._name, Get(each.key), timeout=ANSWER_SECONDS) for each in commands)
        values = await asyncio.gather(*asked)
        return [get_reply(Status.KEY_NOT_FOUND) if value is None else get_reply(Status.OK, value) for value in values]

    async def _join(self, command: JoinCommand) -> bytes:
        node = await self._node(command.id.decode(errors="replace"), command.address.decode(errors="replace"))
        await self._pool.add_member(self._name, node, timeout=JOIN_SECONDS)
        return bytes((Status.OK,))

    async def _node(self, named: str, address: str) -> str:
        """The node that a JOIN means: by its id in the pool, or by the address at which it serves the pool."""
        inner = named.removeprefix("node:")
        if len(inner) == 64 and not set(inner) - set("0123456789abcdef"):
            return f"node:{inner}"
        found = next((each for each in await self._pool.census() if each.address == address), None)
        if found is None:
            raise titan.NotFound(f"{named!r} at {address!r} is no node of this pool")
        return f"node:{found.id}"


def _portions(commands: Sequence[Command]) -> list[list[Command]]:
    """As many together as the group takes at once."""
    portions: list[list[Command]] = []
    size = TOGETHER_BYTES
    for each in commands:
        if size >= TOGETHER_BYTES or len(portions[-1]) >= TOGETHER_MAX:
            portions.append([])
            size = 0
        portions[-1].append(each)
        size += len(each.value) if isinstance(each, SetCommand) else 0
    return portions


@asynccontextmanager
async def gateway(
    pool: titan.Pool, name: str, host: str = "127.0.0.1", port: int = PORT
) -> AsyncIterator[tuple[str, int]]:
    """Serves a cache on an address until left; gives the address (port 0: any that is free).

    Raises:
        ConfigError: the address cannot be listened on.
    """
    async with door(
        Gateway(pool, name).converse, name, host, port, most=CONNECTIONS_MAX, full=bytes((Status.ERROR,))
    ) as bound:
        yield bound
