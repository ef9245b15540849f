"""Requests that carry their sender's signature: where members may lie, no member's word for who asked is believed."""

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey, verify
from titan_overlay.mutable import authenticators, letters
from titan_overlay.mutable.authenticators import SharedKeys
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Charter
from titan_overlay.mutable.letters import Letters
from titan_overlay.mutable.requests import DELIVERED, REQUEST_BYTES_MAX, Batch, Request
from titan_overlay.wire import codec

CLOCKS_SECONDS = 300.0
"""By which a leader's clock may be ahead of a member's own."""


def covered(pool: PoolId, object_id: bytes, request: Request) -> bytes:
    """What a sender signs: all of the request but what it says is settled, which only makes room."""
    said = (request.session, request.sequence, request.once, request.type, request.body)
    return b"titan/1/request\0" + pool + object_id + codec.encode(said)


def sign(
    request: Request, key: SigningKey, pool: PoolId, object_id: bytes, shared: Iterable[bytes | None] = ()
) -> Request:
    """The request as its sender's own.

    Args:
        shared: with each member, in their order, if it is known (`authenticators.py`).
    """
    said = covered(pool, object_id, request)
    proof = authenticators.attach(key.sign(said), said, shared)
    return msgspec.structs.replace(request, sender=key.public, proof=proof)


class Proofs:
    """What a member checks before it believes that somebody asked for something. Each signature is checked once.

    A link proves who speaks, and so does a code under a key that was shared over one: what a member has heard from the
    sender itself, or what has the sender's code for it, it votes for without a look at the signature (as in Castro and
    Liskov, "Practical Byzantine Fault Tolerance", 1999, section 5.2). The signature is for all others. So that a sender
    who signs falsely sets no member against another (Clement et al., "Making Byzantine Fault Tolerant Systems Tolerate
    Byzantine Faults", 2009), a leader proposes nothing, and is blamed for nothing, whose signature does not hold.

    Args:
        keys: that this member shares with senders.
        letters: looks at what comes from objects.
    """

    def __init__(self, charter: Charter, keys: SharedKeys, letters: Letters, seen_max: int = 16_384) -> None:
        self._charter = charter
        self._keys = keys
        self._letters = letters
        self._configuration: Configuration
        self._seat: int | None = None
        self._seen: dict[bytes, bool] = {}
        """Requests that were asked for; True: the signature says so, False: the sender's own link."""
        self._seen_max = seen_max

    def sit(self, me: bytes, configuration: Configuration) -> None:
        """An epoch begins: where this member's codes stand."""
        self._configuration = configuration
        self._seat = configuration.members.index(me) if me in configuration.members else None

    def heard(self, request: Request, teller: bytes) -> None:
        """A request as it came over a link of `teller`, a user's public key.

        Raises:
            Forbidden: it is another's, who has not signed it.
        """
        if request.is_letter:
            self._letters.receive(request, self._charter.object_id)
        elif request.sender == teller:
            self._remember(_digest(request, self.covered(request)), signed=False)
        else:
            self.check(request)

    def check(self, request: Request) -> None:
        """Raises Forbidden: its sender has not signed it. BadMessage: it is no request."""
        if request.type == DELIVERED:
            letters.check_arrival(request, self._charter, self._configuration)
            return
        if request.is_letter:
            self._letters.check(request, self._charter.object_id)
            return
        said = self.covered(request)
        digest = _digest(request, said)
        if self._seen.get(digest):
            return
        if len(request.sender) != 32 or not verify(request.sender, authenticators.signature_of(request.proof), said):
            raise Forbidden("a request to this object is signed by its sender; this one is not")
        self._remember(digest, signed=True)

    def covered(self, request: Request) -> bytes:
        """What its sender signs."""
        return covered(self._charter.pool, self._charter.object_id, request)

    def _remember(self, digest: bytes, *, signed: bool) -> None:
        if signed or digest not in self._seen:
            if len(self._seen) >= self._seen_max:
                self._seen.pop(next(iter(self._seen)))
            self._seen[digest] = signed

    def holds(self, data: bytes, now: float) -> bool:
        """Whether a batch may be ordered: all of it was asked for, and it does not come from the future."""
        try:
            batch = codec.decode(data, Batch)
            for request in batch.requests:
                if request.size > REQUEST_BYTES_MAX:
                    return False
                if not self._is_for_me(request):
                    self.check(request)
        except (BadMessage, Forbidden):
            return False
        return batch.now <= now + CLOCKS_SECONDS

    def _is_for_me(self, request: Request) -> bool:
        """Whether its sender is a user who has told this member, over a link or by a code."""
        if request.is_letter or request.type == DELIVERED:
            return False
        said = self.covered(request)
        if self._seat is not None and authenticators.has_codes(request.proof):
            key = self._keys.of(request.sender)
            return authenticators.is_for(key, self._seat, request.proof, said) or _digest(request, said) in self._seen
        return _digest(request, said) in self._seen


def _digest(request: Request, said: bytes) -> bytes:
    return sha256(request.sender + request.proof + said).digest()
