"""HyperLogLog: counting different elements in 12 KiB."""

from typing import TYPE_CHECKING

from titan_objects.store import hyperloglog
from titan_objects.store.resp import OK, ONE, ZERO
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("hyperloglog")


def _registers(e: "Engine", key: bytes) -> list[int] | None:
    value = e.db.string(key)
    return None if value is None else hyperloglog.registers(value)


@group.command("pfadd", -2, "write denyoom fast", keys=(1, 1, 1), since="2.8.9")
def pfadd(e: "Engine", a: Args) -> bytes:
    """Adds elements to a HyperLogLog key. Creates the key if it doesn't exist."""
    value = e.db.string(a[1])
    changed = value is None
    if value is None:
        value = hyperloglog.new()
    elif not isinstance(value, bytearray) or len(value) != hyperloglog.SIZE or value[4] != 0:
        value = hyperloglog.dense(hyperloglog.registers(value))
    for element in a[2:]:
        changed = hyperloglog.raise_register(value, *hyperloglog.place_of(element)) or changed
    if not changed:
        return ZERO
    e.db.data[a[1]] = value
    e.touch(a[1], b"pfadd", "$")
    return ONE


def _merged(e: "Engine", keys: Args) -> list[int]:
    found = [registers for key in keys if (registers := _registers(e, key)) is not None]
    return [max(column) for column in zip(*found, strict=True)] if found else [0] * hyperloglog.REGISTERS


@group.command("pfcount", -2, "readonly may-replicate", keys=(1, -1, 1), since="2.8.9")
def pfcount(e: "Engine", a: Args) -> bytes:
    """Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s)."""
    return number(hyperloglog.count(_merged(e, a[1:])))


@group.command("pfmerge", -2, "write denyoom", keys=(1, -1, 1), since="2.8.9")
def pfmerge(e: "Engine", a: Args) -> bytes:
    """Merges one or more HyperLogLog values into a single key."""
    e.db.data[a[1]] = hyperloglog.dense(_merged(e, a[1:]))
    e.touch(a[1], b"pfadd", "$")
    return OK
