"""The handshake: how two peers that share nothing come to share a session.

Theory of operation
-------------------

    initiator                                               responder

    HELLO   nonce, pool (zeros: not known yet), padding  -->      keeps nothing
            <--   COOKIE   nonce, pool, key, role, ephemeral, minted, mac
    INIT    nonce, minted, mac, role, id for datagrams,
            key, ephemeral, grant, signature             -->      proves address, then key: makes the session
            <--   RESP     nonce, id for datagrams, salt, address seen, grant, signature

**Nothing is kept for a stranger.** A COOKIE is a MAC over nonce, time, role and the sender's address, made with a
secret that changes every `EPOCH_SECONDS`; only who can receive at that address can return it. It is no larger than the
HELLO (which is padded), so a forged source address gains an attacker nothing. Signatures are checked after the cookie.

**What is signed.** Both signatures cover a label of their own, the pool, both ids and roles, both ephemerals, the
cookie, and the initiator's session id and grant; the RESP's also the responder's session id, the salt and the address
it saw. So neither side can be led to believe in another peer, pool, role or exchange than the other side does
(the sign-and-MAC shape of SIGMA; discv5 is the closest published model).

**Keys.** X25519 of both ephemerals, hashed with everything that was signed: one key for each direction. The
responder's ephemeral serves all handshakes of one epoch and is forgotten with it; its fresh `salt` makes the keys of
each RESP unique, so an INIT that is replayed within its cookie's life yields a session that nobody can use.

**Loss.** The initiator repeats what it sent last. The responder answers a repeated INIT with the same RESP until the
first datagram inside the session confirms that it arrived. An unconfirmed session never displaces a confirmed one.

**Both at once.** Two peers that open to each other would end with two sessions. The INIT of the lower NodeId wins:
having sent one, the lower ignores the other's, and the higher drops its own attempt for it.

    state of an opening        event                        next
    hello sent                 COOKIE of the right pool     init sent
    hello sent                 valid INIT of that peer      open, as responder
    init sent                  RESP, signature holds        open
    init sent                  valid INIT, its id is lower  open, as responder
    any                        REFUSED / silence            failed

This file does no I/O: datagrams in, `Step`s out.
"""

import struct
from collections.abc import Callable
from hashlib import blake2b
from hmac import compare_digest
from typing import Any

from titan_overlay.identity.ids import NodeId, PoolId, node_id, solves_puzzle
from titan_overlay.identity.keys import SIGNATURE_BYTES, Ephemeral, SigningKey, verify
from titan_overlay.overlay.bodies import contact, pack_address, unpack_address
from titan_overlay.overlay.sessions import Session

VERSION = 1
HELLO, COOKIE, INIT, RESP, REFUSED = range(1, 6)

HELLO_BYTES = 128
_HELLO = struct.Struct(">BB8s32s")
_COOKIE = struct.Struct(">BB8s32s32sB32sI16s")
_INIT = struct.Struct(">BB8sI16sBB4s32s32sH")
_RESP = struct.Struct(">B8s4s16sB18sH")
_REFUSED = struct.Struct(">B8sB32s")

assert _COOKIE.size <= HELLO_BYTES and _REFUSED.size <= HELLO_BYTES

WRONG_POOL, WRONG_VERSION, NOT_ADMITTED, WRONG_NODE = range(1, 5)
REASONS = {
    WRONG_POOL: "it belongs to another pool",
    WRONG_VERSION: "it speaks another version of the protocol",
    NOT_ADMITTED: "it does not admit this key; ask for an invitation: titan invite",
    WRONG_NODE: "another node answers at that address",
}

EPOCH_SECONDS = 60.0
COOKIE_SECONDS = 30.0
CLIENT, SERVING = 0, 1
"""Roles: who does not serve never enters a routing table."""

MAX_GRANT_BYTES = 700
MAX_SESSIONS = 1024
MAX_UNCONFIRMED = 128
MAX_OPENINGS = 256
MAX_SHUNNED = 256
SHUN_SECONDS = 600.0
KEPT_IDLE_SECONDS = 4500.0
IDLE_SECONDS = 900.0
UNCONFIRMED_SECONDS = 30.0
RETIRED_SECONDS = 30.0

UNKNOWN_POOL = bytes(32)


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
        self.tries = 1
        self.ephemeral: Ephemeral | None = None
        """Ours; set with the INIT."""
        self.peer = (b"", b"")
        """Public key and ephemeral of the other side, from its COOKIE."""
        self.receive_id = b""
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


class _Epoch:
    """A secret and an ephemeral that serve all cookies of one minute."""

    __slots__ = ("ephemeral", "number", "secret")

    def __init__(self, number: int, token_bytes: Callable[[int], bytes]) -> None:
        self.number = number
        self.secret = token_bytes(32)
        self.ephemeral = Ephemeral(token_bytes(32))


class Handshakes:
    """All sessions of one node and all handshakes under way. Every table is bounded.

    Args:
        pool: None until learned from the first RESP (trust on first use); until then this node answers no HELLO.
        admit: right to join: (public key, grant) -> whether to let in. Default: everyone.
    """

    def __init__(
        self,
        key: SigningKey,
        pool: PoolId | None,
        token_bytes: Callable[[int], bytes],
        *,
        grant: bytes = b"",
        puzzle_bits: int = 0,
        admit: Callable[[bytes, bytes], bool] = lambda public, grant: True,
    ) -> None:
        self.key = key
        self.pool = pool
        self.grant = grant
        self.role = CLIENT
        self.admit = admit
        self.puzzle_bits = puzzle_bits
        self.sessions: dict[bytes, Session] = {}
        """By the id that datagrams to us carry."""
        self.by_peer: dict[bytes, Session] = {}
        """The session to send in, by NodeId."""
        self.openings: dict[bytes, Opening] = {}
        """By nonce."""
        self._opening_to: dict[tuple[tuple[str, int], bytes | None], Opening] = {}
        self._unconfirmed: dict[bytes, tuple[Session, bytes, bytes]] = {}
        """By NodeId: session, the initiator's ephemeral, our RESP."""
        self._retired: dict[bytes, float] = {}
        """Sessions that were replaced, by receive id: they still receive until then."""
        self._shunned: dict[bytes, float] = {}
        self._token_bytes = token_bytes
        self._epochs: tuple[_Epoch, ...] = ()

    # ---- initiator -------------------------------------------------------------------------------------------

    def begin(self, address: tuple[str, int], expected: NodeId | None, now: float) -> tuple[Opening, bool] | None:
        """The opening to this peer, and whether it is new (then `datagram` is to be sent). None: too many at once."""
        opening = self._opening_to.get((address, expected))
        if opening is not None:
            return opening, False
        if len(self.openings) >= MAX_OPENINGS:
            return None
        opening = Opening(address, expected, self._token_bytes(8), now)
        opening.datagram = _HELLO.pack(HELLO, VERSION, opening.nonce, self.pool or UNKNOWN_POOL).ljust(
            HELLO_BYTES, b"\0"
        )
        self.openings[opening.nonce] = opening
        self._opening_to[address, expected] = opening
        return opening, True

    def abandon(self, opening: Opening) -> None:
        """The opening is over."""
        self.openings.pop(opening.nonce, None)
        self._opening_to.pop((opening.address, opening.expected), None)

    def receive(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        """One datagram that is not inside a session. Total: whatever the bytes, a `Step`."""
        try:
            kind = data[0]
            if kind == HELLO and len(data) >= HELLO_BYTES:
                return self._hello(data, address, now)
            if kind == COOKIE and len(data) == _COOKIE.size:
                return self._cookie(data, address, now)
            if kind == INIT:
                return self._init(data, address, now)
            if kind == RESP:
                return self._resp(data, address, now)
            if kind == REFUSED and len(data) == _REFUSED.size:
                return self._refused(data, address)
        except (struct.error, ValueError, IndexError, OSError):
            pass
        return Step("malformed")

    def _cookie(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, version, nonce, pool, public, role, ephemeral, minted, mac = _COOKIE.unpack(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or opening.ephemeral or version != VERSION:
            return Step("stray")
        if self.pool is not None and pool != self.pool:
            return self._failed(opening, WRONG_POOL, pool)
        peer = node_id(public)
        if opening.expected not in (None, peer) or peer == self.key.id or not solves_puzzle(peer, self.puzzle_bits):
            return self._failed(opening, WRONG_NODE, pool)
        opening.ephemeral = Ephemeral(self._token_bytes(32))
        opening.peer = (public, ephemeral)
        opening.receive_id = self._fresh_id()
        opening.signed = _covered(
            pool,
            self.key.id,
            peer,
            bytes((self.role, role)),
            opening.ephemeral.public,
            ephemeral,
            nonce + minted.to_bytes(4, "big") + mac,
            opening.receive_id,
            self.grant,
        )
        head = _INIT.pack(
            INIT,
            VERSION,
            nonce,
            minted,
            mac,
            role,
            self.role,
            opening.receive_id,
            self.key.public,
            opening.ephemeral.public,
            len(self.grant),
        )
        opening.datagram = head + self.grant + self.key.sign(b"titan/1/init\0" + opening.signed)
        opening.sent_at = now
        opening.tries = 1
        return Step(reply=opening.datagram, opening=opening)

    def _resp(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, nonce, send_id, _salt, seen_size, seen, grant_size = _RESP.unpack_from(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or opening.ephemeral is None:
            return Step("stray")
        if len(data) != _RESP.size + grant_size + SIGNATURE_BYTES or grant_size > MAX_GRANT_BYTES:
            return Step("malformed")
        public, ephemeral = opening.peer
        signed = opening.signed + data[1:-SIGNATURE_BYTES]
        if not verify(public, data[-SIGNATURE_BYTES:], b"titan/1/resp\0" + signed):
            return Step("malformed")
        secret = opening.ephemeral.agree(ephemeral)
        if secret is None:
            return self._failed(opening, NOT_ADMITTED, b"")
        self.abandon(opening)
        if self.pool is None:
            self.pool = PoolId(opening.signed[:32])
        forward, back = _keys(secret, signed)
        session = Session(
            contact(node_id(public), *address),
            send_id=send_id,
            send_key=forward,
            receive_id=opening.receive_id,
            receive_key=back,
            serving=opening.signed[_PEER_ROLE] == SERVING,
            grant=data[_RESP.size : -SIGNATURE_BYTES],
            now=now,
        )
        if opening.tries == 1:
            session.measured(now - opening.sent_at)
        self._adopt(session, now)
        return Step(session=session, opening=opening, observed=unpack_address(seen[:seen_size]))

    def _refused(self, data: bytes, address: tuple[str, int]) -> Step:
        _, nonce, reason, pool = _REFUSED.unpack(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or reason not in REASONS:
            return Step("stray")
        return self._failed(opening, reason, pool)

    def _failed(self, opening: Opening, reason: int, pool: bytes) -> Step:
        self.abandon(opening)
        return Step("refused", opening=opening, failure=reason, pool=pool)

    # ---- responder -------------------------------------------------------------------------------------------

    def _hello(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, version, nonce, pool = _HELLO.unpack_from(data)
        if self.pool is None:
            return Step("early")
        if version != VERSION:
            return Step("wrong_version", reply=self._refusal(nonce, WRONG_VERSION))
        if pool not in (self.pool, UNKNOWN_POOL):
            return Step("wrong_pool", reply=self._refusal(nonce, WRONG_POOL))
        epoch = self._epoch(now)
        minted = int(now) & 0xFFFFFFFF
        mac = _mac(epoch.secret, nonce, minted, self.role, address)
        return Step(
            reply=_COOKIE.pack(
                COOKIE,
                VERSION,
                nonce,
                self.pool,
                self.key.public,
                self.role,
                epoch.ephemeral.public,
                minted,
                mac,
            )
        )

    def _init(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, version, nonce, minted, mac, my_role, role, send_id, public, ephemeral, size = _INIT.unpack_from(data)
        if version != VERSION or len(data) != _INIT.size + size + SIGNATURE_BYTES or size > MAX_GRANT_BYTES:
            return Step("malformed")
        epoch = next((e for e in self._epochs if e.number == int(minted // EPOCH_SECONDS)), None)
        if epoch is None or self.pool is None or not 0 <= now - minted <= COOKIE_SECONDS:
            return Step("stale_cookie")
        if not compare_digest(mac, _mac(epoch.secret, nonce, minted, my_role, address)):
            return Step("bad_cookie")
        # From here on the address is proven.
        peer = node_id(public)
        grant = data[_INIT.size : -SIGNATURE_BYTES]
        known = self._unconfirmed.get(peer)
        if known is not None and known[1] == ephemeral:
            return Step(reply=known[2])
        if self._shunned.get(peer, 0.0) > now or peer == self.key.id:
            return Step("shunned")
        if not solves_puzzle(peer, self.puzzle_bits):
            return Step("not_admitted", reply=self._refusal(nonce, NOT_ADMITTED))
        own = self._opening_with(peer, address)
        if own is not None and own.ephemeral is not None and self.key.id < peer:
            return Step("crossed")
        cookie = nonce + minted.to_bytes(4, "big") + mac
        roles = bytes((role, my_role))
        signed = _covered(
            self.pool, peer, self.key.id, roles, ephemeral, epoch.ephemeral.public, cookie, send_id, grant
        )
        if not verify(public, data[-SIGNATURE_BYTES:], b"titan/1/init\0" + signed):
            return Step("malformed")
        secret = epoch.ephemeral.agree(ephemeral)
        if secret is None:
            return Step("malformed")
        if not self.admit(public, grant):
            return Step("not_admitted", reply=self._refusal(nonce, NOT_ADMITTED))
        seen = pack_address(address)
        head = _RESP.pack(
            RESP,
            nonce,
            receive_id := self._fresh_id(),
            self._token_bytes(16),
            len(seen),
            seen,
            len(self.grant),
        )
        signed += (head + self.grant)[1:]
        resp = head + self.grant + self.key.sign(b"titan/1/resp\0" + signed)
        forward, back = _keys(secret, signed)
        session = Session(
            contact(peer, *address),
            send_id=send_id,
            send_key=back,
            receive_id=receive_id,
            receive_key=forward,
            serving=role == SERVING,
            grant=grant,
            now=now,
        )
        if own is not None:
            self.abandon(own)
        self._await_confirmation(session, ephemeral, resp)
        return Step(reply=resp, session=session, opening=own)

    def _refusal(self, nonce: bytes, reason: int) -> bytes:
        return _REFUSED.pack(REFUSED, nonce, reason, self.pool or UNKNOWN_POOL)

    def _epoch(self, now: float) -> _Epoch:
        number = int(now // EPOCH_SECONDS)
        if not self._epochs or self._epochs[0].number != number:
            self._epochs = (_Epoch(number, self._token_bytes), *self._epochs[:1])
        return self._epochs[0]

    def _opening_with(self, peer: NodeId, address: tuple[str, int]) -> Opening | None:
        return self._opening_to.get((address, peer)) or self._opening_to.get((address, None))

    # ---- the sessions ----------------------------------------------------------------------------------------

    def _fresh_id(self) -> bytes:
        while (fresh := self._token_bytes(4)) in self.sessions:
            pass
        return fresh

    def _adopt(self, session: Session, now: float) -> None:
        """The session becomes the one to send in; the one before still receives for a while."""
        if len(self.sessions) >= MAX_SESSIONS:
            self._make_room()
        self.sessions[session.receive_id] = session
        before = self.by_peer.get(session.contact.id)
        if before is not None and before is not session:
            session.kept = before.kept
            if session.round_trip < 0:
                session.round_trip, session.variation = before.round_trip, before.variation
            self._retired[before.receive_id] = now + RETIRED_SECONDS
        self.by_peer[session.contact.id] = session

    def _await_confirmation(self, session: Session, ephemeral: bytes, resp: bytes) -> None:
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
            self._adopt(session, session.born)

    def confirm(self, session: Session, now: float) -> None:
        """A first datagram came in this session: the peer has our RESP."""
        known = self._unconfirmed.get(session.contact.id)
        if known is not None and known[0] is session:
            del self._unconfirmed[session.contact.id]
            self._adopt(session, now)

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
            if now - session.heard > (KEPT_IDLE_SECONDS if session.kept else IDLE_SECONDS):
                self.drop(session)
        for peer, until in list(self._shunned.items()):
            if until <= now:
                del self._shunned[peer]
        if self._epochs and now // EPOCH_SECONDS > self._epochs[0].number + 1:
            self._epochs = ()

    def _make_room(self) -> None:
        """Gives up an eighth of the sessions: strangers before contacts of the table, the longest idle first."""
        order = sorted(self.sessions.values(), key=lambda session: (session.kept, session.heard))
        for session in order[: MAX_SESSIONS // 8]:
            self.drop(session)


_PEER_ROLE = 32 + 32 + 32 + 1
"""Where the responder's role stands in what is signed."""


def _covered(
    pool: bytes,
    initiator: bytes,
    responder: bytes,
    roles: bytes,
    initiator_ephemeral: bytes,
    responder_ephemeral: bytes,
    cookie: bytes,
    receive_id: bytes,
    grant: bytes,
) -> bytes:
    """All of fixed length but the last, so no two handshakes cover the same bytes."""
    return b"".join(
        (
            pool,
            initiator,
            responder,
            roles,
            initiator_ephemeral,
            responder_ephemeral,
            cookie,
            receive_id,
            len(grant).to_bytes(2, "big"),
            grant,
        )
    )


def _keys(secret: bytes, signed: bytes) -> tuple[bytes, bytes]:
    """Keys for initiator to responder, and back."""
    both = blake2b(signed, digest_size=64, key=secret, person=b"titan/1/session").digest()
    return both[:32], both[32:]


def _mac(secret: bytes, nonce: bytes, minted: int, role: int, address: tuple[str, int]) -> bytes:
    bound = b"%b%d/%d/%d/%b" % (nonce, minted, role, address[1], address[0].encode())
    return blake2b(bound, digest_size=16, key=secret, person=b"titan/1/cookie").digest()
