"""MEMORY: what keys, clients and the store as a whole take."""

from typing import TYPE_CHECKING, Any

from titan_objects.store.arguments import integer
from titan_objects.store.memory import SAMPLED, size_of
from titan_objects.store.resp import OK, CommandError, bulk, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")


@group.command("memory", -2, since="4.0.0")
def memory(e: "Engine", a: Args) -> bytes:
    """A container for memory diagnostics commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try MEMORY HELP." % a[1])


@group.command("memory|usage", -3, "readonly", keys=(2, 2, 1), since="4.0.0")
def memory_usage(e: "Engine", a: Args) -> bytes:
    """Estimates the memory usage of a key."""
    samples = SAMPLED
    if len(a) > 3:
        if len(a) != 5 or a[3].upper() != b"SAMPLES":
            raise syntax_error()
        samples = integer(a[4])
        if samples < 0:
            raise syntax_error()
    value = e.db.get(a[2])
    return e.reply.null if value is None else number(size_of(a[2], value, samples))


@group.command("memory|doctor", 2, since="4.0.0")
def memory_doctor(e: "Engine", a: Args) -> bytes:
    """Outputs a memory problems report."""
    return e.reply.verbatim(b"What the process occupies is in INFO memory; what a key takes, in MEMORY USAGE.\n")


@group.command("memory|purge", 2, since="4.0.0")
def memory_purge(e: "Engine", a: Args) -> bytes:
    """Asks the allocator to release memory; Python gives back what is free by itself."""
    return OK


@group.command("memory|stats", 2, since="4.0.0")
def memory_stats(e: "Engine", a: Args) -> bytes:
    """Returns details about memory usage; sizes of keys are estimates."""
    return e.reply.map((bulk(name.encode()), _shown(e, value)) for name, value in figures(e).items())


def _shown(e: "Engine", value: Any) -> bytes:
    if isinstance(value, dict):
        return e.reply.map((bulk(name.encode()), number(size)) for name, size in value.items())
    return e.reply.double(value) if isinstance(value, float) else number(value)


def figures(e: "Engine") -> dict[str, Any]:
    """All figures, as Redis names them: bytes, counts, shares in percent, and ratios as floats.

    Python's allocator tells nothing of itself: to it belongs what the process occupies, and there are no fragments.
    """
    around = e.surroundings().get("memory", {})
    total, peak, start = (_size(around.get(f"used_memory{name}")) for name in ("", "_peak", "_startup"))
    replicas = e.replication.replicas
    waiting = {session: sum(map(len, session.out)) for session in e.sessions.values()}
    scripts = sum(map(len, e.scripts.sources.values()))
    functions = sum(len(each.source) for each in e.functions.libraries.values())
    used = [db for db in e.databases if db.data]
    tables = {
        f"db.{db.index}": {
            "overhead.hashtable.main": TABLE_BYTES * len(db.data),
            "overhead.hashtable.expires": TABLE_BYTES * len(db.expires),
            "overhead.hashtable.slot-to-keys": 0,
        }
        for db in used
    }
    parts = {
        "startup.allocated": start,
        "replication.backlog": e.replication.backlog.size,
        "clients.slaves": sum(size for session, size in waiting.items() if session in replicas),
        "clients.normal": sum(size for session, size in waiting.items() if session not in replicas),
        "cluster.links": 0,
        "aof.buffer": 0,
        "lua.caches": scripts,
        "functions.caches": functions,
    }
    overhead = sum(parts.values()) + sum(sum(table.values()) for table in tables.values())
    keys = sum(len(db.data) for db in used)
    data = e.meter.measure() if e.meter is not None else max(0, total - overhead)
    return {
        "peak.allocated": peak,
        "total.allocated": total,
        **parts,
        **tables,
        "overhead.total": overhead,
        "keys.count": keys,
        "keys.bytes-per-key": max(0, total - start) // max(1, keys) if keys else 0,
        "dataset.bytes": data,
        "dataset.percentage": 100.0 * data / max(1, total - start),
        "peak.percentage": 100.0 * total / max(1, peak),
        "allocator.allocated": total,
        "allocator.active": total,
        "allocator.resident": total,
        "allocator-fragmentation.ratio": 1.0,
        "allocator-fragmentation.bytes": 0,
        "allocator-rss.ratio": 1.0,
        "allocator-rss.bytes": 0,
        "rss-overhead.ratio": 1.0,
        "rss-overhead.bytes": 0,
        "fragmentation": 1.0,
        "fragmentation.bytes": 0,
    }


TABLE_BYTES = 50
"""Of a dictionary for each entry, about."""


def _size(value: object) -> int:
    return value if isinstance(value, int) else 0


@group.command("memory|malloc-stats", 2, since="4.0.0")
def memory_malloc_stats(e: "Engine", a: Args) -> bytes:
    """Returns the allocator statistics; Python's allocator has none to show."""
    return e.reply.verbatim(b"Stats not supported for the current allocator\n")
