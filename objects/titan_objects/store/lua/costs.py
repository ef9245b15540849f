"""What work counts as in instructions of Lua, where Lua counts none: commands do it, or libraries in Python.

The figures are times that were measured, at `PER_MS` instructions for a millisecond. They need not be exact; what takes
long for little is what a script must not find.
"""

import math
from typing import TYPE_CHECKING

from titan_objects.store.keyspace import Database
from titan_objects.store.table import Args, Command

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

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

_GROWING = frozenset(("bitfield", "setbit", "setrange"))
"""Commands that may make a value as long as they like."""

_RESTORE_COST = 16
"""For each byte of a value that is restored."""

SCANNED_COST = 20
"""For each name that a scan looks at."""


class Bill:
    """What one call of a command counts as.

    Attributes:
        cost: instructions: for being called, for what it is told and what it goes through, and once it is settled, for
            its reply as well.
    """

    __slots__ = ("_args", "_before", "_engine", "_scanned", "cost")

    def __init__(self, engine: "Engine", command: Command, args: Args) -> None:
        self._engine = engine
        self._args = args
        self.cost = CALL_COST + _price(command, args, engine.db)
        self._before = self._length if command.name in _GROWING else None
        self._scanned = engine.scans.passed

    def settle(self, reply: bytes) -> None:
        """It was executed."""
        copied = len(reply) + (self._length - self._before if self._before is not None else 0)
        scanned = self._engine.scans.passed - self._scanned
        self.cost += LINE_COST * reply.count(b"\n") + SCANNED_COST * scanned + copied / BYTES_FOR_ONE

    @property
    def _length(self) -> int:
        return len(self._engine.db.data.get(self._args[1], b""))


def _price(command: Command, args: Args, db: Database) -> float:
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
