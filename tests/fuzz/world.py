"""Who and what the fuzzed statements are about: a few keys, one pool, one moment."""

import asyncio
import random
from hashlib import sha256

from titan_overlay.ambient import Ambient
from titan_overlay.identity import grants, names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Grant, Right
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Record, Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Policy, Tombstone
from titan_overlay.overlay.bodies import contact
from titan_overlay.wire import codec

NOW = 1_700_000_000.0
POOL_KEY = SigningKey(b"p" * 32)
POOL = PoolId(POOL_KEY.public)
RIGHTS = Rights(POOL)
OWNER = SigningKey(b"o" * 32)
KEYS = [POOL_KEY, OWNER, *(SigningKey(bytes((number,)) * 32) for number in range(1, 7))]
NODES = KEYS[2:]
ME = NODES[0]

TOKEN = b"token"
DATA = b"content " * 40
DATA_ID = sha256(DATA).digest()
OWN_NAME = f"~{OWNER.id.hex()[:32]}/thing"
POOL_NAME = "weather/berlin"
DATA_NAME = names.content_name(DATA_ID)


def ambient() -> Ambient:
    """A world that is the same for every input."""
    return Ambient(lambda: NOW, random.Random(7), random.Random(8).randbytes)


def peer(number: int) -> Contact:
    """The node with this number, at an address of its own."""
    key = NODES[number % len(NODES)]
    return contact(key.id, f"10.0.0.{number % len(NODES) + 1}", 4747)


def granted(right: Right, pattern: str = "*", depth: int = 0) -> Signed[Grant]:
    """By the pool, to the owner."""
    return grants.issue(POOL_KEY, POOL, OWNER.id, right, now=NOW - 10, expires=NOW + 1000, pattern=pattern, depth=depth)


def descriptor(name: str = OWN_NAME, version: int = 1, key: SigningKey = OWNER, **more: object) -> Signed[Descriptor]:
    """Of a service, or of `DATA` under its name."""
    if name == DATA_NAME:
        content = Content(len(DATA), 256 * 1024, sha256(DATA_ID).digest())
        value = Descriptor(name, "data", "", version, NOW - 5, Policy(), content=content)
    else:
        policy = Policy(hosts="anyone", requires={"cores": "4"}, ttl=3600.0)
        grant = granted(Right.PUBLISH).raw
        value = Descriptor(
            name, "service", "echo", version, NOW - 5, policy, sha256(TOKEN).digest(), grant=grant, idempotent=("str",)
        )
    return records.sign(value, key, POOL)


def object_id(name: str = OWN_NAME) -> ObjectId:
    return names.object_id(POOL, name)


def advertisement(number: int = 1, name: str = OWN_NAME, **changes: object) -> Signed[Advertisement]:
    """Of the node with this number."""
    values: dict[str, object] = {
        "object_id": object_id(name),
        "host": f"10.0.0.{number % len(NODES) + 1}",
        "port": 4747,
        "sequence": 10,
        "expires": NOW + 1000,
        "version": 1,
        **changes,
    }
    return records.sign(Advertisement(**values), NODES[number % len(NODES)], POOL)  # type: ignore[arg-type]


def tombstone(name: str = OWN_NAME, version: int = 1, key: SigningKey = OWNER, token: bytes = b"") -> Signed[Tombstone]:
    made = Tombstone(descriptor(name, version).raw, version, NOW + 86400, token)
    return records.sign(made, key, POOL)


def signed(body: bytes, label: bytes, key: SigningKey) -> bytes:
    """A record with this body, whatever it is, and a signature that holds: what only its signer can have made."""
    signature = key.sign(b"titan/1/" + label + b"\0" + POOL + body)
    return codec.encode([key.public, signature, body])


def body_of(record: Record) -> bytes:
    return codec.encode(record)


def node(number: int) -> NodeId:
    return NODES[number % len(NODES)].id


_LOOP: asyncio.AbstractEventLoop | None = None


def run(coroutine: object) -> object:
    """Runs a coroutine on one loop that all inputs share: a loop for each would cost more than the input does."""
    global _LOOP
    if _LOOP is None:
        from titan_overlay.testing import VirtualLoop

        _LOOP = VirtualLoop(seed=7)
    return _LOOP.run_until_complete(coroutine)  # type: ignore[arg-type]
