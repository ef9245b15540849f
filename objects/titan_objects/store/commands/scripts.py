"""Lua scripts."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer
from titan_objects.store.resp import OK, ONE, ZERO, CommandError, array, bulk, syntax_error
from titan_objects.store.table import Args, Group, counted

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("scripting")

_FLAGS = "noscript movablekeys stale may-replicate no-mandatory-keys"


def _run(e: "Engine", a: Args, digest: bytes, read_only: bool) -> bytes:
    many = integer(a[2])
    if many < 0:
        raise CommandError(b"ERR Number of keys can't be negative")
    if many > len(a) - 3:
        raise CommandError(b"ERR Number of keys can't be greater than number of args")
    return e.scripts.run(digest, a[3 : 3 + many], a[3 + many :], read_only)


@group.command("eval", -3, _FLAGS, movable=counted(2), since="2.6.0")
def eval_(e: "Engine", a: Args) -> bytes:
    """Executes a server-side Lua script."""
    return _run(e, a, e.scripts.load(a[1]), False)


@group.command("eval_ro", -3, f"{_FLAGS} readonly", movable=counted(2), since="7.0.0")
def eval_ro(e: "Engine", a: Args) -> bytes:
    """Executes a read-only server-side Lua script."""
    return _run(e, a, e.scripts.load(a[1]), True)


@group.command("evalsha", -3, _FLAGS, movable=counted(2), since="2.6.0")
def evalsha(e: "Engine", a: Args) -> bytes:
    """Executes a server-side Lua script by SHA1 digest."""
    return _run(e, a, a[1].lower(), False)


@group.command("evalsha_ro", -3, f"{_FLAGS} readonly", movable=counted(2), since="7.0.0")
def evalsha_ro(e: "Engine", a: Args) -> bytes:
    """Executes a read-only server-side Lua script by SHA1 digest."""
    return _run(e, a, a[1].lower(), True)


@group.command("script", -2, since="2.6.0")
def script(e: "Engine", a: Args) -> bytes:
    """A container for Lua scripts management commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try SCRIPT HELP." % a[1])


@group.command("script|load", 3, "noscript stale", since="2.6.0")
def script_load(e: "Engine", a: Args) -> bytes:
    """Loads a server-side Lua script to the script cache."""
    return bulk(e.scripts.load(a[2]))


@group.command("script|exists", -3, "noscript", since="2.6.0")
def script_exists(e: "Engine", a: Args) -> bytes:
    """Determines whether server-side Lua scripts exist in the script cache."""
    return array([ONE if digest.lower() in e.scripts.sources else ZERO for digest in a[2:]])


@group.command("script|flush", -2, "noscript", since="2.6.0")
def script_flush(e: "Engine", a: Args) -> bytes:
    """Removes all server-side Lua scripts from the script cache."""
    if len(a) > 3 or (len(a) == 3 and a[2].upper() not in (b"ASYNC", b"SYNC")):
        raise syntax_error()
    e.scripts.flush()
    return OK


@group.command("script|kill", 2, "noscript allow-busy", since="2.6.0")
def script_kill(e: "Engine", a: Args) -> bytes:
    """Terminates a server-side Lua script; one that runs too long ends by itself, so there never is one."""
    raise CommandError(b"NOTBUSY No scripts in execution right now.")
