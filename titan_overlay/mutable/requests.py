"""What stands in the order of a mutable object: batches of requests, stamped with what all members must agree on."""

import re
from hashlib import sha256
from typing import Final

import msgspec

from titan_overlay.errors import BadMessage, RemotableError, WireError, from_wire
from titan_overlay.mutable.in_order import in_order
from titan_overlay.wire import codec
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

OPEN = "titan.group.Open"
"""Opens a session; answered with its number."""
DELIVERED = "titan.group.Delivered"
"""A message of the outbox has arrived, says the member that sends this; the body is its number."""
BATCH = "titan.group.Batch"
"""Several messages with one place in the order; the body is a list of `Part`. Answered with a list of `Reply`."""
UPGRADE = "titan.group.Upgrade"
"""Another class takes over the state; the body is a `NewCode`, the sender the object's owner."""
REQUEST_BYTES_MAX = MAX_PAYLOAD_BYTES - (32 << 10)
"""Of one request: what members send each other has it, and four certificates of a large group, in one frame."""
LETTER_BYTES_MAX = REQUEST_BYTES_MAX - (96 << 10)
"""Of a message for the outbox: the rest is for its seal, which has the chain of epochs."""
PARTS_MAX = 4096
ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
"""As in the repr of an object that has none of its own."""
TEXT_MAX = 2000
"""Characters of what a handler raised."""
VOUCHED_MAX = 512
"""Requests of one entry, where members vouch for each other's replies."""


class Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message without what is said about it."""

    type: str
    body: bytes


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message to the object. What makes it the same when it is sent again: session and sequence, or `once`."""

    sender: bytes
    """Public key of the user who sent it; of a letter, id of the object."""
    session: int
    """Number of an open session; 0: none."""
    sequence: int
    """Counts up from 1 within a session; in none, the number of a letter in the sender's outbox."""
    settled: int
    """The sender has the replies to all sequences below this."""
    once: str
    """The sender's own key for it, kept for a day; empty: none."""
    type: str
    body: bytes
    proof: bytes = b""
    """The sender's signature, where members are not believed (byzantine); of a letter, its seal (`letters.py`)."""

    @property
    def is_letter(self) -> bool:
        """It comes from the outbox of a mutable object."""
        return self.session == 0 and self.sequence > 0

    @property
    def size(self) -> int:
        """Bytes, about: of all that its sender can make long."""
        return len(self.once.encode()) + len(self.type.encode()) + len(self.body) + len(self.proof)

    def digest(self) -> bytes:
        """Of what it asks for: who sends another request under the same `once` has made a mistake."""
        return sha256(self.type.encode() + b"\0" + self.body).digest()[:16]


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Requests that were ordered together."""

    now: float
    """The proposer's wall clock, unix seconds; members never let it go back."""
    seed: bytes
    """Of `ctx.random`, drawn by the proposer."""
    requests: tuple[Request, ...]


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a request came to: the encoded value, or an encoded `WireError`."""

    body: bytes
    failed: bool = False

    @property
    def is_retryable(self) -> bool:
        """It failed for a reason that may pass."""
        return self.failed and from_wire(codec.decode(self.body, WireError)).retryable


def failed(why: RemotableError) -> Reply:
    """What a request came to that was refused, or whose handler raised: the same at all members."""
    text = text_of(why)
    try:
        wire = in_order(msgspec.structs.replace(why.to_wire(), text=text))
        return Reply(codec.encode(wire), failed=True)
    except Exception:  # an error of the author's own, without a code or with fields that no message can hold
        wire = WireError(getattr(why, "code", type(why).__name__), text, why.maybe_executed)
        return Reply(codec.encode(wire), failed=True)


def text_of(why: BaseException) -> str:
    """What a handler raised, the same at all members: without addresses in memory, and such that it can be sent."""
    try:
        text = ADDRESS.sub("", str(why))[:TEXT_MAX]
    except Exception:
        return "(its text cannot be shown)"
    return text.encode("utf-8", "backslashreplace").decode()


def decode_request(body: bytes | msgspec.Raw) -> Request:
    """What somebody asks of a mutable object. BadMessage: it is nothing that anybody may ask for."""
    request = codec.decode(body, Request)
    if request.type == DELIVERED or (request.type != OPEN and not (request.session or request.once)):
        raise BadMessage("a request to a mutable object has a session or a key of its own")
    if request.size > REQUEST_BYTES_MAX:  # ordered, it could be sent to no other member, and all that follows neither
        raise BadMessage(
            f"a message to a mutable object has {REQUEST_BYTES_MAX} bytes at most with its proof, not {request.size}: "
            "put it as data"
        )
    return request
