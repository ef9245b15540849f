"""Exactly once: which requests have been executed, and what they were answered. Part of the replicated state; no I/O.

A request is the same one when it comes again under its session and sequence, or under its sender's `once`. What may
have been forgotten is refused, never executed a second time (Ongaro's thesis, 6.3).

All callers of an object share this memory, and nothing in it is taken from one for another: that would break a promise.
So nobody is let have all of it.
"""

from collections import Counter, OrderedDict

import msgspec

from titan_overlay.errors import Conflict, Overloaded, Unavailable
from titan_overlay.mutable.requests import Reply, Request

SESSIONS_MAX = 8192
REPLIES_MAX = 256
"""Requests of one session whose replies may be outstanding."""
SESSION_SECONDS = 3600.0
"""A session in which nothing new was asked for so long may be forgotten."""
ONCE_MAX = 131_072
ONCE_SECONDS = 24 * 3600.0
REPLY_BYTES_MAX = 256 << 20
"""Of all replies that are kept, and of what they are known by."""


class _Shared:
    """Room that all callers have together. Who has as much of it as is left gets no more: one alone has half of it at
    most, two have a third each, and some is left for who comes next (Choudhury and Hahne, "Dynamic Queue Length
    Thresholds for Shared-Memory Packet Switches", 1998).
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._taken: Counter[bytes] = Counter()

    def has_room(self, user: bytes) -> bool:
        return self._taken[user] < self._left

    def take(self, user: bytes, amount: int = 1) -> None:
        self._taken[user] += amount
        self._left -= amount

    def give_back(self, user: bytes, amount: int = 1) -> None:
        self.take(user, -amount)
        if not self._taken[user]:
            del self._taken[user]


class _Session(msgspec.Struct, array_like=True):
    used: float
    settled: int
    """All sequences below this are answered and forgotten."""
    replies: dict[int, Reply]
    owner: bytes = b""
    """Public key of the user who opened it, and has it alone; empty in states of before that was kept."""
    opened: bytes = b""
    """Digest of the request that did, which anybody who has seen it may bring again."""


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
        self._opened: dict[tuple[bytes, bytes], int] = {}
        """By owner and digest of the request."""
        self._once: OrderedDict[tuple[bytes, str], _Once] = OrderedDict()
        """In the order of expiry."""
        self._session_room = _Shared(SESSIONS_MAX)
        self._once_room = _Shared(ONCE_MAX)
        self._reply_room = _Shared(REPLY_BYTES_MAX)

    def open(self, number: int, request: Request, now: float) -> int:
        """A new session, or the one that this very request has opened; its number.

        Args:
            number: unique and rising: its place in the order. Anybody can guess it.
            request: of the user who opens it.

        Raises:
            Overloaded: too many are in use, of all or of this user.
        """
        owner, opened = request.sender, request.digest()
        known = self._opened.get((owner, opened))
        if known is not None:
            return known
        while not self._session_room.has_room(owner):
            left = self._forget_idle(now)
            if left > 0:
                raise Overloaded("too many programs, or too many of this user, use this object", retry_after=left)
        self._keep_session(number, _Session(now, 1, {}, owner, opened))
        return number

    def _keep_session(self, number: int, session: _Session) -> None:
        self._sessions[number] = session
        self._opened[session.owner, session.opened] = number
        self._session_room.take(session.owner)

    def _forget_idle(self, now: float) -> float:
        """Forgets the session that was not used for longest, if that is long enough. Seconds that are left to it."""
        oldest = next(iter(self._sessions), None)
        if oldest is None:
            return SESSION_SECONDS
        session = self._sessions[oldest]
        left = session.used + SESSION_SECONDS - now
        if left > 0:
            return left
        for sequence in list(session.replies):
            self._settle(session, sequence)
        self._session_room.give_back(session.owner)
        self._opened.pop((session.owner, session.opened), None)
        del self._sessions[oldest]
        return 0.0

    def _settle(self, session: _Session, sequence: int) -> None:
        self._reply_room.give_back(session.owner, len(session.replies.pop(sequence).body))

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
        if request.settled > session.settled:
            session.settled = request.settled
            for sequence in [each for each in session.replies if each < request.settled]:
                self._settle(session, sequence)
        reply = session.replies.get(request.sequence)
        if reply is None and request.sequence < session.settled:
            raise Unavailable("this message was executed and its reply taken long ago", maybe_executed=True)
        if reply is None and len(session.replies) >= REPLIES_MAX:
            raise Overloaded(f"{REPLIES_MAX} messages of this program are outstanding", retry_after=0.1)
        if reply is None:
            # What is asked once more may be brought by anybody: it keeps no session from being forgotten.
            session.used = now
            self._sessions.move_to_end(request.session)
            self._check_bytes(session.owner, now)
        return reply

    def _check_bytes(self, user: bytes, now: float) -> None:
        """Raises Overloaded: no more replies can be kept for that user."""
        while not self._reply_room.has_room(user):
            if self._forget_idle(now) > 0:
                raise Overloaded("no more replies can be kept, of all or of this user", retry_after=60.0)

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
            (sender, key), oldest = next(iter(self._once.items()))
            if oldest.until > now:
                break
            del self._once[sender, key]
            self._once_room.give_back(sender)
            self._reply_room.give_back(sender, _size(key, oldest.reply))
        known = self._once.get((request.sender, request.once))
        if known is None:
            if not self._once_room.has_room(request.sender):
                why = "no more messages with once= can be remembered, of all or of this user"
                raise Overloaded(why, retry_after=60.0)
            self._check_bytes(request.sender, now)
            return None
        if known.digest != request.digest():
            raise Conflict(f"once={request.once!r} was another message; take a new key for a new message")
        return known.reply

    def remember(self, request: Request, reply: Reply, now: float) -> None:
        """It has been executed, with this reply."""
        if request.once:
            self._keep_once(request.sender, request.once, _Once(request.digest(), now + ONCE_SECONDS, reply))
        else:
            session = self._sessions[request.session]
            session.replies[request.sequence] = reply
            self._reply_room.take(session.owner, len(reply.body))

    def _keep_once(self, sender: bytes, key: str, once: _Once) -> None:
        self._once[sender, key] = once
        self._once_room.take(sender)
        self._reply_room.take(sender, _size(key, once.reply))

    def keep(self) -> _Kept:
        """For a snapshot."""
        return _Kept(list(self._sessions.items()), [(sender, key, once) for (sender, key), once in self._once.items()])

    @classmethod
    def restored(cls, kept: _Kept) -> "Sessions":
        """From a snapshot."""
        made = cls()
        for number, session in kept.sessions:
            made._keep_session(number, session)
            made._reply_room.take(session.owner, sum(len(each.body) for each in session.replies.values()))
        for sender, key, once in kept.once:
            made._keep_once(sender, key, once)
        return made


def _size(key: str, reply: Reply) -> int:
    return len(key.encode()) + len(reply.body)


def _has(session: _Session, user: bytes) -> bool:
    """Whether it is that user's. Another could take the sequence of a message that is on its way, or its reply."""
    return session.owner in (user, b"")


KeptSessions = _Kept
