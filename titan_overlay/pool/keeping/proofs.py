"""Proofs of holding: what one node shows another in a probe.

A proof is a hash over what only the challenge tells (nonce, both nodes) and what only a holder has: of a service the
descriptor, of data a chunk drawn anew in every epoch. A node that keeps nothing but the chunk of this epoch, or that
fetches it from an honest holder when asked, passes: proofs find loss and rot, and liars who would not even do that.
"""

from hashlib import blake2b
from math import ceil

from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Content, Descriptor

EPOCH_SECONDS = 3600.0
"""Each epoch samples another chunk, so that an idle node reads each of its data objects once an hour."""
PROOF_BYTES = 8


def epoch_at(wall: float) -> int:
    """The epoch of this unix time."""
    return int(wall // EPOCH_SECONDS)


def sample_index(object_id: ObjectId, epoch: int, content: Content) -> int:
    """Which chunk the epoch draws."""
    chunks = max(1, ceil(content.size / content.chunk_bytes)) if content.chunk_bytes > 0 else 1
    draw = blake2b(object_id + _epoch_bytes(epoch), digest_size=8, person=b"titan-sample").digest()
    return int.from_bytes(draw, "big") % chunks


def sample_digest(object_id: ObjectId, epoch: int, chunk: bytes) -> bytes:
    """32 bytes of the drawn chunk, keyed by object and epoch."""
    return blake2b(chunk, digest_size=32, key=object_id + _epoch_bytes(epoch), person=b"titan-sample").digest()


def service_digest(descriptor: Signed[Descriptor]) -> bytes:
    """32 bytes of what a service is: the descriptor names its bundle by hash."""
    return blake2b(descriptor.raw, digest_size=32, person=b"titan-service").digest()


def proof(digest: bytes, nonce: bytes, prover: NodeId, verifier: NodeId) -> bytes:
    """8 bytes that nobody else can use: they are for this nonce, from this node, to that one."""
    return blake2b(nonce + prover + verifier + digest, digest_size=PROOF_BYTES, person=b"titan-probe").digest()


def _epoch_bytes(epoch: int) -> bytes:
    return epoch.to_bytes(8, "big", signed=True)
