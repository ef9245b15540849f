"""Exactly once: which requests have been executed, and what they were answered. Part of the replicated state; no I/O.

A request is the same one when it comes again under its session and sequence, or under its sender's `once`. What may
have been forgotten is refused, never executed a second time (Ongaro's thesis, 6.3).
"""

from collections import OrderedDict

import msgspec

from titan_overlay.errors import Conflict, Overloaded, Unavailable
from titan_overlay.mutable.requests import Reply, Request

SESSIONS_MAX = 4096
REPLIES_MAX = 256
"""Requests of one session whose replies may be outstanding."""
SESSION_SECONDS = 3600.0
"""A session in which nothing was asked for so long may be forgotten."""
ONCE_MAX = 65_536
ONCE_SECONDS = 24 * 3600.0


class _Session(msgspec.Struct, array_like=True):
    used: float
    settled: int
    """All sequences below this are answered and forgotten."""
    replies: dict[int, Reply]
    owner: bytes = b""
    """Public key of the user who opened it, and has it alone; empty in states of before that was kept."""


class _Once(msgspec.Struct, frozen=True, array_like=True):
    digest: bytes
    until: float
    reply: Reply


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    sessions: list[tuple[int, _Session]]
    once: list[tuple[bytes, str, _Once]]


class Sessions:
    """The executed requests that somebody may ask for again. All times are agreed time, unix seconds."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[int, _Session] = OrderedDict()
        """Least recently used first."""
        self._once: OrderedDict[tuple[bytes, str], _Once] = OrderedDict()
        """In the order of expiry."""

    def open(self, number: int, owner: bytes, now: float) -> None:
        """A new session.

        Args:
            number: unique and rising: its place in the order. Anybody can guess it.
            owner: public key of the user who opens it.

        Raises:
            Overloaded: all sessions are in use.
        """
        if len(self._sessions) >= SESSIONS_MAX:
            oldest = next(iter(self._sessions))
            left = self._sessions[oldest].used + SESSION_SECONDS - now
            if left > 0:
                raise Overloaded(f"{SESSIONS_MAX} programs use this object just now", retry_after=left)
            del self._sessions[oldest]
        self._sessions[number] = _Session(now, 1, {}, owner)

    def known(self, request: Request, now: float) -> Reply | None:
        """The reply that this request has been given already; None: it is new, and may be executed.

        Raises:
            Unavailable: its session has been forgotten, and with it whether it was executed.
            Conflict: `once` stands for another request. Overloaded: no more can be remembered.
        """
        if request.once:
            return self._known_once(request, now)
        session = self._sessions.get(request.session)
        if session is None:
            raise Unavailable(
                "the session of this program was forgotten, so nobody knows whether the message was executed; "
                "look at the object before you send it again",
                maybe_executed=True,
            )
        if not _has(session, request.sender):
            raise Unavailable("this session was opened by another user; nothing was executed")
        session.used = now
        self._sessions.move_to_end(request.session)
        if request.settled > session.settled:
            session.settled = request.settled
            for sequence in [each for each in session.replies if each < request.settled]:
                del session.replies[sequence]
        reply = session.replies.get(request.sequence)
        if reply is None and request.sequence < session.settled:
            raise Unavailable("this message was executed and its reply taken long ago", maybe_executed=True)
        if reply is None and len(session.replies) >= REPLIES_MAX:
            raise Overloaded(f"{REPLIES_MAX} messages of this program are outstanding", retry_after=0.1)
        return reply

    def reply_to(self, request: Request) -> Reply | None:
        """As `known`, for one member alone: nothing that is replicated changes."""
        if request.once:
            known = self._once.get((request.sender, request.once))
            return known.reply if known is not None and known.digest == request.digest() else None
        session = self._sessions.get(request.session)
        if session is None or not _has(session, request.sender):
            return None
        return session.replies.get(request.sequence)

    def _known_once(self, request: Request, now: float) -> Reply | None:
        while self._once:
            oldest = next(iter(self._once))
            if self._once[oldest].until > now:
                break
            del self._once[oldest]
        known = self._once.get((request.sender, request.once))
        if known is None:
            if len(self._once) >= ONCE_MAX:
                raise Overloaded(f"{ONCE_MAX} messages with once= are remembered, as many as can be", retry_after=60.0)
            return None
        if known.digest != request.digest():
            raise Conflict(f"once={request.once!r} was another message; take a new key for a new message")
        return known.reply

    def remember(self, request: Request, reply: Reply, now: float) -> None:
        """It has been executed, with this reply."""
        if request.once:
            self._once[request.sender, request.once] = _Once(request.digest(), now + ONCE_SECONDS, reply)
        else:
            self._sessions[request.session].replies[request.sequence] = reply

    def keep(self) -> _Kept:
        """For a snapshot."""
        return _Kept(list(self._sessions.items()), [(sender, key, once) for (sender, key), once in self._once.items()])

    @classmethod
    def restored(cls, kept: _Kept) -> "Sessions":
        """From a snapshot."""
        made = cls()
        made._sessions.update(kept.sessions)
        made._once.update(((sender, key), once) for sender, key, once in kept.once)
        return made


def _has(session: _Session, user: bytes) -> bool:
    """Whether it is that user's. Another could take the sequence of a message that is on its way, or its reply."""
    return session.owner in (user, b"")


KeptSessions = _Kept
