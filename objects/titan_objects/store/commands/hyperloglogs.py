"""HyperLogLog: counting different elements in 12 KiB, or in less while they are few."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_objects.store import hyperloglog
from titan_objects.store.resp import OK, ONE, ZERO, CommandError, array, bulk, simple
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("hyperloglog")


def _registers(e: "Engine", key: bytes) -> list[int] | None:
    value = e.db.string(key)
    return None if value is None else hyperloglog.registers(value)


LOGGED_SPARSE_MAX = 1000
"""Bytes of a sparse value by which a log's PFADD and PFMERGE are executed, whatever is set then. It never changes."""


def _sparse_max(e: "Engine") -> int:
    return LOGGED_SPARSE_MAX if e.session is e.internal else int(e.config.get("hll-sparse-max-bytes"))


def _keep(e: "Engine", key: bytes, value: bytes | bytearray, logged: Callable[[], bytes | bytearray]) -> None:
    """Stores a value. `logged`: what a log would make of the command; if it is not that, the value itself is logged."""
    e.db.data[key] = value
    e.touch(key, b"pfadd", "$")
    if _sparse_max(e) != LOGGED_SPARSE_MAX and logged() != value:
        e.rewrite(b"SET", key, bytes(value), b"KEEPTTL")


@group.command("pfadd", -2, "write denyoom fast", keys=(1, 1, 1), since="2.8.9")
def pfadd(e: "Engine", a: Args) -> bytes:
    """Adds elements to a HyperLogLog key. Creates the key if it doesn't exist."""
    before = e.db.string(a[1])
    places = [hyperloglog.place_of(element) for element in a[2:]]
    value = hyperloglog.EMPTY if before is None else before
    after, changed = hyperloglog.added(value, places, _sparse_max(e))
    if not changed and before is not None:
        return ZERO
    _keep(e, a[1], after, lambda: hyperloglog.added(value, places, LOGGED_SPARSE_MAX)[0])
    return ONE


def _merged(e: "Engine", keys: Args) -> list[int]:
    found = [registers for key in keys if (registers := _registers(e, key)) is not None]
    return [max(column) for column in zip(*found, strict=True)] if found else [0] * hyperloglog.REGISTERS


@group.command("pfcount", -2, "readonly may-replicate", keys=(1, -1, 1), since="2.8.9")
def pfcount(e: "Engine", a: Args) -> bytes:
    """Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s)."""
    if len(a) > 2:
        return number(hyperloglog.count(_merged(e, a[1:])))
    value = e.db.string(a[1])
    if value is None:
        return ZERO
    kept = hyperloglog.kept_count(value)
    if kept is not None:
        return number(kept)
    count = hyperloglog.count(hyperloglog.registers(value))
    if e.keeps_counts and (e.session is e.internal or not (e.refuse_writes or e.replication.leader)):
        if e.preserve is not None:
            e.preserve(e.db, a[1])
        e.db.data[a[1]] = hyperloglog.with_count(value, count)
        e.touch(a[1])  # as in Redis: it is logged, and replicas do it as well
    return number(count)


@group.command("pfmerge", -2, "write denyoom", keys=(1, -1, 1), since="2.8.9")
def pfmerge(e: "Engine", a: Args) -> bytes:
    """Merges one or more HyperLogLog values into a single key."""
    merged = _merged(e, a[1:])
    _keep(e, a[1], hyperloglog.stored(merged, _sparse_max(e)), lambda: hyperloglog.stored(merged, LOGGED_SPARSE_MAX))
    return OK


@group.command("pfdebug", 3, "write denyoom admin", keys=(2, 2, 1), since="2.8.9")
def pfdebug(e: "Engine", a: Args) -> bytes:
    """Shows how a HyperLogLog is kept: GETREG, DECODE and ENCODING; TODENSE makes it dense."""
    value = e.db.string(a[2])
    if value is None:
        raise CommandError(b"ERR The specified key does not exist")
    registers = hyperloglog.registers(value)
    sparse = hyperloglog.is_sparse(value)
    word = a[1].upper()
    if word == b"GETREG":
        return array([number(each) for each in registers])
    if word == b"ENCODING":
        return simple(b"sparse" if sparse else b"dense")
    if word == b"DECODE":
        if not sparse:
            raise CommandError(b"ERR HLL encoding is not sparse")
        shown = [b"v:%d,%d" % run if run[0] else b"%c:%d" % _zeros(run[1]) for run in hyperloglog.runs(value)]
        return bulk(b" ".join(shown))
    if word != b"TODENSE":
        raise CommandError(b"ERR Unknown PFDEBUG subcommand '%b'" % a[1])
    if not sparse:
        return ZERO
    e.db.data[a[2]] = hyperloglog.dense(registers)
    e.touch(a[2])
    return ONE


def _zeros(count: int) -> tuple[bytes, int]:
    """As Redis shows them: a capital for what takes two bytes."""
    return (b"Z" if count > hyperloglog.ZEROS_SHORT_MAX else b"z"), count


@group.command("pfselftest", 1, "admin", since="2.8.9")
def pfselftest(e: "Engine", a: Args) -> bytes:
    """Checks that sparse and dense values hold the same, and that counts are about right."""
    values: list[bytes | bytearray] = [hyperloglog.EMPTY, hyperloglog.dense([0] * hyperloglog.REGISTERS)]
    for at in range(TESTED):
        place = [hyperloglog.place_of(b"%d" % at)]
        values = [hyperloglog.added(value, place, hyperloglog.SIZE)[0] for value in values]
    sparse, dense = map(hyperloglog.registers, values)
    if sparse != dense or not 0.9 * TESTED < hyperloglog.count(dense) < 1.1 * TESTED:
        raise CommandError(b"ERR HyperLogLogs are not what they should be: %d elements were added" % TESTED)
    return OK


TESTED = 300
"""Elements that PFSELFTEST counts."""
