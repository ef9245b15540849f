"""Lua scripts."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer
from titan_objects.store.resp import OK, ONE, ZERO, CommandError, array, bulk
from titan_objects.store.table import Args, Group, counted

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("scripting")

_READS = "noscript movablekeys stale skip-monitor no-mandatory-keys"
_FLAGS = f"{_READS} may-replicate"


def _words(a: Args) -> tuple[Args, Args]:
    """The keys and the other words of a call. Raises CommandError: there are not so many keys."""
    many = integer(a[2])
    if many < 0:
        raise CommandError(b"ERR Number of keys can't be negative")
    if many > len(a) - 3:
        raise CommandError(b"ERR Number of keys can't be greater than number of args")
    return a[3 : 3 + many], a[3 + many :]


def _eval(e: "Engine", a: Args, read_only: bool) -> bytes:
    keys, others = _words(a)
    return e.scripts.run(e.scripts.load(a[1]), keys, others, read_only)


def _eval_known(e: "Engine", a: Args, read_only: bool) -> bytes:
    keys, others = _words(a)
    return e.scripts.run(a[1].lower(), keys, others, read_only)


@group.command("eval", -3, _FLAGS, movable=counted(2), since="2.6.0")
def eval_(e: "Engine", a: Args) -> bytes:
    """Executes a server-side Lua script."""
    return _eval(e, a, False)


@group.command("eval_ro", -3, f"{_READS} readonly", movable=counted(2), since="7.0.0")
def eval_ro(e: "Engine", a: Args) -> bytes:
    """Executes a read-only server-side Lua script."""
    return _eval(e, a, True)


@group.command("evalsha", -3, _FLAGS, movable=counted(2), since="2.6.0")
def evalsha(e: "Engine", a: Args) -> bytes:
    """Executes a server-side Lua script by SHA1 digest."""
    return _eval_known(e, a, False)


@group.command("evalsha_ro", -3, f"{_READS} readonly", movable=counted(2), since="7.0.0")
def evalsha_ro(e: "Engine", a: Args) -> bytes:
    """Executes a read-only server-side Lua script by SHA1 digest."""
    return _eval_known(e, a, True)


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
        raise CommandError(b"ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    e.scripts.flush()
    return OK


@group.command("script|kill", 2, "noscript allow-busy", since="2.6.0")
def script_kill(e: "Engine", a: Args) -> bytes:
    """Terminates a server-side Lua script during execution."""
    e.scripts.kill(function=False)
    return OK
