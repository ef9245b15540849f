"""Requests that carry their sender's signature: where members may lie, no member's word for who asked is believed."""

from hashlib import sha256

import msgspec

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey, verify
from titan_overlay.mutable.epochs import Charter
from titan_overlay.mutable.requests import DELIVERED, Batch, Request
from titan_overlay.wire import codec

CLOCKS_SECONDS = 300.0
"""By which a leader's clock may be ahead of a member's own."""


def covered(pool: PoolId, object_id: bytes, request: Request) -> bytes:
    """What a sender signs: all of the request but what it says is settled, which only makes room."""
    said = (request.session, request.sequence, request.once, request.type, request.body)
    return b"titan/1/request\0" + pool + object_id + codec.encode(said)


def sign(request: Request, key: SigningKey, pool: PoolId, object_id: bytes) -> Request:
    """The request as its sender's own."""
    mine = msgspec.structs.replace(request, sender=key.public)
    return msgspec.structs.replace(mine, proof=key.sign(covered(pool, object_id, mine)))


class Proofs:
    """What a member checks before it believes that somebody asked for something. Each signature is checked once.

    Senders tell all members, and a link proves who speaks: what a member has heard from the sender itself it votes for
    without a look at the signature (as members that share keys with senders do in Castro and Liskov, "Practical
    Byzantine Fault Tolerance", 1999, section 5.2). The signature is for those who have not. So that a sender who signs
    falsely sets no member against another (Clement et al., "Making Byzantine Fault Tolerant Systems Tolerate Byzantine
    Faults", 2009), a leader proposes nothing, and is blamed for nothing, whose signature does not hold.
    """

    def __init__(self, charter: Charter, seen_max: int = 16_384) -> None:
        self._charter = charter
        self._seen: dict[bytes, bool] = {}
        """Requests that were asked for; True: the signature says so, False: the sender's own link."""
        self._seen_max = seen_max

    def heard(self, request: Request, teller: bytes) -> None:
        """A request as it came over a link of `teller`, a user's public key.

        Raises:
            Forbidden: it is another's, who has not signed it.
        """
        if request.sender == teller:
            self._remember(_digest(request, self._covered(request)), signed=False)
        else:
            self.check(request)

    def check(self, request: Request) -> None:
        """Raises Forbidden: its sender has not signed it."""
        said = self._covered(request)
        digest = _digest(request, said)
        if self._seen.get(digest):
            return
        if len(request.sender) != 32 or not verify(request.sender, request.proof, said):
            raise Forbidden("a request to this object is signed by its sender; this one is not")
        self._remember(digest, signed=True)

    def _covered(self, request: Request) -> bytes:
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
                if request.type == DELIVERED:
                    return False
                if _digest(request, self._covered(request)) not in self._seen:
                    self.check(request)
        except (BadMessage, Forbidden):
            return False
        return batch.now <= now + CLOCKS_SECONDS


def _digest(request: Request, said: bytes) -> bytes:
    return sha256(request.sender + request.proof + said).digest()
