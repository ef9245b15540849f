"""Applications: a program of this machine that answers requests, given a name in the pool.

The program is started here and spoken to over its standard input and output, or it runs already and listens on a TCP
port. Requests go one at a time.
"""

import asyncio
import signal
from contextlib import suppress

import titan_overlay as titan
from titan_objects.device import processes
from titan_objects.device.sensor import POLICY
from titan_objects.device.tables import ApplicationTable

RESTART_SECONDS_MAX = 60.0
STEADY_SECONDS = 60.0
"""A program that lasts this long is well again: the pause before its next restart is the first one."""

STOP_SECONDS = 2.0
"""What a program is given to end by itself once its input ends."""


@titan.service(policy=POLICY, concurrency=1, mailbox=64)
class Application:
    """Takes `bytes` or `str`, and answers with what the program says."""

    def __init__(self, table: ApplicationTable) -> None:
        self._table = table
        self._channel: _Channel | None = None
        self._ready = asyncio.Event()
        self._why = "it has not been started yet"
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self, ctx: titan.Context) -> None:
        """Starts the program, and starts it again whenever it ends."""
        if self._table.run:
            self._supervisor = asyncio.create_task(self._supervise(ctx))

    async def stop(self) -> None:
        """Ends the program."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._table.connect:
            self._hang_up()

    async def bytes_(self, request: bytes, ctx: titan.Context) -> bytes:
        """One request, one reply."""
        return await self._ask(request, ctx)

    async def text(self, request: str, ctx: titan.Context) -> str:
        """As with bytes, in UTF-8."""
        return processes.text_of(await self._ask(request.encode(), ctx))

    async def _ask(self, request: bytes, ctx: titan.Context) -> bytes:
        processes.allowed(self._table.senders, ctx)
        if self._table.framing == "line" and b"\n" in request:
            raise titan.BadMessage(f"{self._table.name!r} takes one line at a time")
        sent = False
        try:
            async with asyncio.timeout(min(self._table.timeout, ctx.remaining)):
                channel = await self._open_channel()
                sent = True
                return await channel.ask(request, self._table)
        except (TimeoutError, asyncio.CancelledError) as why:
            # The reply may still come, and would answer the next request: this conversation is over.
            self._hang_up()
            if isinstance(why, asyncio.CancelledError):
                raise
            reason = f"no answer within {self._table.timeout:g} s" if sent else self._why
            raise titan.Unavailable(f"{self._table.name!r}: {reason}", maybe_executed=sent) from None
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as why:
            self._hang_up()
            raise titan.Unavailable(f"{self._table.name!r}: {_reason(why)}", maybe_executed=sent) from None
        finally:
            if self._table.framing == "connection":
                self._hang_up()

    async def _open_channel(self) -> "_Channel":
        if self._table.run:
            await self._ready.wait()
        elif self._channel is None:
            host, _, port = self._table.connect.rpartition(":")
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), limit=self._table.reply_bytes_max + 1
            )
            self._channel = _Channel(reader, writer)
        assert self._channel is not None
        return self._channel

    def _hang_up(self) -> None:
        """Ends the conversation; a program that is ours is ended with it, and started again."""
        if self._channel is not None:
            self._channel.close()
        self._channel = None
        self._ready.clear()

    # ---- a program of our own ----------------------------------------------------------------------------------

    async def _supervise(self, ctx: titan.Context) -> None:
        loop = asyncio.get_running_loop()
        pause = self._table.restart_after
        while True:
            started = loop.time()
            try:
                self._why = f"it ended with {await self._run_once(ctx)}"
            except titan.Unavailable as why:
                self._why = str(why)
            if loop.time() - started >= STEADY_SECONDS:
                pause = self._table.restart_after
            ctx.log.warning("%s: %s; starting it again in %g s", self._table.run[0], self._why, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_SECONDS_MAX)

    async def _run_once(self, ctx: titan.Context) -> str:
        """Runs the program until it ends, or its conversation has to; says how it ended."""
        table = self._table
        process = await processes.start(
            table.run, directory=table.directory, talks=True, limit=table.reply_bytes_max + 1
        )
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        channel = _Channel(process.stdout, process.stdin)
        chatter = asyncio.create_task(_log_lines(process.stderr, ctx))
        try:
            self._channel = channel
            self._ready.set()
            over = asyncio.create_task(channel.closed.wait())
            ended = asyncio.create_task(process.wait())
            await asyncio.wait([over, ended], return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if not ended.done():
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended, STOP_SECONDS)
            return _described(process.returncode)
        finally:
            self._hang_up()
            await asyncio.shield(processes.end(process))
            chatter.cancel()


class _Channel:
    """One conversation: requests out, replies in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.closed = asyncio.Event()

    async def ask(self, request: bytes, table: ApplicationTable) -> bytes:
        """Raises OSError, EOFError, ValueError or LimitOverrunError where the conversation broke."""
        if self._writer.is_closing():  # uvloop raises something else at each write from now on
            raise EOFError
        if table.framing == "line":
            self._writer.write(request + b"\n")
            await self._writer.drain()
            return (await self._reader.readuntil(b"\n"))[:-1].removesuffix(b"\r")
        if table.framing == "length":
            self._writer.write(len(request).to_bytes(4, "big") + request)
            await self._writer.drain()
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            if size > table.reply_bytes_max:
                raise ValueError(f"a reply of {size} bytes; reply_bytes_max is {table.reply_bytes_max}")
            return await self._reader.readexactly(size)
        self._writer.write(request)
        self._writer.write_eof()
        await self._writer.drain()
        reply = bytearray()
        while piece := await self._reader.read(1 << 16):
            reply += piece
            if len(reply) > table.reply_bytes_max:
                raise ValueError(f"a reply of more than {table.reply_bytes_max} bytes (reply_bytes_max)")
        return bytes(reply)

    def close(self) -> None:
        self._writer.close()
        self.closed.set()


async def _log_lines(reader: asyncio.StreamReader, ctx: titan.Context) -> None:
    """What the program says on standard error goes to the node's log, in pieces of bounded length."""
    while piece := await reader.read(4096):
        for line in processes.text_of(piece).splitlines():
            ctx.log.info("says: %s", line[:500])


def _described(status: int | None) -> str:
    if status is None:
        return "a conversation that broke"
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


def _reason(why: Exception) -> str:
    if isinstance(why, asyncio.LimitOverrunError):
        return "the reply is longer than reply_bytes_max"
    if isinstance(why, EOFError):
        return "it ended before it had answered"
    return (why.strerror if isinstance(why, OSError) else None) or str(why) or type(why).__name__
