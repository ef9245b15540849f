"""The messages that every object answers without writing anything: Ping, Info, Stats, Schema, Describe, Bundle.

The host answers them itself, past the mailbox, so that a busy object still says that it is busy.
"""

from typing import Any

import msgspec

from titan_overlay.identity.statements import Policy
from titan_overlay.pool.message import Message


class Pong(msgspec.Struct, frozen=True):
    """`holder`: id of the node that answered, 64 hexadecimal digits. `at`: its wall clock, unix seconds."""

    holder: str
    at: float


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What this holder knows of the object.

    `copies`: live copies that it counts, itself included; `since`: unix seconds.
    """

    name: str
    kind: str
    type: str
    version: int
    policy: Policy
    copies: int
    since: float
    holder: str


class ObjectStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counted at this holder since it holds the object. `mean_seconds`: from arrival to reply, waiting included."""

    messages: int
    errors: int
    refused: int
    mean_seconds: float
    running: int
    waiting: int


class MessageSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One message type of an object. `message` and `reply` are JSON schemas (an empty one allows anything)."""

    message: dict[str, Any]
    reply: dict[str, Any]
    stream: bool = False
    idempotent: bool = False
    text: str = ""
    """First line of the handler's docstring."""


class Ping(Message[Pong], namespace="titan"):
    """Are you there?"""


class Info(Message[ObjectInfo], namespace="titan"):
    """What are you?"""


class Stats(Message[ObjectStats], namespace="titan"):
    """How are you doing?"""


class Schema(Message[dict[str, MessageSchema]], namespace="titan"):
    """Which messages do you take? By type name."""


class Describe(Message[bytes], namespace="titan"):
    """The signed descriptor, raw."""


class Bundle(Message[bytes], namespace="titan"):
    """The signed bundle of your code, for a node that is to hold a copy; empty where the type is an installed one."""


INNER: frozenset[str] = frozenset(cls.wire_type for cls in (Stats, Bundle))
"""What tells more than an object's descriptor: not for everybody, where not everybody may send to it."""

QUESTIONS: frozenset[str] = frozenset(cls.wire_type for cls in (Ping, Info, Stats, Schema, Describe, Bundle))
