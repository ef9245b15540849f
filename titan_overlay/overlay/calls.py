"""A call: one request under way, who waits for it, and how it can fail."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from titan_overlay.errors import LinkError, RemotableError, TitanError, WireError
from titan_overlay.identity.contacts import Contact
from titan_overlay.overlay import packets
from titan_overlay.overlay.bodies import MAX_BODY
from titan_overlay.overlay.openings import Opening
from titan_overlay.overlay.sessions import Session
from titan_overlay.wire import codec

Handler = Callable[[Contact, bytes], bytes]


class HandshakeRefused(LinkError):
    """Somebody answers there and does not want us, or is not whom we want. `reason`: see `packets.REASONS`."""

    def __init__(self, message: str, reason: int) -> None:
        super().__init__(message)
        self.reason = reason


class Caller(Protocol):
    """Who is told how a call went. Exactly one of `answered` and `failed`, once; before it at most one `late`."""

    def answered(self, call: "Call", body: bytes) -> None: ...

    def failed(self, call: "Call", error: TitanError) -> None: ...

    def late(self, call: "Call") -> None: ...


class Call:
    """One request under way."""

    __slots__ = (
        "body",
        "caller",
        "contact",
        "deadline",
        "due",
        "id",
        "purpose",
        "renewed",
        "sent_at",
        "session",
        "tries",
    )

    def __init__(
        self, caller: Caller, contact: Contact, method: str, body: bytes, purpose: int, deadline: float
    ) -> None:
        name = method.encode()
        self.caller = caller
        self.contact = contact
        self.body = bytes((len(name),)) + name + body
        self.purpose = purpose
        self.deadline = deadline
        self.id = 0
        """0: not under way (yet, or any more)."""
        self.due = 0.0
        self.renewed = False
        """Whether the peer has said that it had lost the session; that is believed once."""
        self.sent_at = 0.0
        self.tries = 0
        self.session: Session | None = None


class Await:
    """A caller that is a future."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[bytes]") -> None:
        self.future = future

    def answered(self, call: Call, body: bytes) -> None:
        if not self.future.done():
            self.future.set_result(body)

    def failed(self, call: Call, error: TitanError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def late(self, call: Call) -> None:
        pass


class Unheard:
    """A caller that does not mind how its call went."""

    __slots__ = ()

    def answered(self, call: Call, body: bytes) -> None:
        pass

    def failed(self, call: Call, error: TitanError) -> None:
        pass

    def late(self, call: Call) -> None:
        pass


def refusal(error: RemotableError) -> bytes:
    """The body that carries an error; its fields are left out where it would be too large."""
    wire = error.to_wire()
    body = codec.encode(wire)
    if len(body) > MAX_BODY:
        body = codec.encode(WireError(wire.code, wire.text[:200], wire.maybe_executed))
    return body


def refused_by(opening: Opening, reason: int, pool: bytes) -> HandshakeRefused:
    """The error for what a handshake was refused for."""
    host, port = opening.address
    which = f" ({pool.hex()[:12]}...)" if reason == packets.WRONG_POOL else ""
    return HandshakeRefused(f"the node at {host}:{port} cannot be used: {packets.REASONS[reason]}{which}", reason)
