"""Lineage: who has asked a holder to hold an object, back to the object's publisher.

    publisher --signs--> holder --signs--> holder

Anybody with the right to host an object may say that it holds it. Whoever wants to draw voters evenly has to know whom
honest hands have chosen: the publisher signs for each node that it recruits, and a holder that mends signs for the one
that it recruits in its turn. The bytes travel in the holder's advertisement:

    signature of the publisher [, public key and signature of a holder]
"""

from titan_overlay.errors import BadMessage
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId, node_id
from titan_overlay.identity.keys import KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify_record
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor

LINKS_MAX = 2
"""So an advertisement fits in a datagram whatever the holder's grant. Publishing anew begins anew."""
_LINK_BYTES = KEY_BYTES + SIGNATURE_BYTES
LINEAGE_BYTES_MAX = LINKS_MAX * _LINK_BYTES - KEY_BYTES


def _covered(pool: PoolId, object_id: ObjectId, version: int, holder: NodeId) -> bytes:
    return b"titan/1/lineage\0" + pool + object_id + version.to_bytes(8, "big") + holder


def begin(key: SigningKey, pool: PoolId, object_id: ObjectId, version: int, holder: NodeId) -> bytes:
    """The lineage of a node that the publisher itself has asked.

    Args:
        key: the publisher's. version: of the descriptor.
    """
    return key.sign(_covered(pool, object_id, version, holder))


def extend(lineage: bytes, key: SigningKey, pool: PoolId, object_id: ObjectId, version: int, holder: NodeId) -> bytes:
    """The lineage of a node that a holder has asked, whose own this is; empty where it has none to give."""
    if not lineage or len(lineage) + _LINK_BYTES > LINEAGE_BYTES_MAX:
        return b""
    return lineage + key.public + key.sign(_covered(pool, object_id, version, holder))


def path(
    lineage: bytes, publisher: bytes, pool: PoolId, object_id: ObjectId, version: int, holder: NodeId
) -> tuple[NodeId, ...]:
    """The nodes through which the object came from its publisher to `holder`, which is the last of them.

    Args:
        publisher: public key that signed the descriptor.

    Raises:
        BadMessage: it does not lead there.
    """
    if len(lineage) > LINEAGE_BYTES_MAX or (len(lineage) + KEY_BYTES) % _LINK_BYTES:
        raise BadMessage(f"a lineage has {SIGNATURE_BYTES} bytes, or {_LINK_BYTES} more; this one has {len(lineage)}")
    signers, signatures = [publisher], [lineage[:SIGNATURE_BYTES]]
    for at in range(SIGNATURE_BYTES, len(lineage), _LINK_BYTES):
        signers.append(lineage[at : at + KEY_BYTES])
        signatures.append(lineage[at + KEY_BYTES : at + _LINK_BYTES])
    nodes = (*map(node_id, signers[1:]), holder)
    if len(set(nodes)) < len(nodes):
        raise BadMessage("a lineage does not lead through one node twice")
    for signer, signature, node in zip(signers, signatures, nodes, strict=True):
        if not verify_record(signer, signature, _covered(pool, object_id, version, node)):
            raise BadMessage(f"a lineage is not signed by {node_id(signer).hex()[:12]}, through which it leads")
    return nodes


def shown(
    advertisement: Signed[Advertisement], descriptor: Signed[Descriptor], pool: PoolId
) -> tuple[NodeId, ...] | None:
    """The path that a holder's advertisement shows; None: none that holds."""
    value = advertisement.value
    object_id = ObjectId(value.object_id)
    try:
        return path(value.lineage, descriptor.public, pool, object_id, value.version, advertisement.signer)
    except BadMessage:
        return None
