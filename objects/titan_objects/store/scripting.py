"""Lua scripts: `EVAL` and its kin, run to their end like any command.

A script counts its instructions instead of looking at a clock, so that it ends at the same place on every member of a
group; `lua-time-limit` is what an instruction count of `PER_MS` for each millisecond allows. What a script wrote goes
to the log as the commands it called, in one transaction.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from titan_objects.store.lua_libraries import DEPTH_MAX, Values
from titan_objects.store.lua_prelude import PRELUDE
from titan_objects.store.resp import (
    RESP2,
    RESP3,
    CommandError,
    SetReply,
    array,
    bulk,
    decode,
    integer,
    limit_reply,
    simple,
)
from titan_objects.store.table import Args

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

PER_MS = 50_000
"""Lua instructions that count as a millisecond."""

SCRIPTS_MAX = 10_000
"""Scripts that are remembered by their hash; the oldest makes room."""

FLAGS = frozenset((b"no-writes", b"allow-oom", b"allow-stale", b"no-cluster", b"allow-cross-slot-keys"))
"""What scripts and functions may say of themselves; only the first two change anything here."""

_SAVING = frozenset((b"no-writes", b"allow-oom"))

WRITES = CommandError(b"ERR Can not execute a script with write flag using *_ro command.")

MEMORY_MAX = 256 << 20
RESULTS_MAX = 4096
"""Values that a function of a library returns: Lua's stack ends at 8,000."""

ITEMS_MAX = 1 << 20
"""Elements of what a script returns or encodes. A table may stand in many places of another, and in itself."""


class Scripts:
    """The scripts of one store, and the Lua that runs them; made with the first script.

    Raises CommandError where Lua (the package lupa) is not installed.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.sources: dict[bytes, bytes] = {}
        self._compiled: dict[bytes, Any] = {}
        self._lua: Any = None
        self._read_only = False
        self._running = False
        self._first_effect = 0
        self._saves_memory = False
        self._items = self._bytes = 0
        self._failed = b""
        """The last error of a command that the script called."""

    def load(self, source: bytes) -> bytes:
        """Remembers a script; its SHA-1 in hexadecimal. Raises CommandError: it does not compile."""
        digest = _sha1(source)
        if digest not in self.sources:
            declared(source)
            self._compiled[digest] = self._compile(source)
            self.sources[digest] = source
            if len(self.sources) > SCRIPTS_MAX:
                oldest = next(iter(self.sources))
                del self.sources[oldest]
                self._compiled.pop(oldest, None)
        return digest

    def keep(self, source: bytes) -> None:
        """Remembers a script that another store has loaded; compiled when it runs."""
        self.sources[_sha1(source)] = source

    def flush(self) -> None:
        """Forgets all scripts."""
        self.sources.clear()
        self._compiled.clear()

    def run(self, digest: bytes, keys: Args, argv: Args, read_only: bool) -> bytes:
        """Runs a script that was loaded; its encoded reply.

        Raises:
            CommandError: there is none of that hash, or it failed.
        """
        source = self.sources.get(digest)
        if source is None:
            raise CommandError(b"NOSCRIPT No matching script. Please use EVAL.")
        if digest not in self._compiled:
            self._compiled[digest] = self._compile(source)
        flags = declared(source)
        if flags is not None and b"no-writes" in flags:
            read_only = True
        elif flags is not None and read_only:
            raise WRITES
        return self._execute(self._run, self._compiled[digest], keys, argv, flags, read_only)

    def invoke(self, callback: Any, keys: Args, argv: Args, flags: list[bytes]) -> bytes:
        """Runs a function of a library; its encoded reply. Raises CommandError: it failed."""
        return self._execute(self._invoke, callback, keys, argv, flags, b"no-writes" in flags)

    @property
    def needs_memory(self) -> bool:
        """The script that runs has not written yet, and has not said that it may run where there is no memory."""
        return not self._saves_memory and len(self._engine.effects) == self._first_effect

    def load_library(self, source: bytes, register: Callable[..., bytes]) -> None:
        """Has a library register its functions.

        Args:
            register: `Library.register`.

        Raises:
            CommandError: it does not compile, or failed.
        """
        compiled = self._compile(source, b"user_function")
        given = partial(register, self._is("table"), self._is("function"))
        try:
            ok, why = self._load(compiled, given, self._allowed)
        except Exception as failed:
            ok, why = False, f"ERR {type(failed).__name__}: {str(failed)[:200]}".encode()
        if not ok:
            raise CommandError(b"ERR Error registering functions: " + bytes(why))

    def _is(self, kind: str) -> Callable[[Any], bool]:
        return lambda value: bool(self._kind(value) == kind)

    @property
    def _allowed(self) -> int:
        """How many instructions a script may take."""
        return max(1, int(self._engine.config.get("lua-time-limit"))) * PER_MS

    def _execute(
        self, run: Any, code: Any, keys: Args, argv: Args, flags: list[bytes] | None, read_only: bool
    ) -> bytes:
        engine = self._engine
        self._saves_memory = not _SAVING.isdisjoint(flags or ())
        if flags is not None and not self._saves_memory and engine.meter is not None:
            engine.meter.admit_script()
        start = self._first_effect = len(engine.effects)
        could_block, engine.may_block = engine.may_block, False
        self._read_only, self._running, self._failed = read_only, True, b""
        db, reply = engine.db, engine.reply
        engine.reply = RESP2  # a script finds the same replies whoever calls it
        try:
            table = self._lua.table_from
            ok, value = run(code, table(keys), table(argv), self._allowed)
            self._begin()
            answer = self._to_resp(value, 0) if ok else None
        except CommandError:
            raise
        except Exception as why:  # lupa's own: out of memory, text that is no text
            raise CommandError(f"ERR script failed: {type(why).__name__}: {str(why)[:200]}") from None
        finally:
            self._running = False
            engine.may_block = could_block
            engine.db, engine.reply = db, reply
            engine.session.db = db
            if len(engine.effects) > start:
                engine.wrap(start)
                engine.quiet()
        if answer is None:
            error = CommandError(bytes(value))
            error.counted = self._was_counted(error.text)
            raise error
        if answer.startswith(b"-") and not self._was_counted(answer[1:]):
            engine.stats.note_error(answer[1:-2])
        return answer

    def _was_counted(self, error: bytes) -> bool:
        """Whether an error is that of the last call of the script that failed."""
        return bool(self._failed) and error.startswith(self._failed)

    # ---- Lua -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            from lupa.lua51 import LuaRuntime, lua_type
        except ImportError:
            raise CommandError(b"ERR scripts need the package lupa: pip install 'titan-overlay[store]'") from None
        self._lua = LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_nothing,
            max_memory=MEMORY_MAX,
        )
        prelude = self._lua.eval(b"function(source) return assert(loadstring(source, '@prelude')) end")(PRELUDE)
        step = 10_000
        may_call, sha1 = partial(_checked, self._may_call), partial(_checked, _sha1)
        made = prelude(self._call, _ignore, self._set_resp, may_call, sha1, step, PER_MS * 1000)
        self._compile_lua, self._run, self._invoke, self._load, checked, seal, null = made
        self._kind = lua_type
        globals_ = self._lua.globals()
        values = Values(self._lua, lua_type, null, self._begin, self._count)
        for library, functions in values.libraries().items():
            shown = {name: checked(partial(_checked, function)) for name, function in functions.items()}
            globals_[library] = self._lua.table_from(shown | ({b"null": null} if library == b"cjson" else {}))
        seal()

    def _compile(self, source: bytes, name: bytes = b"user_script") -> Any:
        if self._lua is None:
            self._start()
        if source.startswith(b"#!"):
            source = b"--" + source
        compiled = self._compile_lua(source, b"@" + name)
        if isinstance(compiled, tuple):
            text = compiled[1].decode("utf-8", "backslashreplace")
            what = "script (new function)" if name == b"user_script" else "function"
            raise CommandError(f"ERR Error compiling {what}: {text}")
        return compiled

    def _call(self, *words: Any) -> Any:
        """`redis.pcall`: a Lua value; an error is a table with `err`."""
        try:
            if not words:
                raise CommandError(b"ERR Please specify at least one argument for this redis.call() call")
            args = [_word(word) for word in words]
            self._check(args)
            reply = self._engine.call(args)
        except CommandError as why:
            self._engine.stats.note_error(why.text)
            self._failed = why.text
            return self._lua.table_from({b"err": why.text})
        if reply[:1] == b"+":
            return self._lua.table_from({b"ok": reply[1:-2]})
        return self._to_lua(decode(reply))

    def _may_call(self, *words: Any) -> bool | None:
        """`redis.acl_check_cmd`: whether the user may. None: there is no such command."""
        args = [_word(word) for word in words]
        command = self._engine.table.find_full(args) if args else None
        if command is None:
            return None
        user = self._engine.session.user
        return user is None or user.unrestricted or user.denial(command, args) is None

    def _set_resp(self, version: Any) -> bool:
        """`redis.setresp`: how replies look from now on until the script ends. False: there is no such version."""
        if version not in (2, 3):
            return False
        self._engine.reply = RESP3 if version == 3 else RESP2
        return True

    def _check(self, args: Args) -> None:
        engine = self._engine
        command = engine.table.find_full(args)
        if command is None:
            raise CommandError(b"ERR Unknown Redis command called from script")
        if "noscript" in command.flags and "blocking" not in command.flags:
            raise CommandError(b"ERR This Redis command is not allowed from script")
        if self._read_only and command.writes:
            raise CommandError(b"ERR Write commands are not allowed from read-only scripts.")
        engine.acl.check(engine.session, command, args, engine.now, "lua")

    def _to_lua(self, value: Any) -> Any:
        table = self._lua.table_from
        if isinstance(value, SetReply):
            return table({b"set": table({self._to_lua(each): True for each in value})})
        if isinstance(value, list):
            return table([self._to_lua(each) for each in value])
        if isinstance(value, dict):
            return table({b"map": table({self._to_lua(key): self._to_lua(each) for key, each in value.items()})})
        if isinstance(value, float):
            return table({b"double": value})
        if isinstance(value, CommandError):
            return table({b"err": value.text})
        return False if value is None and self._engine.reply is RESP2 else value

    def _begin(self) -> None:
        self._items = self._bytes = 0

    def _count(self, value: Any) -> None:
        """One more element of what is put together. Raises CommandError: that is too large."""
        self._items += 1
        if self._items > ITEMS_MAX:
            raise CommandError(
                b"ERR a script's table has more than %d elements: return fewer, and no table that is nested in itself"
                % ITEMS_MAX
            )
        if isinstance(value, bytes):
            self._bytes += len(value)
            limit_reply(self._bytes)

    def _to_resp(self, value: Any, depth: int) -> bytes:
        self._count(value)
        engine = self._engine
        resp = engine.session.resp
        if value is None:
            return resp.null
        if isinstance(value, bool):
            if engine.reply is RESP3:
                return resp.boolean(value)
            return integer(1) if value else resp.null
        if isinstance(value, bytes):
            return bulk(value)
        if isinstance(value, (int, float)):
            return integer(int(value) if abs(value) < 1 << 63 else -(1 << 63))
        if self._kind(value) != "table":
            return resp.null
        if depth > DEPTH_MAX:
            raise CommandError(b"ERR reached lua stack limit: a reply is nested %d deep at most" % DEPTH_MAX)
        if isinstance(value[b"err"], bytes):
            return CommandError(value[b"err"]).reply
        if isinstance(value[b"ok"], bytes):
            return simple(_one_line(value[b"ok"]))
        if isinstance(value[b"double"], (int, float)):
            return resp.double(float(value[b"double"]))
        if self._kind(value[b"map"]) == "table":
            pairs = value[b"map"].items()
            return resp.map([(self._to_resp(key, depth + 1), self._to_resp(each, depth + 1)) for key, each in pairs])
        if self._kind(value[b"set"]) == "table":
            return resp.set([self._to_resp(each, depth + 1) for each in value[b"set"]])
        if isinstance(value[b"big_number"], bytes):
            return resp.big_number(_one_line(value[b"big_number"]))
        text = value[b"verbatim_string"]
        if self._kind(text) == "table" and isinstance(text[b"format"], bytes) and isinstance(text[b"string"], bytes):
            self._count(text[b"string"])
            return resp.verbatim(text[b"string"], text[b"format"][:3].ljust(3))
        items: list[bytes] = []
        while (item := value[len(items) + 1]) is not None:
            items.append(self._to_resp(item, depth + 1))
        return array(items)


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\r", b" ").replace(b"\n", b" ")


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


def _word(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CommandError(b"ERR Lua redis lib command arguments must be strings or integers")
    return b"%d" % int(value) if float(value).is_integer() and abs(value) < 1e17 else b"%.17g" % value


def _sha1(value: Any) -> bytes:
    return hashlib.sha1(_word(value), usedforsecurity=False).hexdigest().encode()


def _checked(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    """Its result or results, or the text of its error."""
    try:
        result = function(*args)
        if isinstance(result, tuple):
            if len(result) > RESULTS_MAX:
                raise ValueError(f"a function returns {RESULTS_MAX} values at most")
            return True, *result
        return True, result
    except CommandError as why:
        return False, why.text.removeprefix(b"ERR ")
    except Exception as why:
        return False, f"{type(why).__name__}: {str(why)[:200]}".encode("utf-8", "backslashreplace")


def _nothing(target: object, name: object, setting: bool) -> object:
    raise AttributeError("scripts may not look into Python")


def _ignore(*_: object) -> None:
    return None
