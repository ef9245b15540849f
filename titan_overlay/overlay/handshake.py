"""The handshake: how two peers that share nothing come to share a session.

Theory of operation
-------------------

    initiator                                               responder

    HELLO   nonce, pool (zeros: not known yet), padding  -->      keeps nothing
            <--   COOKIE   nonce, pool, key, role, ephemeral, minted, mac
    INIT    nonce, minted, mac, role, id for datagrams,
            key, ephemeral, credentials, signature       -->      proves address, then key: makes the session
            <--   RESP     nonce, id for datagrams, salt, address seen, credentials, signature

**Nothing is kept for a stranger.** A COOKIE is a MAC over nonce, time, role and the sender's address, made with a
secret that changes every `EPOCH_SECONDS`; only who can receive at that address can return it. It is no larger than the
HELLO (which is padded), so a forged source address gains an attacker nothing. Signatures are checked after the cookie.

**What is signed.** Both signatures cover a label of their own, the pool, both ids and roles, both ephemerals, the
cookie, and the initiator's session id and credentials; the RESP's also the responder's session id, the salt, the
address it saw and its own credentials. So neither side can be led to believe in another peer, pool, role or exchange
than the other side does (the sign-and-MAC shape of SIGMA; discv5 is the closest published model).

**Keys.** X25519 of both ephemerals, hashed with everything that was signed: one key for each direction. The
responder's ephemeral serves all handshakes of one epoch and is forgotten with it; its fresh `salt` makes the keys of
each RESP unique. A cookie is spent once: an INIT that is replayed within its life makes no session.

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

**Who may.** Both sides check that the other may be in the pool (its credentials) and, where it serves, that its id
has solved the pool's puzzle. What a pool asks for can be asked before any of this: an ASK is answered with the signed
pool record, in no more bytes and without keeping anything.

This file does no I/O: datagrams in, `Step`s out.
"""

import struct
from collections.abc import Callable
from hmac import compare_digest
from math import inf

from titan_overlay.buckets import Buckets, Limit
from titan_overlay.errors import Forbidden
from titan_overlay.identity.contacts import pack_address, unpack_address
from titan_overlay.identity.ids import NodeId, PoolId, node_id
from titan_overlay.identity.keys import SIGNATURE_BYTES, Ephemeral, SigningKey, verify
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.subnets import subnet
from titan_overlay.overlay.bodies import contact
from titan_overlay.overlay.openings import Opening, Step
from titan_overlay.overlay.packets import (
    ASK,
    ASK_BYTES,
    ASK_FORM,
    CHEAP,
    CLIENT,
    COOKIE,
    COOKIE_FORM,
    COOKIE_SECONDS,
    EPOCH_SECONDS,
    HELLO,
    HELLO_BYTES,
    HELLO_FORM,
    INIT,
    INIT_FORM,
    INTRUDER,
    MAX_CREDENTIALS_BYTES,
    NOT_ADMITTED,
    PEER_ROLE,
    REASONS,
    REFUSED,
    REFUSED_FORM,
    RESP,
    RESP_FORM,
    RULES,
    RULES_FORM,
    SERVING,
    UNKNOWN_POOL,
    UNSOLVED,
    VERSION,
    WRONG_NODE,
    WRONG_POOL,
    WRONG_VERSION,
    Epoch,
    cookie_mac,
    covered,
    session_keys,
)
from titan_overlay.overlay.sessions import Session
from titan_overlay.overlay.sessiontable import SessionTable

MAX_OPENINGS = 256
MAX_SPENT = 4096
"""Cookies remembered: as many subnets as open 4 sessions each in the life of one."""
UNSHOWN_SECONDS = 300.0
"""In a pool that has become private: what the news of it may take to reach everybody (`rules.ROUND_SECONDS`)."""
ARRIVALS = Limit(rate=5.0, burst=64)
"""Sessions that one subnet may open: each costs two signatures, and a place that others could have."""


class Handshakes(SessionTable):
    """All sessions of one node, and the handshakes under way that lead to more.

    Args:
        rights: of the pool. While it is not known which (until the first RESP), this node answers no HELLO.
        wall: unix time, for what was signed with an end.
    """

    def __init__(
        self, key: SigningKey, rights: Rights, token_bytes: Callable[[int], bytes], wall: Callable[[], float]
    ) -> None:
        super().__init__(token_bytes)
        self.key = key
        self.rights = rights
        self.credentials = b""
        """What this node shows to others."""
        self.role = CLIENT
        self._wall = wall
        self.openings: dict[bytes, Opening] = {}
        """By nonce."""
        self._opening_to: dict[tuple[tuple[str, int], bytes | None], Opening] = {}
        self._epochs: tuple[Epoch, ...] = ()
        self._arrivals: Buckets[str] = Buckets(ARRIVALS)
        self._spent: dict[bytes, float] = {}
        """Cookies that have led to a session, by their MACs, and until when they would be good. The oldest first."""

    @property
    def pool(self) -> PoolId | None:
        """The pool's id, if it is known."""
        return self.rights.known_pool

    # ---- initiator -------------------------------------------------------------------------------------------

    def begin(self, address: tuple[str, int], expected: NodeId | None, now: float) -> tuple[Opening, bool] | None:
        """The opening to this peer, and whether it is new (then `datagram` is to be sent). None: too many at once."""
        opening = self._opening_to.get((address, expected))
        if opening is not None:
            return opening, False
        if len(self.openings) >= MAX_OPENINGS:
            return None
        opening = Opening(address, expected, self._token_bytes(8), now)
        opening.datagram = HELLO_FORM.pack(HELLO, VERSION, opening.nonce, self.pool or UNKNOWN_POOL).ljust(
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
            if kind == COOKIE and len(data) == COOKIE_FORM.size:
                return self._cookie(data, address, now)
            if kind == INIT:
                return self._init(data, address, now)
            if kind == RESP:
                return self._resp(data, address, now)
            if kind == REFUSED and len(data) == REFUSED_FORM.size:
                return self._refused(data, address)
            if kind == ASK and len(data) >= ASK_BYTES:
                return self._asked(data)
        except (struct.error, ValueError, IndexError, OSError):
            pass
        return Step("malformed")

    def _cookie(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, version, nonce, pool, public, role, ephemeral, minted, mac = COOKIE_FORM.unpack(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or opening.ephemeral or version != VERSION:
            return Step("stray")
        if self.pool is not None and pool != self.pool:
            return self._failed(opening, WRONG_POOL, pool)
        peer = node_id(public)
        if opening.expected not in (None, peer) or peer == self.key.id:
            return self._failed(opening, WRONG_NODE, pool)
        if role == SERVING and not self.rights.may_serve(peer):
            return self._failed(opening, CHEAP, pool)
        opening.ephemeral = Ephemeral(self._token_bytes(32))
        opening.peer = (public, ephemeral)
        opening.receive_id = self.fresh_id()
        opening.signed = covered(
            pool,
            self.key.id,
            peer,
            bytes((self.role, role)),
            opening.ephemeral.public,
            ephemeral,
            nonce + minted.to_bytes(4, "big") + mac,
            opening.receive_id,
            self.credentials,
        )
        head = INIT_FORM.pack(
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
            len(self.credentials),
        )
        opening.datagram = head + self.credentials + self.key.sign(b"titan/1/init\0" + opening.signed)
        opening.sent_at = now
        opening.tries = 1
        return Step(reply=opening.datagram, opening=opening)

    def _resp(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, nonce, send_id, _salt, seen_size, seen, grant_size = RESP_FORM.unpack_from(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or opening.ephemeral is None:
            return Step("stray")
        if len(data) != RESP_FORM.size + grant_size + SIGNATURE_BYTES or grant_size > MAX_CREDENTIALS_BYTES:
            return Step("malformed")
        public, ephemeral = opening.peer
        signed = opening.signed + data[1:-SIGNATURE_BYTES]
        if not verify(public, data[-SIGNATURE_BYTES:], b"titan/1/resp\0" + signed):
            return Step("malformed")
        # Read before anything is over: what cannot be read opens nothing, and leaves nobody waiting.
        observed = unpack_address(seen[:seen_size])
        peer = contact(node_id(public), *address)
        secret = opening.ephemeral.agree(ephemeral)
        if secret is None:
            return self._failed(opening, NOT_ADMITTED, b"")
        shown = data[RESP_FORM.size : -SIGNATURE_BYTES]
        theirs = PoolId(opening.signed[:32])
        if self.pool not in (None, theirs):  # another opening has told meanwhile where we are
            return self._failed(opening, WRONG_POOL, theirs)
        self.rights.found(theirs)
        if not self._may_join(node_id(public), public, shown):
            return self._failed(opening, INTRUDER, b"")
        self.abandon(opening)
        session = Session(
            contact=peer,
            send_id=send_id,
            receive_id=opening.receive_id,
            keys=session_keys(secret, signed, called=False),
            serving=opening.signed[PEER_ROLE] == SERVING,
            credentials=shown,
            born=now,
        )
        if opening.tries == 1:
            session.measured(now - opening.sent_at)
        self.adopt(session, now)
        return Step(session=session, opening=opening, observed=observed)

    def _refused(self, data: bytes, address: tuple[str, int]) -> Step:
        _, nonce, reason, pool = REFUSED_FORM.unpack(data)
        opening = self.openings.get(nonce)
        if opening is None or opening.address != address or reason not in REASONS:
            return Step("stray")
        return self._failed(opening, reason, pool)

    def _failed(self, opening: Opening, reason: int, pool: bytes) -> Step:
        self.abandon(opening)
        return Step("refused", opening=opening, failure=reason, pool=pool)

    # ---- responder -------------------------------------------------------------------------------------------

    def _hello(self, data: bytes, address: tuple[str, int], now: float) -> Step:
        _, version, nonce, pool = HELLO_FORM.unpack_from(data)
        if self.pool is None:
            return Step("early")
        if version != VERSION:
            return Step("wrong_version", reply=self._refusal(nonce, WRONG_VERSION))
        if pool not in (self.pool, UNKNOWN_POOL):
            return Step("wrong_pool", reply=self._refusal(nonce, WRONG_POOL))
        epoch = self._epoch(now)
        minted = int(now) & 0xFFFFFFFF
        mac = cookie_mac(epoch.secret, nonce, minted, self.role, address)
        return Step(
            reply=COOKIE_FORM.pack(
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
        _, version, nonce, minted, mac, my_role, role, send_id, public, ephemeral, size = INIT_FORM.unpack_from(data)
        if version != VERSION or len(data) != INIT_FORM.size + size + SIGNATURE_BYTES or size > MAX_CREDENTIALS_BYTES:
            return Step("malformed")
        epoch = next((e for e in self._epochs if e.number == int(minted // EPOCH_SECONDS)), None)
        if epoch is None or self.pool is None or not 0 <= now - minted <= COOKIE_SECONDS:
            return Step("stale_cookie")
        if not compare_digest(mac, cookie_mac(epoch.secret, nonce, minted, my_role, address)):
            return Step("bad_cookie")
        # From here on the address is proven.
        peer = node_id(public)
        shown = data[INIT_FORM.size : -SIGNATURE_BYTES]
        repeated = self.repeat(peer, ephemeral)
        if repeated:
            return Step(reply=repeated)
        if mac in self._spent:
            return Step("replayed")
        if self.is_shunned(peer, now) or peer == self.key.id:
            return Step("shunned")
        if self._arrivals.take(subnet(*address), 1, now):
            return Step("hasty")
        if role == SERVING and not self.rights.may_serve(peer):
            return Step("not_admitted", reply=self._refusal(nonce, UNSOLVED))
        own = self._opening_with(peer, address)
        if own is not None and own.ephemeral is not None and self.key.id < peer:
            return Step("crossed")
        cookie = nonce + minted.to_bytes(4, "big") + mac
        roles = bytes((role, my_role))
        signed = covered(self.pool, peer, self.key.id, roles, ephemeral, epoch.ephemeral.public, cookie, send_id, shown)
        if not verify(public, data[-SIGNATURE_BYTES:], b"titan/1/init\0" + signed):
            return Step("malformed")
        secret = epoch.ephemeral.agree(ephemeral)
        if secret is None:
            return Step("malformed")
        if not self._may_join(peer, public, shown):
            return Step("not_admitted", reply=self._refusal(nonce, NOT_ADMITTED))
        seen = pack_address(address)
        head = RESP_FORM.pack(
            RESP,
            nonce,
            receive_id := self.fresh_id(),
            self._token_bytes(16),
            len(seen),
            seen,
            len(self.credentials),
        )
        signed += (head + self.credentials)[1:]
        resp = head + self.credentials + self.key.sign(b"titan/1/resp\0" + signed)
        session = Session(
            contact=contact(peer, *address),
            send_id=send_id,
            receive_id=receive_id,
            keys=session_keys(secret, signed, called=True),
            serving=role == SERVING,
            credentials=shown,
            born=now,
            called=True,
        )
        if own is not None:
            self.abandon(own)
        self._spend(mac, now)
        self.await_confirmation(session, ephemeral, resp)
        return Step(reply=resp, session=session, opening=own)

    def _spend(self, mac: bytes, now: float) -> None:
        while self._spent:
            oldest = next(iter(self._spent))
            if self._spent[oldest] >= now and len(self._spent) < MAX_SPENT:
                break
            del self._spent[oldest]
        self._spent[mac] = now + COOKIE_SECONDS

    def revise(self, now: float) -> list[Session]:
        """Rights have changed: drops the sessions with peers that would not be admitted now, and gives them back.

        Who has shown nothing, because nothing was asked for, keeps its session for a while: who has not heard yet that
        the pool is private is told in it. Who has not solved the puzzle serves no longer.
        """
        gone = []
        for session in list(self.sessions.values()):
            if self._may_join(session.contact.id, b"", session.credentials):
                session.ends = inf
                session.serving = session.serving and self.rights.may_serve(session.contact.id)
            elif not session.credentials:
                session.ends = min(session.ends, now + UNSHOWN_SECONDS)
            else:
                self.drop(session)
                gone.append(session)
        return gone

    def _may_join(self, peer: NodeId, public: bytes, shown: bytes) -> bool:
        try:
            self.rights.check_join(shown, peer, public, self._wall())
        except Forbidden:
            return False
        return True

    def _asked(self, data: bytes) -> Step:
        """What are the rules here? Anybody may know."""
        _, version, nonce = ASK_FORM.unpack_from(data)
        if version != VERSION or not self.rights.raw_record:
            return Step("early")
        return Step(reply=RULES_FORM.pack(RULES, nonce) + self.rights.raw_record)

    def _refusal(self, nonce: bytes, reason: int) -> bytes:
        return REFUSED_FORM.pack(REFUSED, nonce, reason, self.pool or UNKNOWN_POOL)

    def _epoch(self, now: float) -> Epoch:
        number = int(now // EPOCH_SECONDS)
        if not self._epochs or self._epochs[0].number != number:
            self._epochs = (Epoch(number, self._token_bytes), *self._epochs[:1])
        return self._epochs[0]

    def _opening_with(self, peer: NodeId, address: tuple[str, int]) -> Opening | None:
        return self._opening_to.get((address, peer)) or self._opening_to.get((address, None))
