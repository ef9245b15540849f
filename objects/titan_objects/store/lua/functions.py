"""Libraries of functions in Lua (`FUNCTION LOAD`, `FCALL`): part of the data, unlike scripts, so the log, snapshots and
replicas have them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from titan_objects.store.lua.library import Function, Library
from titan_objects.store.parser import Damaged
from titan_objects.store.rdb import Reader
from titan_objects.store.rdb_writing import function, sealed, undumped
from titan_objects.store.resp import CommandError
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

FUNCTIONS_MAX = 10_000
"""Of all libraries."""


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
        library = self._engine.scripts.load_library(source)
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
        return self._engine.scripts.invoke(function, keys, argv)

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
