"""Names of objects, and the ids that they stand for. No network: a name alone tells where its object lives.

weather/berlin         a name of the pool
~<fingerprint>/a/b     a name that the owner of that key may always publish; `~me/...` for short
sha256:<64 hex>        data, named by its content
node:<64 hex>          a node
"""

from enum import Enum
from functools import lru_cache
from hashlib import sha256

from titan_overlay.errors import BadMessage
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId, fingerprint

MAX_NAME_BYTES = 255
_FINGERPRINT_DIGITS = 32


class Space(Enum):
    """Which kind of name: decides who may publish it."""

    POOL = "pool"
    OWNER = "owner"
    CONTENT = "content"
    NODE = "node"


def check(name: str) -> str:
    """The name, if it is one.

    Raises:
        BadMessage: not 1 to 255 bytes of NFC text without control characters, or a malformed special name.
    """
    _check_text(name)
    if not name:
        raise BadMessage("a name is a text of 1 to 255 bytes; this one is empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BadMessage("a name is valid Unicode; this one has lone surrogates") from None
    if size > MAX_NAME_BYTES:
        raise BadMessage(f"a name has at most {MAX_NAME_BYTES} bytes of UTF-8; {name[:20]!r}... has {size}")
    if any(c < " " or "\x7f" <= c < "\xa0" for c in name):
        raise BadMessage(f"a name has no control characters: {name!r}")
    if not name.isascii():
        import unicodedata  # most of a megabyte that nodes do without whose names are all ASCII

        if not unicodedata.is_normalized("NFC", name):
            raise BadMessage(f"a name is in Unicode form NFC; write {unicodedata.normalize('NFC', name)!r}")
    if any(part == "" for part in name.split("/")):
        raise BadMessage(f"a name has no empty part between slashes: {name!r}")
    _check_special(name)
    return name


def _check_text(name: object) -> None:
    if not isinstance(name, str):
        raise BadMessage(f"a name is a text, not of type {type(name).__name__!r}")


def _check_special(name: str) -> None:
    for prefix in ("sha256:", "node:"):
        if name.startswith(prefix) and not _is_hex(name[len(prefix) :], 2 * ID_BYTES):
            raise BadMessage(f"{prefix} is followed by 64 lower-case hexadecimal digits: {name!r}")
    if name.startswith("~"):
        owner, _, rest = name[1:].partition("/")
        if not rest or not (owner == "me" or _is_hex(owner, _FINGERPRINT_DIGITS)):
            raise BadMessage(f"a name of an owner is ~<32 hexadecimal digits>/anything or ~me/anything: {name!r}")


def _is_hex(text: str, digits: int) -> bool:
    return len(text) == digits and all(c in "0123456789abcdef" for c in text)


def space(name: str) -> Space:
    """Which kind of name this is. BadMessage: not a text."""
    _check_text(name)
    if name.startswith("sha256:"):
        return Space.CONTENT
    if name.startswith("node:"):
        return Space.NODE
    return Space.OWNER if name.startswith("~") else Space.POOL


def resolve(name: str, me: bytes) -> str:
    """The full form of a name: `~me/x` becomes `~<fingerprint of the public key me>/x`. BadMessage: not a text."""
    _check_text(name)
    return f"~{fingerprint(me)}{name[3:]}" if name.startswith("~me/") else name


@lru_cache(maxsize=65536)
def object_id(pool: PoolId, name: str) -> ObjectId:
    """The id of the object with this (full) name in this pool.

    Data is its own id, nodes are theirs, everything else is SHA-256(pool id, name).

    Raises:
        BadMessage: not a name.
    """
    check(name)
    kind = space(name)
    if kind in (Space.CONTENT, Space.NODE):
        return ObjectId(bytes.fromhex(name.partition(":")[2]))
    if name.startswith("~me/"):
        raise BadMessage(f"{name!r} depends on who asks; resolve it first")
    return ObjectId(sha256(b"titan/1/name\0" + pool + name.encode()).digest())


def node_name(node: NodeId) -> str:
    """`node:<id>`."""
    return f"node:{node.hex()}"


def content_name(digest: bytes) -> str:
    """`sha256:<hex>`."""
    return f"sha256:{digest.hex()}"


def pattern(text: str, me: bytes) -> str:
    """The full form of a pattern that somebody wrote, `~me/...` resolved as in `resolve`.

    Raises:
        BadMessage: it is no pattern, and a grant on it would be good for nothing.
    """
    full = check(resolve(text, me))
    if "*" in full.removesuffix("/*") and full != "*":
        raise BadMessage(f"a pattern is a name, * or ends in /*, such as weather/*: {text!r}")
    return full


def one(name: str, me: bytes) -> str:
    """The full form of a name for a new object, `~me/...` resolved as in `resolve`.

    Raises:
        BadMessage: it is no name; or a pattern, too, and a grant on that object would be one on many others.
    """
    full = check(resolve(name, me))
    if full == "*" or full.endswith("/*"):
        raise BadMessage(f"{name!r} stands for all names like it, where rights are given; an object needs another name")
    return full


def covers(pattern: str, name: str) -> bool:
    """Whether a pattern (`weather/*`, `img/thumb`, `*`) covers a name; `*` stands only as the last part."""
    if pattern == "*":
        return True
    if pattern.endswith("/*"):
        return name.startswith(pattern[:-1])
    return pattern == name
