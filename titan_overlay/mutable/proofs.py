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
    """What a member checks before it believes that somebody asked for something. Each signature is checked once."""

    def __init__(self, charter: Charter, seen_max: int = 16_384) -> None:
        self._charter = charter
        self._seen: dict[bytes, None] = {}
        self._seen_max = seen_max

    def check(self, request: Request) -> None:
        """Raises Forbidden: its sender has not signed it."""
        charter = self._charter
        statement = covered(charter.pool, charter.object_id, request)
        seen = sha256(request.sender + request.proof + statement).digest()
        if seen in self._seen:
            return
        if len(request.sender) != 32 or not verify(request.sender, request.proof, statement):
            raise Forbidden("a request to this object is signed by its sender; this one is not")
        if len(self._seen) >= self._seen_max:
            self._seen.pop(next(iter(self._seen)))
        self._seen[seen] = None

    def holds(self, data: bytes, now: float) -> bool:
        """Whether a batch may be ordered: all of it was asked for, and it does not come from the future."""
        try:
            batch = codec.decode(data, Batch)
            for request in batch.requests:
                if request.type == DELIVERED:
                    return False
                self.check(request)
        except (BadMessage, Forbidden):
            return False
        return batch.now <= now + CLOCKS_SECONDS
