"""Titan Overlay: a pool of named objects on a peer-to-peer network.

    import titan_overlay as titan

    async with titan.connect("host:port") as pool:
        print(await pool.send("greeter", "hello"))

These names are the public interface; objects of the pool, the standard ones included, use nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from titan_overlay.errors import (
    BadMessage,
    ConfigError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    Gone,
    NotFound,
    NotHere,
    Overloaded,
    ReentrantCall,
    RemotableError,
    RemoteError,
    StorageError,
    TitanError,
    Unavailable,
    error,
)
from titan_overlay.mutable.decorators import batch, mutable, readonly
from titan_overlay.version import VERSION as __version__  # noqa: N811 - the name that Python tools look for

if TYPE_CHECKING:
    from titan_overlay.client import Answer, Description, Located, Pool, Receipt
    from titan_overlay.commands import Commands, Face, Serving
    from titan_overlay.connecting import SyncPool, asend, connect, connect_sync, send
    from titan_overlay.identity.statements import Policy
    from titan_overlay.mutable.health import GroupHealth, MemberHealth
    from titan_overlay.mutable.talk import Change
    from titan_overlay.mutable.walkable import WalkableDict
    from titan_overlay.pool.context import Context, Sender
    from titan_overlay.pool.hosting.object import idempotent, service
    from titan_overlay.pool.message import Message
    from titan_overlay.pool.orders import Conduct, Holding, Holdings, Misdeed, NodeInfo, Seen
    from titan_overlay.pool.questions import (
        Describe,
        Info,
        MessageSchema,
        ObjectInfo,
        ObjectStats,
        Ping,
        Pong,
        Schema,
        Stats,
    )

__all__ = [
    "Answer",
    "BadMessage",
    "Change",
    "Commands",
    "Conduct",
    "ConfigError",
    "Conflict",
    "Context",
    "DeadlineExceeded",
    "Describe",
    "Description",
    "Face",
    "Forbidden",
    "Gone",
    "GroupHealth",
    "Holding",
    "Holdings",
    "Info",
    "Located",
    "MemberHealth",
    "Message",
    "MessageSchema",
    "Misdeed",
    "NodeInfo",
    "NotFound",
    "NotHere",
    "ObjectInfo",
    "ObjectStats",
    "Overloaded",
    "Ping",
    "Policy",
    "Pong",
    "Pool",
    "Receipt",
    "ReentrantCall",
    "RemotableError",
    "RemoteError",
    "Schema",
    "Seen",
    "Sender",
    "Serving",
    "Stats",
    "StorageError",
    "SyncPool",
    "TitanError",
    "Unavailable",
    "WalkableDict",
    "__version__",
    "asend",
    "batch",
    "connect",
    "connect_sync",
    "error",
    "idempotent",
    "mutable",
    "readonly",
    "send",
    "service",
]

_PLACES: dict[str, tuple[str, ...]] = {
    "client": ("Answer", "Description", "Located", "Pool", "Receipt"),
    "commands": ("Commands", "Face", "Serving"),
    "connecting": ("SyncPool", "asend", "connect", "connect_sync", "send"),
    "identity.statements": ("Policy",),
    "mutable.health": ("GroupHealth", "MemberHealth"),
    "mutable.talk": ("Change",),
    "mutable.walkable": ("WalkableDict",),
    "pool.context": ("Context", "Sender"),
    "pool.hosting.object": ("idempotent", "service"),
    "pool.message": ("Message",),
    "pool.orders": ("Conduct", "Holding", "Holdings", "Misdeed", "NodeInfo", "Seen"),
    "pool.questions": (
        "Describe",
        "Info",
        "MessageSchema",
        "ObjectInfo",
        "ObjectStats",
        "Ping",
        "Pong",
        "Schema",
        "Stats",
    ),
}
"""By module: what is imported when it is asked for. Processes of tasks, and most commands, need little of it."""


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            found = getattr(import_module(f"titan_overlay.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'titan_overlay' has no attribute {name!r}")
