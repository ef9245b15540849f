"""What work counts as in instructions of Lua, where Lua counts none: commands do it, or libraries in Python.

The figures are times that were measured, at `PER_MS` instructions for a millisecond. They need not be exact; what takes
long for little is what a script must not find.
"""

import math

from titan_objects.store.keyspace import Database
from titan_objects.store.table import Args, Command

CALL_COST = 350
"""Instructions that a call of a command counts as, at least."""

WORD_COST = 40
"""For each word that a command is told."""

LINE_COST = 50
"""For each line of its reply, which is taken apart and put into tables; a string has two."""

ITEM_COST = 60
"""For each value that a library takes apart or puts together."""

STEP_COST = 5
"""For each element that a command passes."""

BYTES_FOR_ONE = 16
"""Bytes that count as an instruction where they are copied."""

_ALGEBRA = {
    name + suffix: cost
    for names, cost in ((("sdiff", "sinter", "sunion"), STEP_COST), (("zdiff", "zinter", "zunion"), 40))
    for name in names
    for suffix in ("", "card", "store")
}
_ELEMENT_COSTS: dict[str, float] = {
    **dict.fromkeys(("bitcount", "bitop", "bitpos"), 1 / BYTES_FOR_ONE),
    "copy": 1,
    **dict.fromkeys(("lcs", "linsert", "lpos", "lrem"), STEP_COST),
    **_ALGEBRA,
    **dict.fromkeys(("sort", "sort_ro"), 150),
    **dict.fromkeys(("geosearch", "geosearchstore", "georadius", "georadius_ro"), 300),
    **dict.fromkeys(("georadiusbymember", "georadiusbymember_ro"), 300),
    **dict.fromkeys(("pfcount", "pfmerge"), 50),
    "dump": 30,
    "memory|usage": STEP_COST,
    "zrangestore": 40,
}
"""Of commands that go through all of their keys' values, whatever they reply (MEMORY USAGE: where it is told to)."""

_WHOLE = frozenset(("keys", "flushdb", "flushall"))
"""Commands that go through all keys."""

GROWING = frozenset(("bitfield", "setbit", "setrange"))
"""Commands that may make a value as long as they like."""

_RESTORE_COST = 16
"""For each byte of a value that is restored."""

SCANNED_COST = 20
"""For each name that a scan looks at."""


def price(command: Command, args: Args, db: Database) -> float:
    """Instructions that a call counts as, beside its reply: for what it is told, and what it goes through."""
    size = sum(map(len, args))
    cost = WORD_COST * len(args) + size / BYTES_FOR_ONE
    name = command.name
    if name in _ELEMENT_COSTS and not (name == "memory|usage" and len(args) == 3):
        lengths = [len(value) for key in command.keys(args) if (value := db.data.get(key)) is not None]
        cost += _ELEMENT_COSTS[name] * (math.prod(lengths) if name == "lcs" else sum(lengths))
    elif name in _WHOLE:
        cost += STEP_COST * len(db.data)
    elif name == "restore":
        cost += _RESTORE_COST * size
    return cost


def length(args: Args, db: Database) -> int:
    """Of the value that one of `GROWING` changes, in bytes."""
    return len(db.data.get(args[1], b""))
