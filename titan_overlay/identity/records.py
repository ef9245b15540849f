"""Signed records: statements that third parties can check.

A signature covers `titan/1/<type>\\0`, the pool id and the bytes *as received*: what is relayed is never encoded again.
"""

from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity.ids import ID_BYTES, NodeId, PoolId, node_id
from titan_overlay.identity.keys import KEY_BYTES, SIGNATURE_BYTES, SigningKey, verify, verify_record
from titan_overlay.wire import codec

MAX_RECORD_BYTES = 1000
"""A record, signature and key included, must fit in one datagram with its envelope."""


Id = Annotated[bytes, msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
"""A field of 32 bytes. Like the ones below it is checked when a record is read, not when it is made."""

UnixTime = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
"""Unix seconds: finite, so that "has it expired?" always has an answer."""

Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
"""Whole unix seconds, up to the year 2106: five bytes, where many are shown in one datagram."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A version or sequence number; fits a database's 64-bit integers."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Record(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Base of everything that is signed. A subclass sets `LABEL`, which no other record may share."""

    LABEL: ClassVar[bytes] = b""
    LIMIT: ClassVar[int] = MAX_RECORD_BYTES
    """Bytes, signature and key included."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    public: bytes
    signature: bytes
    body: bytes


R = TypeVar("R", bound=Record)


class Signed(Generic[R]):
    """A record whose signature has been checked; `raw` is what to store and pass on."""

    __slots__ = ("public", "raw", "signer", "value")

    def __init__(self, value: R, public: bytes, raw: bytes) -> None:
        self.value = value
        self.public = public
        self.raw = raw
        self.signer: NodeId = node_id(public)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signed) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"Signed({self.value!r} by {self.signer.hex()[:12]})"


def _covered(label: bytes, pool: PoolId, body: bytes) -> bytes:
    return b"titan/1/" + label + b"\0" + pool + body


def sign(record: R, key: SigningKey, pool: PoolId) -> Signed[R]:
    """The record, signed by the key for this pool.

    Raises:
        BadMessage: it would not fit in a datagram.
    """
    body = codec.encode(record)
    raw = codec.encode(_Envelope(key.public, key.sign(_covered(record.LABEL, pool, body)), body))
    if len(raw) > record.LIMIT:
        raise BadMessage(
            f"the signed {record.LABEL.decode()} has {len(raw)} bytes, {record.LIMIT} is the limit: shorten it"
        )
    return Signed(record, key.public, raw)


def check(raw: bytes, type: type[R], pool: PoolId) -> Signed[R]:
    """The record in these bytes, if its signature holds in this pool.

    Raises:
        BadMessage: malformed, oversized, of another type or pool, or wrongly signed.
    """
    if len(raw) > type.LIMIT:
        raise BadMessage(f"a {type.LABEL.decode()} has at most {type.LIMIT} bytes, this one {len(raw)}")
    envelope = codec.decode(raw, _Envelope)
    if codec.encode(envelope) != raw:
        # Records are known by their bytes, so nobody on the way may make a second form of one.
        raise BadMessage("a record has one form on the wire; this is another")
    if len(envelope.public) != KEY_BYTES or len(envelope.signature) != SIGNATURE_BYTES:
        raise BadMessage("a record's key has 32 bytes and its signature 64")
    # What is remembered must be small: strangers choose what it is.
    holds = verify_record if len(raw) <= MAX_RECORD_BYTES else verify
    if not holds(envelope.public, envelope.signature, _covered(type.LABEL, pool, envelope.body)):
        raise BadMessage(f"the signature of this {type.LABEL.decode()} does not hold in pool {pool.hex()[:12]}")
    value: Any = codec.decode(envelope.body, type)
    return Signed(value, envelope.public, raw)


def claimed(raw: bytes, type: type[R]) -> tuple[bytes, R]:
    """The public key and the contents of a record as it gives itself out to be; nothing is checked.

    Raises:
        BadMessage: not a record of this type.
    """
    envelope = codec.decode(raw, _Envelope)
    return envelope.public, codec.decode(envelope.body, type)


def claimed_key(raw: bytes) -> bytes:
    """The public key that a record says it is signed by, before anything is checked.

    Raises:
        BadMessage: not a record.
    """
    return codec.decode(raw, _Envelope).public
