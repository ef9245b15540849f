"""What the source of a library registers: functions in Lua."""

import re
from collections.abc import Callable
from typing import Any

from titan_objects.store.resp import CommandError

FLAGS = frozenset((b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"))
"""What scripts and functions may say of themselves; only the first two change anything here."""

_NAME = re.compile(rb"[A-Za-z0-9_]+")
_BAD_NAME = (
    b"Library names can only contain letters, numbers, or underscores(_) and must be at least one character long"
)


class Function:
    """One function of a library."""

    def __init__(self, name: bytes, description: bytes | None, flags: list[bytes], library: "Library") -> None:
        self.name = name
        self.library = library
        self.description = description
        self.flags = flags

    @property
    def read_only(self) -> bool:
        """It has said that it does not write."""
        return b"no-writes" in self.flags


class Library:
    """What one source has registered.

    Raises:
        CommandError: the source does not begin with a line that says what it is.
    """

    def __init__(self, source: bytes) -> None:
        self.name = _name(source)
        self.source = source
        self.functions: dict[bytes, Function] = {}
        """By name, in lower case: names that differ in case alone are the same."""
        self.callbacks: dict[bytes, Any] = {}
        """Lua functions, by the same names."""
        self.lua: object = None
        """Where they were loaded."""

    def register(self, is_table: Callable[[Any], bool], is_function: Callable[[Any], bool], *given: Any) -> bytes:
        """`redis.register_function`: what is wrong, or nothing."""
        if len(given) == 1 and is_table(given[0]):
            named = dict(given[0].items())
        elif len(given) == 1:
            return (
                b"calling redis.register_function with a single argument is only applicable to Lua table "
                b"(representing named arguments)."
            )
        elif len(given) == 2:
            named = {b"function_name": given[0], b"callback": given[1]}
            if not isinstance(given[0], bytes):
                return b"first argument to redis.register_function must be a string"
            if not is_function(given[1]):
                return b"second argument to redis.register_function must be a function"
        else:
            return b"wrong number of arguments to redis.register_function"
        if set(named) - {b"function_name", b"callback", b"description", b"flags"}:
            return b"unknown argument given to redis.register_function"
        name, callback, description = (named.get(word) for word in (b"function_name", b"callback", b"description"))
        for word, given_value, fits, kind in (
            ("function_name", name, isinstance(name, bytes), "string"),
            ("description", description, isinstance(description, bytes), "string"),
            ("callback", callback, is_function(callback), "function"),
        ):
            if given_value is not None and not fits:
                return f"{word} argument given to redis.register_function must be a {kind}".encode()
        if name is None:
            return b"redis.register_function must get a function name argument"
        if callback is None:
            return b"redis.register_function must get a callback argument"
        if b"flags" in named and not is_table(named[b"flags"]):
            return b"flags argument to redis.register_function must be a table representing function flags"
        flags = list(named[b"flags"].values()) if b"flags" in named else []
        if not FLAGS.issuperset(flags):
            return b"unknown flag given"
        if not _NAME.fullmatch(name):
            return _BAD_NAME
        if name.lower() in self.functions:
            return b"Function already exists in the library"
        flags = list(dict.fromkeys(flags))
        self.functions[name.lower()] = Function(name, description, flags, self)
        self.callbacks[name.lower()] = callback
        return b""


def _name(source: bytes) -> bytes:
    """A library's name, from the first line of its source. Raises CommandError."""
    head = source.partition(b"\n")[0]
    if not head.startswith(b"#!") or b"\n" not in source:
        raise CommandError(b"ERR Missing library metadata")
    words = head[2:].split()
    name: bytes | None = None
    for word in words[1:]:
        key, _, value = word.partition(b"=")
        if key.lower() != b"name":
            raise CommandError(b"ERR Invalid metadata value given: %b" % word)
        if name is not None:
            raise CommandError(b"ERR Invalid metadata value, name argument was given multiple times")
        name = value
    if name is None:
        raise CommandError(b"ERR Library name was not given")
    if not _NAME.fullmatch(name):
        raise CommandError(b"ERR " + _BAD_NAME)
    if words[0].lower() != b"lua":
        raise CommandError(b"ERR Engine '%b' not found" % words[0])
    return name


def declared(source: bytes) -> list[bytes] | None:
    """The flags in a script's first line, `#!lua flags=...`; None: it has no such line.

    Raises:
        CommandError: that line is wrong.
    """
    if not source.startswith(b"#!"):
        return None
    head, newline, _ = source.partition(b"\n")
    if not newline:
        raise CommandError(b"ERR Invalid script shebang")
    engine, *options = head.split() or [head]
    if engine != b"#!lua":
        raise CommandError(b"ERR Unexpected engine in script shebang: %b" % engine)
    flags: list[bytes] = []
    for option in options:
        name, _, words = option.partition(b"=")
        if name != b"flags":
            raise CommandError(b"ERR Unknown lua shebang option: %b" % option)
        flags += [word for word in words.split(b",") if word]
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise CommandError(b"ERR Unexpected flag in script shebang: %b" % unknown[0])
    return flags
