"""While a script runs long, others hear that the store is busy, and may end it.

The loop does not turn meanwhile: a script is one command. So the sockets of clients are looked at from here, which the
script calls now and then; who connects is let in, and handed to the loop when the script has ended.
"""

import asyncio
import logging
import os
import select
import socket
from typing import Any

from titan_objects.store.connection import Connection
from titan_objects.store.lua.running import Running
from titan_objects.store.server import Server
from titan_objects.store.session import Session
from titan_objects.store.system import monotonic

_LOG = logging.getLogger("titan_objects.store")

LOOK_SECONDS = 0.01
"""Between two looks at the sockets."""

READ_BYTES = 64 << 10
LET_IN_MAX = 64
"""Newcomers in one look."""


class Busy:
    """Looks after the clients of a server of this machine.

    Args:
        server: that server, which listens already.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._begun = self._at = 0.0
        self._caller: Session | None = None
        """Whose script it is: what that client sends next is answered after it."""
        self._let_in: dict[Connection, socket.socket] = {}
        self._handing_over: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """A script begins. Who waits is told so when it has run for `lua-time-limit` milliseconds."""
        self._begun = monotonic()
        self._caller = self._server.store.engine.session
        self._at = self._begun + int(self._server.store.config.get("lua-time-limit")) / 1000

    def look(self) -> None:
        """Serves others, if it is time to. Ends the process, if one of them has given up the store."""
        if monotonic() >= self._at:
            self._serve()
            if self._running is not None and self._running.dropped:
                # What the script has written is in memory, and others may have been told of it in this turn of the
                # loop: nothing of that is to go out, or to the log. What was acknowledged before is in the log.
                _LOG.warning("SHUTDOWN NOSAVE while a script runs: the store ends at once")
                logging.shutdown()
                os._exit(0)
            self._at = monotonic() + LOOK_SECONDS

    def end(self) -> None:
        """The script has ended."""
        for connection, own in self._let_in.items():
            task = self._loop.create_task(self._hand_over(connection, own))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)
        self._let_in = {}

    @property
    def _running(self) -> Running | None:
        return self._server.store.engine.scripts.running

    @property
    def ms(self) -> int:
        """Milliseconds since it began."""
        return int((monotonic() - self._begun) * 1000)

    # ---- sockets -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        listening = {each.fileno() for each in self._server.sockets}
        others = (each for each in self._server.connections if each.session is not self._caller)
        clients = {each.fileno: each for each in others if each.idle}
        poll = select.poll()
        for number in (*listening, *clients):
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(0):
            if number in listening:
                self._accept(number)
            else:
                self._hear(clients[number])

    def _accept(self, number: int) -> None:
        with socket.socket(fileno=os.dup(number)) as listener:
            listener.setblocking(False)
            for _ in range(LET_IN_MAX):
                try:
                    own, _address = listener.accept()
                except OSError:
                    return  # there are no more, or too many
                self._welcome(own)

    def _welcome(self, own: socket.socket) -> None:
        own.setblocking(False)
        connection, held = Connection(self._server), _Held(own)
        connection.connection_made(held)
        self._let_in[connection] = own
        if held.is_closing():
            self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        """Of a newcomer that leaves, or was refused; with others the loop deals."""
        own = self._let_in.pop(connection, None)
        if own is not None:
            own.close()
            connection.connection_lost(None)

    def _hear(self, connection: Connection) -> None:
        try:
            data = os.read(connection.fileno, READ_BYTES)
        except OSError:
            return  # the loop will find the same
        if not data:  # it has hung up
            self._let_go(connection)
            return
        replies = connection.meanwhile(data)
        try:
            sent = os.write(connection.fileno, replies) if replies else 0
        except OSError:
            sent = 0
        if sent < len(replies):
            connection.send(replies[sent:])  # goes out when the loop turns again
        if connection.session.closing:
            connection.close()
            self._let_go(connection)

    async def _hand_over(self, connection: Connection, own: socket.socket) -> None:
        if connection.idle:
            try:
                await self._loop.connect_accepted_socket(lambda: _Moving(connection), own)
            except OSError:
                pass  # it is gone, which is said below
            else:
                return
        own.close()
        connection.connection_lost(None)


class _Moving(asyncio.Protocol):
    """Has a connection go on with another transport."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.set_protocol(self._connection)
        self._connection.moved(transport)


class _Held(asyncio.Transport):
    """Of a client that the loop does not know yet. Replies here are short: what its socket does not take is lost, and
    with it the connection.
    """

    def __init__(self, own: socket.socket) -> None:
        super().__init__()
        self._own = own
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._own
        if name in ("peername", "sockname"):
            try:
                return self._own.getpeername() if name == "peername" else self._own.getsockname()
            except OSError:
                return default
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        try:
            sent = self._own.send(data)
        except OSError:
            sent = 0
        self._closing |= sent < len(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        """It is read by whom holds it alone."""

    def resume_reading(self) -> None:
        """Likewise."""
