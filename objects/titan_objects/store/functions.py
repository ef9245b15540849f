"""Libraries of functions in Lua (`FUNCTION LOAD`, `FCALL`): part of the data, unlike scripts, so the log, snapshots and
replicas have them.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from titan_objects.store.parser import Damaged
from titan_objects.store.rdb import Reader
from titan_objects.store.rdb_writing import function, sealed, undumped
from titan_objects.store.resp import CommandError
from titan_objects.store.scripting import FLAGS
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

FUNCTIONS_MAX = 10_000
"""Of all libraries."""

_NAME = re.compile(rb"[A-Za-z0-9_]+")
_BAD_NAME = (
    b"Library names can only contain letters, numbers, or underscores(_) and must be at least one character long"
)


class Function:
    """One function of a library. `callback`: the Lua function; `source`: of its library."""

    def __init__(
        self, name: bytes, callback: Any, description: bytes | None, flags: list[bytes], source: bytes
    ) -> None:
        self.name = name
        self.source = source
        self.callback = callback
        self.description = description
        self.flags = flags

    @property
    def read_only(self) -> bool:
        """It has said that it does not write."""
        return b"no-writes" in self.flags


class Library:
    """What one source has registered."""

    def __init__(self, name: bytes, source: bytes) -> None:
        self.name = name
        self.source = source
        self.functions: dict[bytes, Function] = {}
        """By name, in lower case: names that differ in case alone are the same."""

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
        self.functions[name.lower()] = Function(name, callback, description, flags, self.source)
        return b""


class Functions:
    """The libraries of one store."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.libraries: dict[bytes, Library] = {}
        self._functions: dict[bytes, Function] = {}

    def load(self, source: bytes, *, replace: bool = False) -> bytes:
        """Adds a library; its name.

        Raises:
            CommandError: it cannot be loaded, or it or one of its functions is there already. Nothing has changed then.
        """
        library = self.loaded(source)
        self._put([library], replace)
        return library.name

    def loaded(self, source: bytes) -> Library:
        """A library that is not there yet. Raises CommandError: it cannot be loaded."""
        library = Library(_name(source), source)
        self._engine.scripts.load_library(source, library.register)
        if not library.functions:
            raise CommandError(b"ERR No functions registered")
        return library

    def _put(self, libraries: Iterable[Library], replace: bool) -> None:
        kept = dict(self.libraries)
        for library in libraries:
            if library.name in kept and not replace:
                raise CommandError(b"ERR Library '%b' already exists" % library.name)
            kept[library.name] = library
        found: dict[bytes, Function] = {}
        for library in kept.values():
            for name in library.functions:
                if name in found:
                    raise CommandError(b"ERR Function %b already exists" % library.functions[name].name)
            found |= library.functions
        if len(found) > FUNCTIONS_MAX:
            raise CommandError(f"ERR a store has {FUNCTIONS_MAX} functions at most; delete a library")
        self.libraries, self._functions = kept, found

    def delete(self, name: bytes) -> None:
        """Takes a library away. Raises CommandError: there is none of that name."""
        library = self.libraries.pop(name, None)
        if library is None:
            raise CommandError(b"ERR Library not found")
        for each in library.functions:
            del self._functions[each]

    def flush(self) -> None:
        """Takes all libraries away."""
        self.libraries, self._functions = {}, {}

    def find(self, name: bytes) -> Function:
        """The function of that name. Raises CommandError: there is none."""
        found = self._functions.get(name.lower())
        if found is None:
            raise CommandError(b"ERR Function not found")
        return found

    def call(self, function: Function, keys: Args, argv: Args) -> bytes:
        """Runs a function; its encoded reply. Raises CommandError: it failed."""
        return self._engine.scripts.invoke(function.callback, keys, argv, function.flags)

    @property
    def count(self) -> int:
        """Functions of all libraries."""
        return len(self._functions)

    # ---- FUNCTION DUMP -------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All libraries, as `restore` takes them."""
        return sealed(b"".join(function(library.source) for library in self.libraries.values()))

    def restore(self, data: bytes, *, flush: bool, replace: bool) -> None:
        """Adds all libraries of a dump, or none. Raises CommandError."""
        try:
            libraries = [self.loaded(source) for source in Reader(undumped(data)).functions()]
        except Damaged:
            raise CommandError(b"ERR given type is not a function") from None
        before = self.libraries, self._functions
        if flush:
            self.flush()
        try:
            self._put(libraries, replace)
        except CommandError:
            self.libraries, self._functions = before
            raise


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
