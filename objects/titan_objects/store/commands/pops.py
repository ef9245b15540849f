"""What the popping commands of lists, sets and sorted sets have in common: their counts, and the first key of several
that has something, now or later.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from titan_objects.store.arguments import integer, natural
from titan_objects.store.resp import CommandError, syntax_error
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

Serve = Callable[[bytes, Any], bytes]
"""(key, its value) -> the reply, once something has been taken."""


def pop_count(a: Args) -> int:
    """The count of LPOP, SPOP, ZPOPMIN and their kin: the third word, 1 without one."""
    if len(a) < 3:
        return 1
    count = integer(a[2], b"ERR value is out of range, must be positive")
    if count < 0:
        raise CommandError(b"ERR value is out of range, must be positive")
    return count


def counted_pop(a: Args, at: int, sides: tuple[bytes, bytes]) -> tuple[list[bytes], bool, int]:
    """What LMPOP, ZMPOP and their kin are told.

    Args:
        at: where the number of keys stands.
        sides: what the two sides are called.

    Returns:
        The keys, whether the first side is meant, and the count.
    """
    many = natural(a[at], b"ERR numkeys should be greater than 0", low=1)
    keys = a[at + 1 : at + 1 + many]
    side, *rest = [word.upper() for word in a[at + 1 + many :]] or [b""]
    if len(keys) < many or side not in sides:
        raise syntax_error()
    count = 1
    if rest:
        if len(rest) == 1 or rest[0] != b"COUNT":
            raise syntax_error()
        count = natural(rest[1], b"ERR count should be greater than 0", low=1)
        if len(rest) > 2:
            raise syntax_error()
    return keys, side == sides[0], count


def pop_first(e: "Engine", keys: Sequence[bytes], kind: type, serve: Serve) -> bytes | None:
    """From the first of these keys that has something; None: none has. Raises WRONGTYPE."""
    for key in keys:
        if e.db.typed(key, kind) is not None:
            return _served(e, key, kind, serve)
    return None


def pop_first_or_wait(e: "Engine", keys: Sequence[bytes], kind: type, serve: Serve, until: int) -> bytes | None:
    """The same; where none has anything, the client waits for the first that gets something."""
    reply = pop_first(e, keys, kind, serve)
    if reply is not None:
        return reply
    return e.block(keys, until, lambda key: _served(e, key, kind, serve), e.reply.null_array)


def _served(e: "Engine", key: bytes, kind: type, serve: Serve) -> bytes | None:
    values = e.db.get(key)
    if type(values) is not kind:
        return None
    if e.preserve is not None:
        e.preserve(e.db, key)
    return serve(key, values)
