"""One Lua, and what goes into it and comes out.

Lua may run out of memory at any allocation, and raises an error then as C does, by a jump. Where Lua's own code runs
that ends the script and nothing else; out of Python's code it would not come back. So the limit holds only while a
script's own instructions run: the prelude calls `enter` before Python and `leave` behind it.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from titan_objects.store.lua.libraries import Refused, Values
from titan_objects.store.lua.library import Library
from titan_objects.store.lua.prelude import PRELUDE
from titan_objects.store.lua.values import Meter
from titan_objects.store.resp import CommandError, SetReply
from titan_objects.store.table import Args

_LOG = logging.getLogger("titan_objects.store.scripts")

PER_MS = 50_000
"""Lua instructions that count as a millisecond."""

STEP = 10_000
"""Instructions between two looks at how many there have been."""

MEMORY_MAX = 256 << 20
"""Bytes that Lua may hold."""

CROWDED = 64 << 20
"""Of what is left behind by scripts (libraries remember); a Lua that holds more is given up."""

GARBAGE_MAX = 8 << 20
"""Bytes that are left to be collected until the next script."""

RESULTS_MAX = 4096
"""Values that a function of a library returns: Lua's stack ends at 8,000."""

_OUT_OF_MEMORY = b"not enough memory"


class OutOfMemory(Exception):
    """A script has reached its limit of memory, at whatever instruction."""


class Host(Meter, Protocol):
    """What scripts can do to the store."""

    def call(self, *words: Any) -> Any:
        """`redis.pcall`: a Lua value; an error is a table with `err`."""

    def may_call(self, *words: Any) -> bool | None:
        """`redis.acl_check_cmd`: whether the user may. None: there is no such command."""

    def set_resp(self, version: Any) -> bool:
        """`redis.setresp`: how replies look from now on until the script ends. False: there is no such version."""

    def log(self, level: Any, *words: Any) -> None:
        """`redis.log`."""

    def sha1(self, value: Any) -> bytes:
        """`redis.sha1hex`."""

    def charge(self) -> float | bool | None:
        """Instructions that Python's work since the last call counts as. False: the script is to end; None: as if it
        had run out of memory.
        """

    def killed(self) -> bool:
        """Somebody wants the script to end."""


class Sandbox:
    """See the module.

    Args:
        host: what scripts call.
        agreed: every member of a group runs scripts, and they mean the same at each.
        collects: Lua frees what is not needed any more while a script runs, which may depend on what ran before.
        watched: `host.killed` is asked from time to time.

    Raises:
        CommandError: Lua (the package lupa) is not installed.
    """

    def __init__(self, host: Host, *, agreed: bool, collects: bool, watched: bool) -> None:
        try:
            from lupa.lua51 import LuaError, LuaRuntime, lua_type
        except ImportError:
            raise CommandError(b"ERR scripts need the package lupa: pip install 'titan-overlay[store]'") from None
        self._host = host
        self._collects = collects
        self.kind = lua_type
        self._lua = lua = LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_nothing,
            max_memory=MEMORY_MAX,
        )
        lua.set_max_memory(0)
        self._error = LuaError
        self._unhook = lua.eval(b"debug.sethook")
        self.table = lua.table_from
        self._collect = lua.eval(b"collectgarbage")
        self._limit = 0
        prelude = lua.eval(b"function(source) return assert(loadstring(source, '@prelude')) end")(PRELUDE)
        null = lua.eval(b"newproxy")()
        values = Values(lua, lua_type, null, host)
        libraries = {
            library: self.table({name: partial(_checked, function) for name, function in functions.items()})
            for library, functions in values.libraries().items()
        }
        self._compile, self._run, self._invoke, self._load = prelude(
            partial(lua.set_max_memory, 0),
            self._leave,
            host.killed if watched else None,
            agreed,
            STEP,
            PER_MS * 1000,
            null,
            host.call,
            partial(_checked, host.log),
            partial(_checked, host.set_resp),
            partial(_checked, host.may_call),
            partial(_checked, host.sha1),
            _spread,
            self.table(libraries),
        )
        self._compiled: dict[bytes, Any] = {}
        self._collect(b"setstepmul", 2000)  # a step sees to 40 KiB: large texts are let go in time
        self._collect(b"setpause", 100 * GARBAGE_MAX // self._used)
        self._tidy()
        self._collect(b"setpause", 200)

    @property
    def _used(self) -> int:
        used: int = self._lua.get_memory_used(True)
        return used

    def _tidy(self) -> None:
        self._collect()
        if not self._collects:
            self._collect(b"stop")
        self._held = self._used

    @property
    def crowded(self) -> bool:
        """It keeps too much that scripts have left behind, even when what nobody needs has been removed."""
        if self._used - self._held > GARBAGE_MAX:
            self._tidy()
        return self._held > CROWDED

    def allow(self, more: int | None = None) -> None:
        """How many bytes more the next script may use; None: as many as Lua may hold."""
        self._limit = MEMORY_MAX if more is None else self._used + more

    def _leave(self) -> float | bool | None:
        self._lua.set_max_memory(self._limit, True)
        return self._host.charge()

    # ---- running -------------------------------------------------------------------------------------------------

    def script(self, digest: bytes, source: bytes) -> Any:
        """A script's code. Raises CommandError: it does not compile."""
        code = self._compiled.get(digest)
        if code is None:
            code = self._compiled[digest] = self._code(source, "script (new function)", b"@user_script")
        return code

    def forget(self, digest: bytes | None = None) -> None:
        """Forgets a script, or all."""
        if digest is None:
            self._compiled.clear()
        else:
            self._compiled.pop(digest, None)

    def load(self, source: bytes, allowed: int) -> Library:
        """Has a library register its functions.

        Raises:
            CommandError: it does not compile, or failed.
            OutOfMemory.
        """
        library = Library(source)
        code = self._code(source, "function", b"@user_function")
        register = partial(_checked, library.register, self._is("table"), self._is("function"))
        try:
            self._answer(self._called(self._load, code, register, allowed), b"")
        except CommandError as why:
            raise CommandError(b"ERR Error registering functions: " + why.text) from None
        library.lua = self
        return library

    def _is(self, kind: str) -> Callable[[Any], bool]:
        return lambda value: bool(self.kind(value) == kind)

    def run(self, code: Any, keys: Args, argv: Args, allowed: int, name: bytes) -> Any:
        """Runs a script; a Lua value, whose tables have no metatables.

        Args:
            allowed: instructions.
            name: what errors call it.

        Raises:
            CommandError: it failed.
            OutOfMemory.
        """
        return self._answer(self._called(self._run, code, self.table(keys), self.table(argv), allowed), name)

    def invoke(self, callback: Any, keys: Args, argv: Args, allowed: int, name: bytes) -> Any:
        """Runs a function of a library, likewise."""
        return self._answer(self._called(self._invoke, callback, self.table(keys), self.table(argv), allowed), name)

    def _called(self, function: Any, *args: Any) -> Any:
        """What the prelude says of a script. Its limits end with it, also where memory ends as its time does."""
        try:
            return function(*args)
        except self._error as why:
            self._lua.set_max_memory(0)
            self._unhook()
            if isinstance(why, MemoryError):
                raise OutOfMemory from None
            raise

    def _answer(self, results: Any, name: bytes) -> Any:
        ok, value, *place = results
        if ok:
            return value
        if value == _OUT_OF_MEMORY:
            raise OutOfMemory
        raise CommandError(value + b" script: %b, on %b." % (name, place[0]) if name and place[0] else value)

    def _code(self, source: bytes, what: str, name: bytes) -> Any:
        if source.startswith(b"#!"):
            source = b"--" + source
        code = self._compile(source, name)
        if isinstance(code, tuple):
            raise CommandError(f"ERR Error compiling {what}: {code[1].decode('utf-8', 'backslashreplace')}")
        return code

    def to_lua(self, value: Any, nothing: Any) -> Any:
        """A reply, decoded, as scripts find it. `nothing`: what stands for null."""
        if isinstance(value, SetReply):
            return self.table({b"set": self.table({self.to_lua(each, nothing): True for each in value})})
        if isinstance(value, list):
            return self.table([self.to_lua(each, nothing) for each in value])
        if isinstance(value, dict):
            pairs = [(self.to_lua(key, nothing), self.to_lua(each, nothing)) for key, each in value.items()]
            return self.table({b"map": self.table(dict(pairs))})
        if isinstance(value, float):
            return self.table({b"double": value})
        if isinstance(value, CommandError):
            return self.table({b"err": value.text})
        return nothing if value is None else value


def _checked(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """Its result or results, or the text of its error."""
    try:
        result = function(*args)
        if isinstance(result, tuple):
            if len(result) > RESULTS_MAX:
                raise Refused(b"a function returns %d values at most" % RESULTS_MAX)
            return True, *result
        return True, result
    except Refused as why:
        return False, why.text
    except CommandError as why:
        return False, why.text.removeprefix(b"ERR ")
    except Exception:  # a text of Python's would not be the same with every version
        _LOG.exception("a function of scripts has failed")
        return False, b"internal error"


def _spread(function: Callable[..., Any], given: Any, many: int) -> Any:
    """Calls it with the values of a table, of which there are so many, with nils.

    lupa takes arguments one by one, ever more slowly: the thousandth takes 2 us, an element of a table 0.2.
    """
    values = list(given.values())
    return function(*values if len(values) == many else (given[at] for at in range(1, many + 1)))


def _nothing(target: object, name: object, setting: bool) -> object:
    raise AttributeError("scripts may not look into Python")
