"""What is said to a group: by its members to each other, and by those who send it messages.

All of it travels as messages to the object itself, under types that no class can take (`titan.group.*`). Bodies are
msgpack arrays; all decoders are total.
"""

from typing import Annotated

import msgspec

from titan_overlay.identity.keys import SIGNATURE_BYTES
from titan_overlay.mutable.authenticators import CODE_BYTES
from titan_overlay.mutable.engine import Count
from titan_overlay.mutable.epochs import RecoveryOrder
from titan_overlay.mutable.requests import VOUCHED_MAX, Reply
from titan_overlay.wire import codec

NOTHING = codec.encode(None)
"""Where there is nothing to ask, or to answer."""

STEP = "titan.group.Step"
"""Member to member: messages of the engine. Answered with nothing."""
SUBMIT = "titan.group.Submit"
"""A request to be ordered and executed. Answered with a `Reply`, or `NotHere` with the leader as hint."""
ENTRUST = "titan.group.Entrust"
"""The same to the leader of a byzantine group alone. Answered with a `Vouched`, or `NotHere`: all have to be asked."""
SHARED_KEY = "titan.group.SharedKey"
"""Which secret does this member share with me? Answered with its 32 bytes."""
VOUCH = "titan.group.Vouch"
"""Member to leader: `Vouchers` for the replies of an entry."""
FORWARD = "titan.group.Forward"
"""A letter from the outbox of a mutable object. Answered as a request."""
SEALS = "titan.group.Seals"
"""Member to member of a byzantine group: `Signed` for what is in the outbox."""
ARRIVED = "titan.group.Arrived"
"""Member to member of a byzantine group: `Signed` for what has left."""
READ = "titan.group.Read"
"""A question to a read-only handler. Answered with an `Answer`."""
EPOCHS = "titan.group.Epochs"
"""Who are the members, and what proves it? Answered with a `Chain`, by members and by whoever founds the group."""
CHAIN = "titan.group.Chain"
"""Member to member: the epoch in which you speak is over; here is what proves it."""
CONFIRM = "titan.group.Confirm"
"""Member to member: an old member's signature under the next epoch."""
STATE = "titan.group.State"
"""Member to member: a piece of a snapshot."""
PROMISED = "titan.group.Promised"
"""Member to member: what have I told you in this epoch? Answered with a `Promise`."""
RESIGN = "titan.group.Resign"
"""Member to member: the sender takes no part in this epoch any more; another should be in its place."""
NEXT_KEY = "titan.group.NextKey"
"""Member to member: with which key will you vote in the next epoch? Answered with a `KeyOffer`."""
CATCH_UP = "titan.group.CatchUp"
"""The owner to a member that is left, with the same order: ask the others what you lack, before you all stop."""
RECOVER = "titan.group.Recover"
"""The owner to a member that is left: stop, and say from where you would go on. Answered with a `Legacy`."""
CAN_RUN = "titan.group.CanRun"
"""The owner to a member: does this `NewCode` run on your node? Answered with why not, or with an empty text."""
STATUS = "titan.group.Status"
"""How does this member see its group?"""
WATCH = "titan.group.Watch"
"""A stream of `Change`s."""

ADMIT = "titan.group.Admit"
"""Make this node a member too. Answered once it is one."""

TYPES = (
    STEP,
    SUBMIT,
    ENTRUST,
    SHARED_KEY,
    VOUCH,
    FORWARD,
    SEALS,
    ARRIVED,
    READ,
    EPOCHS,
    CHAIN,
    CONFIRM,
    STATE,
    PROMISED,
    RESIGN,
    NEXT_KEY,
    CATCH_UP,
    RECOVER,
    CAN_RUN,
    STATUS,
    WATCH,
    ADMIT,
)

BYZANTINE = frozenset({ENTRUST, SHARED_KEY, VOUCH, SEALS, ARRIVED})
"""What only groups are told whose members are not believed."""


class Admit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whoever published the object may ask for that, and who has a grant to administer its name."""

    node: bytes
    grant: bytes = b""


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Messages of one member's engine to another's, in order."""

    epoch: Count
    messages: list[msgspec.Raw]
    shows: float
    """What the sender's clock shows, unix seconds."""


class Vouchers(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the requests of one entry came to at one member: a code for each, in their order (`authenticators.py`)."""

    height: Count
    codes: Annotated[bytes, msgspec.Meta(max_length=VOUCHED_MAX * CODE_BYTES)]


class Vouched(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A reply, and who else vouches for it."""

    reply: Reply
    codes: tuple[tuple[bytes, bytes], ...]
    """(member, its code)."""


class Recover(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the owner orders, and the owner's signature."""

    order: RecoveryOrder
    signature: bytes


class Signed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member's signatures for messages of the outbox (`letters.py`)."""

    epoch: Count
    """Of its key."""
    signatures: tuple[tuple[Count, Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES)]], ...]
    """Number and signature."""


class Read(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A question that changes nothing."""

    type: str
    body: bytes
    stale_ok: bool = False
    """Whether this member's state will do as it is, even if others are ahead."""


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a read came to, and from which state."""

    reply: Reply
    epoch: int
    height: int


class StateWanted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A piece of a snapshot at or above a height."""

    index: Count
    offset: Count


class StatePiece(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Bytes of a snapshot's file. A member that has a newer one than before says so by its `index`: begin again."""

    index: Count
    size: Count
    data: bytes


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One executed request, as those who watch see it."""

    number: int
    """Counts up from 1 over the object's whole life."""
    height: int
    time: float
    sender: bytes
    type: str
    body: bytes
    reply: bytes


class Watch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Changes from this number on; 0: from now on."""

    start: Count


class Numbered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a `Change` begins with."""

    number: Count


GIVEN_UP = "given up"
"""Role of a member whose epoch the owner gives up."""


class MemberStatus(msgspec.Struct, frozen=True):
    """How one member sees its group."""

    member: str
    role: str
    leader: str
    epoch: int
    term: int
    members: tuple[str, ...]
    learners: tuple[str, ...]
    first: int
    """Lowest height in its log."""
    last: int
    committed: int
    executed: int
    snapshot: int
    """Height of its last snapshot."""
    trouble: str = ""
    """Why this member takes no part any more, or empty."""
    changes: int = -1
    """Number of the last change that it has executed; -1: it does not say."""
    root: str = ""
    """Of its last snapshot, hexadecimal; empty: it has made none itself."""
