"""Commands as a log keeps them: their encoding, and those that make a value anew."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from titan_objects.store.resp import bulks, number
from titan_objects.store.table import Args
from titan_objects.store.values import STRINGS, Members, ZSet

PIECE = 64
"""How many elements one command of a rewritten log adds, as in Redis."""


def encode(effects: Iterable[Args]) -> bytes:
    """Commands in RESP, one after the other."""
    return b"".join([bulks(args) for args in effects])


def wire_size(commands: list[Args]) -> int:
    """How many bytes commands take in RESP, as every client and log writes them."""
    sizes = [len(word) for args in commands for word in args]
    counts = sum([len(str(len(args))) for args in commands]) + 3 * len(commands)
    return sum(sizes) + len("".join(map(str, sizes))) + 5 * len(sizes) + counts


def recreate(key: bytes, value: Any, expires: int | None) -> Iterator[Args]:
    """Commands that make a key in an empty store. The value may change once the first is taken."""
    if type(value) in STRINGS:
        if expires is None:
            yield [b"SET", key, bytes(value)]
        else:
            yield [b"SET", key, bytes(value), b"PXAT", b"%d" % expires]
        return
    name, words, width = _elements(value)
    step = PIECE * width
    for at in range(0, len(words), step):
        yield [name, key, *words[at : at + step]]
    if expires is not None:
        yield [b"PEXPIREAT", key, b"%d" % expires]


def _elements(value: Any) -> tuple[bytes, list[bytes], int]:
    """The command that adds elements, its words, and how many words an element has."""
    if type(value) is deque:
        return b"RPUSH", list(value), 1
    if type(value) is Members:
        return b"SADD", list(value.order), 1
    if type(value) is dict:
        return b"HMSET", [word for pair in value.items() for word in pair], 2
    if type(value) is ZSet:
        return b"ZADD", [word for score, member in value for word in (number(score), member)], 2
    raise TypeError(f"no command makes a {type(value).__name__}")
