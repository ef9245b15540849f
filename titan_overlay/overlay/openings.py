"""What a handshake is made of: `Opening`, one that this node began, and `Step`, what a datagram has led to."""

from typing import Any

from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import Ephemeral
from titan_overlay.overlay.sessions import Session


class Opening:
    """A handshake that this node began. `waiting` is the shell's: what to do once it is over."""

    __slots__ = (
        "address",
        "began",
        "datagram",
        "due",
        "ephemeral",
        "expected",
        "nonce",
        "peer",
        "receive_id",
        "sent_at",
        "signed",
        "tries",
        "until",
        "waiting",
    )

    def __init__(self, address: tuple[str, int], expected: NodeId | None, nonce: bytes, now: float) -> None:
        self.address = address
        self.expected = expected
        self.nonce = nonce
        self.datagram = b""
        """What was sent last, to be sent again if nothing comes back."""
        self.began = self.sent_at = now
        self.due = 0.0
        self.until = 0.0
        """When the shell gives it up."""
        self.tries = 1
        self.ephemeral: Ephemeral | None = None
        """Ours; set with the INIT."""
        self.peer = (b"", b"")
        """Public key and ephemeral of the other side, from its COOKIE."""
        self.receive_id = 0
        self.signed = b""
        """What the INIT's signature covers; the RESP's covers it too."""
        self.waiting: list[Any] = []


class Step:
    """What one datagram of a handshake leads to."""

    __slots__ = ("event", "failure", "observed", "opening", "pool", "reply", "session")

    def __init__(
        self,
        event: str = "",
        *,
        reply: bytes = b"",
        session: Session | None = None,
        opening: Opening | None = None,
        failure: int = 0,
        pool: bytes = b"",
        observed: tuple[str, int] | None = None,
    ) -> None:
        self.event = event
        """For the account of odd events, or empty."""
        self.reply = reply
        """Goes back to where the datagram came from."""
        self.session = session
        """Made just now."""
        self.opening = opening
        """Over just now: its `waiting` goes to the session, or fails with it; or, with a reply only, moved on."""
        self.failure = failure
        self.pool = pool
        """The pool that the other side is in (WRONG_POOL)."""
        self.observed = observed
        """Our address as the other side sees it."""
