"""The sessions of one node: which one to send in, which still receive, which to give up. No I/O; all tables bounded."""

from collections.abc import Callable

from titan_overlay.buckets import Buckets
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.meters import together
from titan_overlay.overlay.sessions import REQUESTS, Session

MAX_SESSIONS = 1024
MAX_UNCONFIRMED = 128
MAX_SHUNNED = 256
SHUN_SECONDS = 600.0
KEPT_IDLE_SECONDS = 4500.0
IDLE_SECONDS = 300.0
UNCONFIRMED_SECONDS = 30.0
RETIRED_SECONDS = 30.0


class SessionTable:
    """Sessions by the id that their datagrams carry, and by peer.

    A session that a peer opened is confirmed by its first datagram; until then it displaces none that is in use. One
    that was displaced still receives for `RETIRED_SECONDS`.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self.sessions: dict[int, Session] = {}
        """By the id that datagrams to us carry."""
        self.by_peer: dict[bytes, Session] = {}
        """The session to send in, by NodeId."""
        self._unconfirmed: dict[bytes, tuple[Session, bytes, bytes]] = {}
        """By NodeId: session, the initiator's ephemeral, our RESP."""
        self._retired: dict[int, float] = {}
        """Sessions that were replaced, by receive id: they still receive until then."""
        self._shunned: dict[bytes, float] = {}
        self._peers: Buckets[bytes] = Buckets(REQUESTS)
        """What peers may ask for, however often they begin anew. As there are sessions with so many, and each asks for
        little, buckets that are full take no room here; links, of which there are few, keep theirs at hand."""
        self._subnets: Buckets[str] = Buckets(together(REQUESTS))
        self._token_bytes = token_bytes

    def admit(self, session: Session) -> float:
        """The peer asks for something. 0: it may; else the seconds after which it should ask again."""
        ip, port = session.address
        if is_loopback(ip):
            return 0.0
        now = session.heard
        return self._peers.take(session.contact.id, 1, now) or self._subnets.take(subnet(ip, port), 1, now)

    def fresh_id(self) -> int:
        """An id for datagrams to us that no session has."""
        while (fresh := int.from_bytes(self._token_bytes(4), "big")) in self.sessions:
            pass
        return fresh

    def adopt(self, session: Session, now: float) -> None:
        """The session becomes the one to send in; the one before still receives for a while."""
        if len(self.sessions) >= MAX_SESSIONS:
            self._make_room()
        self.sessions[session.receive_id] = session
        before = self.by_peer.get(session.contact.id)
        if before is not None and before is not session:
            session.kept = before.kept
            if session.round_trip is None:
                session.round_trip = before.round_trip
            self._retired[before.receive_id] = now + RETIRED_SECONDS
        self.by_peer[session.contact.id] = session

    def repeat(self, peer: bytes, ephemeral: bytes) -> bytes:
        """The RESP to the INIT with this ephemeral, if it was answered and not confirmed yet."""
        known = self._unconfirmed.get(peer)
        return known[2] if known is not None and known[1] == ephemeral else b""

    def await_confirmation(self, session: Session, ephemeral: bytes, resp: bytes) -> None:
        """A session made for an INIT. It is the one to send in only if there is no other."""
        peer = session.contact.id
        before = self._unconfirmed.pop(peer, None)
        if before is not None:
            self.drop(before[0])
        elif len(self._unconfirmed) >= MAX_UNCONFIRMED:
            self.drop(self._unconfirmed.pop(next(iter(self._unconfirmed)))[0])
        self._unconfirmed[peer] = (session, ephemeral, resp)
        if peer in self.by_peer:
            self.sessions[session.receive_id] = session
        else:
            self.adopt(session, session.born)

    def confirm(self, session: Session, now: float) -> None:
        """A first datagram came in this session: the peer has our RESP."""
        known = self._unconfirmed.get(session.contact.id)
        if known is not None and known[0] is session:
            del self._unconfirmed[session.contact.id]
            self.adopt(session, now)

    def drop(self, session: Session) -> None:
        """Forgets the session."""
        self.sessions.pop(session.receive_id, None)
        self._retired.pop(session.receive_id, None)
        peer = session.contact.id
        if self.by_peer.get(peer) is session:
            del self.by_peer[peer]
        known = self._unconfirmed.get(peer)
        if known is not None and known[0] is session:
            del self._unconfirmed[peer]

    def shun(self, session: Session, now: float) -> None:
        """The peer misbehaves inside its session: no session with it for a while."""
        self.drop(session)
        if len(self._shunned) >= MAX_SHUNNED:
            del self._shunned[next(iter(self._shunned))]
        self._shunned[session.contact.id] = now + SHUN_SECONDS

    def is_shunned(self, peer: bytes, now: float) -> bool:
        """Whether this peer gets no session for now."""
        return self._shunned.get(peer, 0.0) > now

    def sweep(self, now: float) -> None:
        """Forgets what is idle, replaced or was never confirmed. To be called every minute or so."""
        for receive_id, until in list(self._retired.items()):
            if until <= now:
                self._retired.pop(receive_id)
                self.sessions.pop(receive_id, None)
        for session, _, _ in list(self._unconfirmed.values()):
            if now - session.born > UNCONFIRMED_SECONDS:
                self.drop(session)
        for session in list(self.sessions.values()):
            if now > session.ends or now - session.heard > (KEPT_IDLE_SECONDS if session.kept else IDLE_SECONDS):
                self.drop(session)
        for peer, until in list(self._shunned.items()):
            if until <= now:
                del self._shunned[peer]

    def _make_room(self) -> None:
        """Gives up an eighth of the sessions: strangers before contacts of the table, the longest idle first."""
        order = sorted(self.sessions.values(), key=lambda session: (session.kept, session.heard))
        for session in order[: MAX_SESSIONS // 8]:
            self.drop(session)
