"""What work counts as in instructions of Lua, where Lua counts none: commands do it, or libraries in Python."""

import math

from titan_objects.store.keyspace import Database
from titan_objects.store.table import Args, Command

CALL_COST = 350
"""Instructions that a call of a command counts as, at least."""

ELEMENT_COST = 5
"""For each element of what a command goes through, or of what a library puts together."""

BYTES_FOR_ONE = 16
"""Bytes that count as an instruction where they are copied."""

_THOROUGH = frozenset(
    name + suffix
    for names, suffixes in (
        (("bitcount", "bitop", "bitpos", "copy", "dump", "lcs", "lpos", "lrem"), ("",)),
        (("sdiff", "sinter", "sunion", "zdiff", "zinter", "zunion"), ("", "card", "store")),
        (("sort",), ("", "_ro")),
    )
    for name in names
    for suffix in suffixes
)
"""Commands that go through all of their keys' values, whatever they reply."""

_WHOLE = frozenset(("keys", "flushdb", "flushall"))
"""Commands that go through all keys."""


def price(command: Command, args: Args, db: Database) -> float:
    """Instructions that a call counts as, beside its reply: for what it is told, and what it goes through."""
    cost = sum(map(len, args)) / BYTES_FOR_ONE
    if command.name in _THOROUGH:
        lengths = [len(value) for key in command.keys(args) if (value := db.data.get(key)) is not None]
        cost += ELEMENT_COST * (math.prod(lengths) if command.name == "lcs" else sum(lengths))
    elif command.name in _WHOLE:
        cost += ELEMENT_COST * len(db.data)
    return cost
