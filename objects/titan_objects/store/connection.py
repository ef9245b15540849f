"""One client's socket: what comes in is read and executed, and what is answered goes out, if the client reads it."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, cast

from titan_objects.store.config import Config
from titan_objects.store.engine import Engine
from titan_objects.store.reading import CommandReader
from titan_objects.store.session import Session
from titan_objects.store.system import monotonic
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.server import Server

_LOG = logging.getLogger("titan_objects.store")

BACKLOG_MAX = 1024
"""Commands that may come while the client waits for an earlier one; then it is listened to no more."""

WRITE_HIGH_BYTES = 1 << 20
"""A client that leaves so much unread is listened to no more until it reads."""

STRANGER_BYTES_MAX = 1 << 10
"""A client that has not authenticated, and leaves so much unread, is cut off."""


class Sink(Protocol):
    """Where a session's replies go."""

    @property
    def full(self) -> bool: ...

    def send(self, data: bytes) -> None: ...
    def unanswered(self) -> None:
        """Nothing is to be sent, though commands may have been executed."""

    def close(self) -> None: ...


def send_out(outgoing: dict[Session, None], sinks: Mapping[Session, Sink]) -> None:
    """Sends what these sessions have to be sent, and forgets that they had."""
    while outgoing:
        session, _ = outgoing.popitem()
        session.wrote = False
        sink = sinks.get(session)
        if sink is None:
            continue
        if session.out:
            data = b"".join(session.out)  # of one reply alone, that very object
            session.out.clear()
            sink.send(data)
        else:
            sink.unanswered()
        if session.closing:
            sink.close()


class Served(Protocol):
    """What a server serves: a store of this machine, or a door to one that a group keeps."""

    @property
    def engine(self) -> Engine: ...
    @property
    def config(self) -> Config: ...
    @property
    def now(self) -> Callable[[], int]: ...

    def connect(self, sink: Sink, address: str = "", local_address: str = "") -> Session: ...
    def disconnect(self, session: Session) -> None: ...
    def run(self, session: Session, commands: list[Args], raw: bytes = b"") -> None: ...
    def drained(self) -> None: ...


class Connection(asyncio.Protocol):
    """One client's socket.

    Until a client has authenticated, it is a stranger: it can have nothing kept here that is long.
    """

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._store = server.store
        self._stats = server.store.engine.stats
        self._reader = CommandReader()
        self._closely = False
        """What comes needs a closer look: it is a stranger's, or refused."""
        self._refusal = b""
        self._soft_since = 0.0
        self._paused = False
        self._full = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.moved(transport)
        peer = transport.get_extra_info("peername")
        self.session = self._store.connect(self, _address(peer), _address(transport.get_extra_info("sockname")))
        refusal = self._server.refusal(peer)
        if refusal:
            self._transport.write(refusal)
            self._transport.close()
            return
        self._set_strict(self.session.user is None)
        self._server.connections.add(self)

    def moved(self, transport: asyncio.BaseTransport) -> None:
        """This is its transport from now on."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._limit_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._store.disconnect(self.session)

    def data_received(self, data: bytes) -> None:
        if self._closely or self._transport.is_closing():
            self._look_closely(data)
            return
        self._stats.read_bytes += len(data)
        reader = self._reader
        commands = reader.read(data)
        if commands:
            self._run(commands, data if reader.whole else b"")
        if reader.error or reader.held > self._server.query_max:
            self._refuse(self._wrong)

    def _look_closely(self, data: bytes) -> None:
        if self._refusal or self._transport.is_closing():
            return
        commands = self._one_by_one(data)
        for args in commands:
            self._run([args] if self._closely else [args, *commands], b"")  # who is known is heard as far as it reads
        if wrong := self._wrong:
            self._refuse(wrong)

    @property
    def _wrong(self) -> bytes:
        """Why nothing more that this client sends is read; nothing: it is."""
        reader = self._reader
        if reader.error or reader.held <= self._server.query_max:
            return reader.error
        return b"query buffer limit reached (client-query-buffer-limit)"

    def _one_by_one(self, data: bytes) -> Iterator[Args]:
        """What a stranger says, each command to be executed before the next is read: after AUTH it is none any more."""
        session, reader = self.session, self._reader
        self._store.engine.acl.let_in(session)
        self._set_strict(session.user is None)
        for args in reader.read_each(data):
            yield args
            if session.closing:
                return
            if session.user is not None and reader.strict:
                self._set_strict(False)

    def _set_strict(self, strict: bool) -> None:
        self._closely = self._reader.strict = strict
        self._limit_unread()

    def _limit_unread(self) -> None:
        self._transport.set_write_buffer_limits(high=STRANGER_BYTES_MAX if self._reader.strict else WRITE_HIGH_BYTES)

    def _run(self, commands: list[Args], raw: bytes) -> None:
        session = self.session
        session.last_command = commands[-1][0]
        slower_than = self._server.noted_seconds
        if slower_than is None:
            self._store.run(session, commands, raw)
        else:
            begun = monotonic()
            self._store.run(session, commands, raw)
            seconds = monotonic() - begun
            if seconds >= slower_than and not session.waits:
                self._server.note_slow(session, commands, int(seconds * 1e6))
        if len(session.backlog) > BACKLOG_MAX and session.waits and not self._paused:
            self._transport.pause_reading()
            self._paused = True

    def _refuse(self, why: bytes) -> None:
        """What came is not the protocol: says so once all before it is answered, and ends."""
        self._stats.note_error(b"ERR")
        self._refusal = b"-ERR Protocol error: %b\r\n" % why
        self._closely = True
        self._end()

    def eof_received(self) -> bool:
        """The client says no more, or is gone. What it has asked is answered, as far as that waits for nobody else."""
        self._ended = True
        return self._has_more

    @property
    def _has_more(self) -> bool:
        """Whether more is sent to this client without anybody's doing."""
        session = self.session
        halted = session in self._store.engine.halted  # for this very client to read
        return session.owed or halted or (not session.waits and bool(session.out or session.backlog))

    def _end(self) -> None:
        session = self.session
        if session.closing or self._transport.is_closing():
            return
        if self._refusal and not session.waits:
            session.out.append(self._refusal)
            session.closing = True
            self._store.run(session, [])
        elif self._ended and not self._has_more:
            self._transport.close()

    # ---- while a script runs -------------------------------------------------------------------------------------

    @property
    def fileno(self) -> int:
        """Of its socket."""
        number: int = self._transport.get_extra_info("socket").fileno()
        return number

    @property
    def idle(self) -> bool:
        """All that it was told is sent, and it has nothing to wait for: what it sends next can be answered at once."""
        session, transport = self.session, self._transport
        held = session.waits or session.out or session.closing or self._paused or self._full or self._refusal
        return not (held or self._ended or transport.is_closing() or transport.get_write_buffer_size())

    def meanwhile(self, data: bytes) -> bytes:
        """What a client is told that has sent this while somebody else's script runs."""
        reader, session = self._reader, self.session
        self._store.engine.meanwhile(session, self._one_by_one(data) if self._closely else reader.read(data))
        if wrong := self._wrong:
            session.out.append(b"-ERR Protocol error: %b\r\n" % wrong)
            session.closing = True
        replies = b"".join(session.out)
        session.out.clear()
        return replies

    # ---- the sink ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Writes replies; a client that does not read them is cut off at its limit."""
        self._stats.sent_bytes += len(data)
        self._transport.write(data)
        if self._full:
            self._check_limits(self._transport.get_write_buffer_size())
        elif self._paused:
            self._listen_again()
        if self._refusal or self._ended:
            self._end_soon()

    def unanswered(self) -> None:
        """A client that wants no replies has been heard out, perhaps."""
        if self._paused and not self._full:
            self._listen_again()
        if self._refusal or self._ended:
            self._end_soon()

    def _end_soon(self) -> None:
        """Not on the spot: what is sent just now would be closed behind it."""
        if not self.session.closing:
            asyncio.get_running_loop().call_soon(self._end)

    def close(self) -> None:
        """Closes once all is sent; at once if somebody else asked for it."""
        if self.session.killed:
            self._transport.abort()
        else:
            self._transport.close()

    @property
    def full(self) -> bool:
        """Whether much of what was sent has not been read yet."""
        return self._full

    def pause_writing(self) -> None:
        if self._reader.strict:
            self._transport.abort()
            return
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._soft_since = 0.0
        self._listen_again()
        self._store.drained()

    def _listen_again(self) -> None:
        """Unless too much of what has come waits still."""
        self._paused = len(self.session.backlog) > BACKLOG_MAX
        if not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _check_limits(self, waiting: int) -> None:
        hard, soft, seconds = self._server.output_limits[kind_of(self._store.engine, self.session)]
        now = monotonic()
        if soft and waiting > soft:
            self._soft_since = self._soft_since or now
        else:
            self._soft_since = 0.0
        too_long = self._soft_since and now - self._soft_since > seconds
        if (hard and waiting > hard) or too_long:
            _LOG.warning("client %s is cut off: %d bytes wait for it to read", self.session.address, waiting)
            self._transport.abort()


def kind_of(engine: Engine, session: Session) -> str:
    """The class of a client, as the limits of its output name it."""
    if session in engine.replication.replicas:
        return "slave"
    return "pubsub" if session.subscribed or session.told else "normal"


def _address(name: object) -> str:
    if isinstance(name, tuple) and len(name) >= 2:
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    if name is None:
        return "?:0"
    return f"{name}:0" if name else "unix:0"
