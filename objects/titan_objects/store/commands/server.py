"""The store as a whole: INFO, CONFIG, sizes, flushing, persistence, and looking in."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import natural
from titan_objects.store.info import report
from titan_objects.store.resp import OK, CommandError, array, bulk, bulks, simple, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")


@group.command("dbsize", 1, "readonly fast")
def dbsize(e: "Engine", a: Args) -> bytes:
    """Returns the number of keys in the database."""
    return number(len(e.db.data))


def _check_flush(a: Args) -> None:
    if len(a) > 2 or (len(a) == 2 and a[1].upper() not in (b"ASYNC", b"SYNC")):
        raise syntax_error()


@group.command("flushdb", -1, "write")
def flushdb(e: "Engine", a: Args) -> bytes:
    """Remove all keys from the current database."""
    _check_flush(a)
    e.flush([e.db])
    e.rewrite(b"FLUSHDB")
    return OK


@group.command("flushall", -1, "write")
def flushall(e: "Engine", a: Args) -> bytes:
    """Removes all keys from all databases."""
    _check_flush(a)
    e.flush(e.databases)
    e.rewrite(b"FLUSHALL")
    return OK


@group.command("time", 1, "loading stale fast", since="2.6.0")
def time(e: "Engine", a: Args) -> bytes:
    """Returns the server time, to the millisecond."""
    return bulks([b"%d" % (e.now // 1000), b"%d" % (e.now % 1000 * 1000)])


@group.command("info", -1, "loading stale")
def info(e: "Engine", a: Args) -> bytes:
    """Returns information and statistics about the server."""
    return e.reply.verbatim(report(e, [word.decode("latin-1").lower() for word in a[1:]]).encode())


@group.command("lolwut", -1, "readonly fast", since="5.0.0")
def lolwut(e: "Engine", a: Args) -> bytes:
    """Displays computer art and the Redis version."""
    return e.reply.verbatim(b"Titan store. Redis ver. 7.0.15\n")


# ---- CONFIG ------------------------------------------------------------------------------------------------------


@group.command("config", -2, since="2.0.0")
def config(e: "Engine", a: Args) -> bytes:
    """A container for server configuration commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try CONFIG HELP." % a[1])


@group.command("config|get", -3, "admin noscript loading stale", since="2.0.0")
def config_get(e: "Engine", a: Args) -> bytes:
    """Returns the effective values of configuration parameters."""
    found: dict[str, str] = {}
    for pattern in a[2:]:
        found |= e.config.matching(pattern)
    return e.reply.map((bulk(name.encode()), bulk(value.encode())) for name, value in found.items())


@group.command("config|set", -4, "admin noscript loading stale", since="2.0.0")
def config_set(e: "Engine", a: Args) -> bytes:
    """Sets configuration parameters in-flight."""
    if len(a) % 2:
        raise syntax_error()
    words = [word.decode("utf-8", "backslashreplace") for word in a[2:]]
    e.config.check_names(words[::2])
    e.config.change(dict(zip([name.lower() for name in words[::2]], words[1::2], strict=True)))
    return OK


@group.command("config|rewrite", 2, "admin noscript loading stale", since="2.8.0")
def config_rewrite(e: "Engine", a: Args) -> bytes:
    """Persists the effective configuration to file."""
    if e.config.rewrite is None:
        raise CommandError(
            b"ERR The server is running without a config file: --config (of a node: --redis-config) names one"
        )
    try:
        e.config.rewrite()
    except (OSError, ValueError) as why:
        raise CommandError(f"ERR Rewriting config file: {why}") from None
    return OK


@group.command("config|resetstat", 2, "admin noscript loading stale", since="2.0.0")
def config_resetstat(e: "Engine", a: Args) -> bytes:
    """Resets the server's statistics."""
    e.forget_usage()
    return OK


# ---- persistence -------------------------------------------------------------------------------------------------


@group.command("bgrewriteaof", 1, "admin noscript no-async-loading")
def bgrewriteaof(e: "Engine", a: Args) -> bytes:
    """Asynchronously rewrites the append-only file to disk."""
    if e.stats.rewriting:
        raise CommandError(b"ERR Background append only file rewriting already in progress")
    e.requests.append("rewrite")
    return simple(b"Background append only file rewriting started")


@group.command("bgsave", -1, "admin noscript no-async-loading")
def bgsave(e: "Engine", a: Args) -> bytes:
    """Asynchronously saves the database(s) to disk: the append-only file is rewritten."""
    if len(a) > 1 and [word.upper() for word in a[1:]] != [b"SCHEDULE"]:
        raise syntax_error()
    if not e.stats.rewriting:
        e.requests.append("rewrite")
    return simple(b"Background saving started")


@group.command("save", 1, "admin noscript no-async-loading no-multi")
def save(e: "Engine", a: Args) -> bytes | None:
    """Synchronously saves the database(s) to disk: the append-only file is rewritten; others go on meanwhile."""
    if e.stats.rewriting:
        raise CommandError(b"ERR Background save already in progress")
    if e.block([], 0, lambda key: None, b"") is None:
        assert e.session.waiter is not None
        e.saving.append(e.session.waiter)
        e.requests.append("rewrite")
        return None
    raise CommandError(b"ERR SAVE is not for transactions and scripts")


@group.command("lastsave", 1, "loading stale fast")
def lastsave(e: "Engine", a: Args) -> bytes:
    """Returns the Unix timestamp of the last successful save to disk."""
    return number(e.stats.last_rewrite_ms // 1000)


@group.command("shutdown", -1, "admin noscript loading stale allow-busy no-multi")
def shutdown(e: "Engine", a: Args) -> bytes | None:
    """Synchronously saves the database(s) to disk and shuts down the server."""
    words = {word.upper() for word in a[1:]}
    if words == {b"ABORT"}:
        raise CommandError(b"ERR No shutdown in progress.")
    if words - {b"NOSAVE", b"SAVE", b"NOW", b"FORCE"} or words >= {b"NOSAVE", b"SAVE"}:
        raise syntax_error()
    if e.scripts.running is not None:
        e.scripts.running.drop()
    e.requests.append("shutdown")
    e.session.closing = True
    return None


# ---- modules -----------------------------------------------------------------------------------------------------


@group.command("module", -2, since="4.0.0")
def module(e: "Engine", a: Args) -> bytes:
    """A container for module commands: there are no modules."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try MODULE HELP." % a[1])


@group.command("module|list", 2, "admin noscript", since="4.0.0")
def module_list(e: "Engine", a: Args) -> bytes:
    """Returns all loaded modules: none."""
    return array([])


# ---- looking in --------------------------------------------------------------------------------------------------


@group.command("monitor", 1, "admin noscript loading stale")
def monitor(e: "Engine", a: Args) -> bytes:
    """Listens for all requests received by the server in real-time."""
    if not e.may_block:
        raise CommandError(b"ERR MONITOR isn't allowed for DENY BLOCKING client")
    e.monitors.add(e.session)
    e.look()
    return OK


@group.command("slowlog", -2, since="2.2.12")
def slowlog(e: "Engine", a: Args) -> bytes:
    """A container for slow log commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try SLOWLOG HELP." % a[1])


@group.command("slowlog|get", -2, "admin loading stale", since="2.2.12")
def slowlog_get(e: "Engine", a: Args) -> bytes:
    """Returns the slow log's entries."""
    count = natural(a[2], b"ERR count should be greater than or equal to -1", low=-1) if len(a) > 2 else 10
    rows = []
    for entry in e.stats.slow.newest(count):
        words = [bulk(word) for word in entry.words]
        client = [bulk(entry.address.encode()), bulk(entry.name)]
        rows.append(array([number(entry.id), number(entry.at), number(entry.micros), array(words), *client]))
    return array(rows)


@group.command("slowlog|len", 2, "admin loading stale", since="2.2.12")
def slowlog_len(e: "Engine", a: Args) -> bytes:
    """Returns the number of entries in the slow log."""
    return number(len(e.stats.slow.entries))


@group.command("slowlog|reset", 2, "admin loading stale", since="2.2.12")
def slowlog_reset(e: "Engine", a: Args) -> bytes:
    """Clears all entries from the slow log."""
    e.stats.slow.entries.clear()
    return OK
