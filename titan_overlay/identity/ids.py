"""256-bit ids of nodes, objects and pools: one space with the XOR metric (Kademlia paper, section 2.1)."""

from hashlib import blake2b, sha256
from typing import NewType

NodeId = NewType("NodeId", bytes)
"""32 bytes: SHA-256 of the node's raw Ed25519 public key."""

ObjectId = NewType("ObjectId", bytes)
"""32 bytes, in the same space as `NodeId`."""

PoolId = NewType("PoolId", bytes)
"""32 bytes: the pool's raw Ed25519 public key."""

ID_BITS = 256
ID_BYTES = 32


def node_id(public_key: bytes) -> NodeId:
    """The id of the node (or client) that has this raw 32-byte public key."""
    return NodeId(sha256(public_key).digest())


def distance(a: bytes, b: bytes) -> int:
    """XOR distance of two ids, as an integer below 2**256."""
    return int.from_bytes(a, "big") ^ int.from_bytes(b, "big")


def rank(object_id: bytes, node: bytes) -> bytes:
    """Order of holders of one object: smaller bytes rank first. Nobody can choose a key that ranks first everywhere."""
    return blake2b(object_id + node, digest_size=16, person=b"titan-rank").digest()


def solves_puzzle(node: bytes, zero_bits: int) -> bool:
    """Whether an id meets the static puzzle: H(id) starts with `zero_bits` zero bits (S/Kademlia paper, 4.1)."""
    if zero_bits == 0:
        return True
    return int.from_bytes(sha256(node).digest(), "big") >> (ID_BITS - zero_bits) == 0


def fingerprint(public_key: bytes) -> str:
    """Short text for a key, as it stands in `~fingerprint/name`: 32 hexadecimal digits (128 bits) of its id."""
    return node_id(public_key).hex()[:32]
