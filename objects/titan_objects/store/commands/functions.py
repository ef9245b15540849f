"""Functions: Lua that is part of the data."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.globs import matcher
from titan_objects.store.lua.scripts import WRITES
from titan_objects.store.resp import OK, CommandError, array, bulk, simple
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group, counted

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.lua.library import Function, Library
    from titan_objects.store.lua.running import Running

group = Group("scripting")

_READS = "noscript movablekeys stale skip-monitor no-mandatory-keys"


def _fcall(e: "Engine", a: Args, read_only: bool) -> bytes:
    function = e.functions.find(a[1])
    many = integer(a[2], b"ERR Bad number of keys provided")
    if many > len(a) - 3:
        raise CommandError(b"ERR Number of keys can't be greater than number of args")
    if many < 0:
        raise CommandError(b"ERR Number of keys can't be negative")
    if read_only and not function.read_only:
        raise CommandError(WRITES)
    return e.functions.call(function, a[3 : 3 + many], a[3 + many :])


@group.command("fcall", -3, f"{_READS} may-replicate", movable=counted(2), since="7.0.0")
def fcall(e: "Engine", a: Args) -> bytes:
    """Invokes a function."""
    return _fcall(e, a, read_only=False)


@group.command("fcall_ro", -3, f"{_READS} readonly", movable=counted(2), since="7.0.0")
def fcall_ro(e: "Engine", a: Args) -> bytes:
    """Invokes a read-only function."""
    return _fcall(e, a, read_only=True)


@group.command("function", -2, since="7.0.0")
def function(e: "Engine", a: Args) -> bytes:
    """A container for function commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try FUNCTION HELP." % a[1])


@group.command("function|load", -3, "write denyoom noscript", since="7.0.0")
def function_load(e: "Engine", a: Args) -> bytes:
    """Creates a library."""
    replace = False
    for word in a[2:-1]:
        if word.upper() != b"REPLACE":
            raise CommandError(b"ERR Unknown option given: %b" % word)
        replace = True
    name = e.functions.load(a[-1], replace=replace)
    e.dirty = True
    return bulk(name)


@group.command("function|delete", 3, "write noscript", since="7.0.0")
def function_delete(e: "Engine", a: Args) -> bytes:
    """Deletes a library and its functions."""
    e.functions.delete(a[2])
    e.dirty = True
    return OK


@group.command("function|flush", -2, "write noscript", since="7.0.0")
def function_flush(e: "Engine", a: Args) -> bytes:
    """Deletes all libraries and functions."""
    if len(a) > 3 or (len(a) == 3 and a[2].upper() not in (b"ASYNC", b"SYNC")):
        raise CommandError(b"ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
    e.functions.flush()
    e.dirty = True
    return OK


@group.command("function|list", -2, "noscript", since="7.0.0")
def function_list(e: "Engine", a: Args) -> bytes:
    """Returns information about all libraries."""
    with_code, match = False, None
    at = 2
    while at < len(a):
        word = a[at].upper()
        if word == b"WITHCODE" and not with_code:
            with_code = True
        elif word == b"LIBRARYNAME" and match is None:
            if at + 1 == len(a):
                raise CommandError(b"ERR library name argument was not given")
            match = matcher(option(a, at + 1))
            at += 1
        else:
            raise CommandError(b"ERR Unknown argument %b" % a[at])
        at += 1
    chosen = [each for name, each in e.functions.libraries.items() if match is None or match(name)]
    return array([_library(e, each, with_code) for each in chosen])


def _library(e: "Engine", library: "Library", with_code: bool) -> bytes:
    pairs = [
        (bulk(b"library_name"), bulk(library.name)),
        (bulk(b"engine"), bulk(b"LUA")),
        (bulk(b"functions"), array([_function(e, each) for each in library.functions.values()])),
    ]
    return e.reply.map([*pairs, (bulk(b"library_code"), bulk(library.source))] if with_code else pairs)


def _function(e: "Engine", function: "Function") -> bytes:
    return e.reply.map(
        [
            (bulk(b"name"), bulk(function.name)),
            (bulk(b"description"), e.reply.null if function.description is None else bulk(function.description)),
            (bulk(b"flags"), e.reply.set([simple(flag) for flag in function.flags])),
        ]
    )


@group.command("function|stats", 2, "noscript allow-busy", since="7.0.0")
def function_stats(e: "Engine", a: Args) -> bytes:
    """Returns information about a function during execution."""
    running = e.scripts.running
    if running is not None and not running.function:
        raise e.scripts.busy
    counts = [
        (bulk(b"libraries_count"), number(len(e.functions.libraries))),
        (bulk(b"functions_count"), number(e.functions.count)),
    ]
    return e.reply.map(
        [
            (bulk(b"running_script"), e.reply.null if running is None else _running(e, running)),
            (bulk(b"engines"), e.reply.map([(bulk(b"LUA"), e.reply.map(counts))])),
        ]
    )


def _running(e: "Engine", running: "Running") -> bytes:
    return e.reply.map(
        [
            (bulk(b"name"), bulk(running.name)),
            (bulk(b"command"), array([bulk(word) for word in running.command])),
            (bulk(b"duration_ms"), number(running.ms)),
        ]
    )


@group.command("function|kill", 2, "noscript allow-busy", since="7.0.0")
def function_kill(e: "Engine", a: Args) -> bytes:
    """Terminates a function during execution."""
    e.scripts.kill(function=True)
    return OK


@group.command("function|dump", 2, "noscript", since="7.0.0")
def function_dump(e: "Engine", a: Args) -> bytes:
    """Dumps all libraries into a serialized payload."""
    return bulk(e.functions.dump())


@group.command("function|restore", -3, "write denyoom noscript", since="7.0.0")
def function_restore(e: "Engine", a: Args) -> bytes:
    """Restores all libraries from a payload."""
    how = a[3].upper() if len(a) == 4 else b"APPEND"
    if len(a) > 4:
        raise CommandError(b"ERR wrong number of arguments for 'function|restore' command")
    if how not in (b"FLUSH", b"APPEND", b"REPLACE"):
        raise CommandError(b"ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.")
    e.functions.restore(a[2], flush=how == b"FLUSH", replace=how == b"REPLACE")
    e.dirty = True
    return OK
