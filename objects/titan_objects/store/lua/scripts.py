"""Lua scripts: `EVAL` and its kin, run to their end like any command.

A script counts its instructions instead of looking at a clock, so that it ends at the same place on every member of a
group; `lua-time-limit` is what an instruction count of `PER_MS` for each millisecond allows. What a script wrote goes
to the log as the commands it called, in one transaction.

In a group even the moment at which memory runs out has to be the same, and how much Lua holds depends on all that ran
before. So a script is tried first with little memory, where nothing is collected; if that is not enough, it runs anew
in a Lua that is new, and finds the replies again that it has got so far.
"""

import hashlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from titan_objects.store.lua.costs import BYTES_FOR_ONE, CALL_COST, ITEM_COST, Bill
from titan_objects.store.lua.library import Function, Library, declared
from titan_objects.store.lua.replies import Answer
from titan_objects.store.lua.running import Replies, Running, Supervisor
from titan_objects.store.lua.sandbox import PER_MS, OutOfMemory, Sandbox
from titan_objects.store.resp import RESP2, RESP3, CommandError, decode, limit_reply
from titan_objects.store.table import Args, Command

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

T = TypeVar("T")

_LOG = logging.getLogger("titan_objects.store.scripts")

SCRIPTS_MAX = 10_000
"""Scripts that are remembered by their hash; the oldest makes room."""

FIRST_BYTES = 4 << 20
"""Memory that a script of a group uses, all in all, before it runs anew in a Lua of its own."""

PATIENCE = 20
"""Where others can end a script, it ends by itself only after so many times its limit."""

LOG_BYTES_MAX = 1024
_LEVELS = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)
"""Of `redis.LOG_DEBUG` and those that follow."""

WRITES = b"ERR Can not execute a script with write flag using *_ro command."

_SAVING = frozenset((b"no-writes", b"allow-oom"))
_NO_MEMORY = b"ERR script needs too much memory and was ended"

ITEMS_MAX = 1 << 20
"""Elements of what a script returns or encodes. A table may stand in many places of another, and in itself."""


class Scripts:
    """The scripts of one store, and the Lua that runs them; made with the first script.

    Args:
        agreed: every member of a group runs them.

    Raises CommandError where Lua (the package lupa) is not installed.
    """

    def __init__(self, engine: "Engine", *, agreed: bool = False) -> None:
        self._engine = engine
        self._agreed = agreed
        self.sources: dict[bytes, bytes] = {}
        self.supervisor: Supervisor | None = None
        self.running: Running | None = None
        """What runs just now."""
        self._shared: Sandbox | None = None
        """The Lua that scripts share."""
        self._sandbox: Sandbox
        """The one that runs just now."""
        self._keeps = False
        self._read_only = False
        self._has_written = False
        self._saves_memory = False
        self._failed = b""
        """The last error of a command that the script has called."""
        self._items = self._bytes = 0
        self._cost = 0.0
        self._replies = Replies()

    # ---- scripts and functions -----------------------------------------------------------------------------------

    def load(self, source: bytes) -> bytes:
        """Remembers a script; its SHA-1 in hexadecimal. Raises CommandError: it does not compile."""
        digest = _sha1(source)
        if digest not in self.sources:
            declared(source)
            self._lua().script(digest, source)
            self.sources[digest] = source
            if len(self.sources) > SCRIPTS_MAX:
                oldest = next(iter(self.sources))
                del self.sources[oldest]
                self._lua().forget(oldest)
        return digest

    def keep(self, source: bytes) -> None:
        """Remembers a script that another store has loaded; compiled when it runs."""
        self.sources[_sha1(source)] = source

    def flush(self) -> None:
        """Forgets all scripts."""
        self.sources.clear()
        if self._shared is not None:
            self._shared.forget()

    def run(self, digest: bytes, keys: Args, argv: Args, read_only: bool) -> bytes:
        """Runs a script that was loaded; its encoded reply.

        Raises:
            CommandError: there is none of that hash, or it failed.
        """
        source = self.sources.get(digest)
        if source is None:
            raise CommandError(b"NOSCRIPT No matching script. Please use EVAL.")
        flags = declared(source)
        if flags is not None and b"no-writes" in flags:
            read_only = True
        elif flags is not None and read_only:
            raise CommandError(WRITES)

        def work(lua: Sandbox) -> Any:
            return lua.run(lua.script(digest, source), keys, argv, self._allowed, digest)

        running = Running(digest, [b"EVALSHA", digest, b"%d" % len(keys), *keys, *argv], False, self.supervisor)
        return self._execute(work, running, flags, read_only)

    def invoke(self, function: Function, keys: Args, argv: Args) -> bytes:
        """Runs a function of a library; its encoded reply. Raises CommandError: it failed."""

        def work(lua: Sandbox) -> Any:
            callback = self._callback(lua, function)
            return lua.invoke(callback, keys, argv, self._allowed, function.name)

        command = [b"FCALL", function.name, b"%d" % len(keys), *keys, *argv]
        running = Running(function.name, command, True, self.supervisor)
        return self._execute(work, running, function.flags, function.read_only)

    def _callback(self, lua: Sandbox, function: Function) -> Any:
        library = function.library
        loaded = library
        if self._agreed or library.lua is not lua:
            # What a library of a group remembers between calls would be another thing at a member that was restored.
            loaded = lua.load(library.source, self._allowed)
            if not self._agreed:
                library.lua, library.callbacks = lua, loaded.callbacks
        callback = loaded.callbacks.get(function.name.lower())
        if callback is None:
            raise CommandError(b"ERR Function not found: its library registers it only now and then")
        return callback

    def load_library(self, source: bytes) -> Library:
        """Has a library register its functions. Raises CommandError: it does not compile, or failed."""
        running = Running(b"", [b"FUNCTION", b"LOAD", source], True, self.supervisor)
        reply = self._engine.reply
        try:
            return self._attempt(lambda lua: lua.load(source, self._allowed), running)
        finally:
            self._engine.reply = reply

    def kill(self, *, function: bool) -> None:
        """Ends what runs.

        Args:
            function: by FUNCTION KILL.

        Raises:
            CommandError: nothing does, or something else, or it has written.
        """
        if self.running is None:
            raise CommandError(b"NOTBUSY No scripts in execution right now.")
        if self.running.function != function:
            raise self.busy
        if self._has_written:
            raise CommandError(
                b"UNKILLABLE Sorry the script already executed write commands against the dataset. You can either "
                b"wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command."
            )
        self.running.killed = True

    @property
    def busy(self) -> CommandError:
        """What others are told while a script runs."""
        what = b"FUNCTION" if self.running is not None and self.running.function else b"SCRIPT"
        return CommandError(
            b"BUSY Redis is busy running a script. You can only call %b KILL or SHUTDOWN NOSAVE." % what
        )

    @property
    def needs_memory(self) -> bool:
        """The script that runs has not written yet, and has not said that it may run where there is no memory."""
        return not self._saves_memory and not self._has_written

    # ---- running -------------------------------------------------------------------------------------------------

    @property
    def _allowed(self) -> int:
        """How many instructions a script may take."""
        limit = max(1, int(self._engine.config.get("lua-time-limit"))) * PER_MS
        return limit if self.supervisor is None else limit * PATIENCE

    def _execute(
        self, work: Callable[[Sandbox], Any], running: Running, flags: list[bytes] | None, read_only: bool
    ) -> bytes:
        engine = self._engine
        self._saves_memory = not _SAVING.isdisjoint(flags or ())
        if flags is not None and not self._saves_memory and engine.meter is not None:
            engine.meter.admit_script()
        start = len(engine.effects)
        self._has_written = False
        could_block, engine.may_block = engine.may_block, False
        self._read_only = read_only
        db, reply = engine.db, engine.reply
        self._failed = b""
        try:
            value = self._attempt(work, running)
            self.begin()
            answer = Answer(engine.session.resp, engine.reply is RESP3, self._sandbox.kind, self.count).encode(value)
            if answer.startswith(b"-"):
                raise CommandError(answer[1:-2])  # the script's call has failed
            return answer
        except CommandError as why:
            why.counted = self._was_counted(why.text)
            raise
        finally:
            engine.may_block = could_block
            engine.db, engine.reply = db, reply
            engine.session.db = db
            if len(engine.effects) > start:
                engine.wrap(start)
                engine.quiet()

    def _was_counted(self, error: bytes) -> bool:
        """Whether an error is that of the last call that failed."""
        return bool(self._failed) and error.startswith(self._failed)

    def _attempt(self, work: Callable[[Sandbox], T], running: Running) -> T:
        """Does some work in the Lua that scripts share, and in a group, if its memory is not enough, in a new one."""
        self.running = running
        if self.supervisor is not None:
            self.supervisor.begin()
        try:
            return self._tried(work)
        except OutOfMemory:
            raise CommandError(_NO_MEMORY) from None
        finally:
            self._replies.begin()
            self.running = None
            if self.supervisor is not None:
                self.supervisor.end()

    def _tried(self, work: Callable[[Sandbox], T]) -> T:
        try:
            return self._try(work, self._lua(), FIRST_BYTES if self._agreed else None)
        except OutOfMemory:
            if not self._agreed:
                raise
        self._replies.rewind()
        return self._try(work, self._new(collects=True), None)

    def _try(self, work: Callable[[Sandbox], T], lua: Sandbox, more: int | None) -> T:
        self._sandbox = lua
        self._keeps = more is not None
        self._engine.reply = RESP2  # a script finds the same replies whoever calls it
        self._cost = 0.0
        lua.allow(more)
        return work(lua)

    def _lua(self) -> Sandbox:
        if self._shared is None or self._shared.crowded:
            self._shared = self._new(collects=not self._agreed)
        return self._shared

    def _new(self, *, collects: bool) -> Sandbox:
        return Sandbox(self, agreed=self._agreed, collects=collects, watched=self.supervisor is not None)

    # ---- what the sandbox asks for -------------------------------------------------------------------------------

    def call(self, *words: Any) -> Any:
        """`redis.pcall`: a Lua value; an error is a table with `err`."""
        reply, cost = self._replies.again() or self._executed(words)
        self._cost += cost
        if isinstance(reply, CommandError):
            return self._sandbox.table({b"err": reply.text})
        if reply[:1] == b"+":
            return self._sandbox.table({b"ok": reply[1:-2]})
        return self._sandbox.to_lua(decode(reply), False if self._engine.reply is RESP2 else None)

    def _executed(self, words: tuple[Any, ...]) -> tuple[bytes | CommandError, float]:
        reply: bytes | CommandError
        bill: Bill | None = None
        try:
            if not words:
                raise CommandError(b"ERR Please specify at least one argument for this redis lib call")
            args = [_word(word) for word in words]
            command = self._checked(args)
            bill = Bill(self._engine, command, args)
            reply = self._engine.call(args)
            self._has_written |= command.writes
            bill.settle(reply)
        except CommandError as why:
            self._engine.stats.note_error(why.text)
            self._failed = why.text
            reply = why
        cost = bill.cost if bill is not None else CALL_COST
        if self._keeps:
            self._replies.add(reply, cost)
        return reply, cost

    def _checked(self, args: Args) -> Command:
        engine = self._engine
        command = engine.table.find_full(args)
        if command is None:
            raise CommandError(b"ERR Unknown Redis command called from script")
        if not command.takes(len(args)):
            engine.usages.count_error(args, rejected=True)
            raise CommandError(b"ERR Wrong number of args calling Redis command from script")
        if "noscript" in command.flags:
            raise CommandError(b"ERR This Redis command is not allowed from script")
        if self._read_only and command.writes:
            raise CommandError(b"ERR Write commands are not allowed from read-only scripts.")
        engine.acl.check(engine.session, command, args, engine.now, "lua")
        return command

    def may_call(self, *words: Any) -> bool | None:
        """`redis.acl_check_cmd`: whether the user may. None: there is no such command."""
        args = [_word(word) for word in words]
        command = self._engine.table.find_full(args) if args else None
        if command is None:
            return None
        user = self._engine.session.user
        return user is None or user.unrestricted or user.denial(command, args) is None

    def set_resp(self, version: Any) -> bool:
        """`redis.setresp`: how replies look from now on until the script ends. False: there is no such version."""
        if version not in (2, 3):
            return False
        self._engine.reply = RESP3 if version == 3 else RESP2
        return True

    def log(self, level: Any, *words: Any) -> None:
        """`redis.log`: a line in this program's log."""
        text = b" ".join(_word(word) for word in words)[:LOG_BYTES_MAX]
        _LOG.log(_LEVELS[int(level)], "%s", repr(text)[2:-1])

    def sha1(self, value: Any) -> bytes:
        """`redis.sha1hex`."""
        return _sha1(value)

    def begin(self) -> None:
        """Something is put together from here on, by a library or as a reply."""
        self._items = self._bytes = 0

    def count(self, value: Any) -> None:
        """One more element of that. Raises CommandError: it is too large."""
        self._items += 1
        if self._items > ITEMS_MAX:
            raise CommandError(
                b"ERR a script's table has more than %d elements: return fewer, and no table that is nested in itself"
                % ITEMS_MAX
            )
        if isinstance(value, bytes):
            self._bytes += len(value)
            limit_reply(self._bytes)

    def spend(self, instructions: float) -> None:
        """What a library does takes as long as so many."""
        self._cost += instructions

    def charge(self) -> float | bool | None:
        """What was done here since the last time, in instructions. False: the script is to end; None: as if memory
        had run out.
        """
        if self._keeps and self._replies.full:
            return None
        if self.killed():
            return False
        cost = self._cost + ITEM_COST * self._items + self._bytes / BYTES_FOR_ONE
        self._cost = 0.0
        self._items = self._bytes = 0
        return cost

    def killed(self) -> bool:
        """Somebody wants the script to end."""
        if self.supervisor is None or self.running is None:
            return False
        self.supervisor.look()
        return self.running.killed


def _word(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CommandError(b"ERR Lua redis lib command arguments must be strings or integers")
    return b"%d" % int(value) if float(value).is_integer() and abs(value) < 1e17 else b"%.17g" % value


def _sha1(value: Any) -> bytes:
    return hashlib.sha1(_word(value), usedforsecurity=False).hexdigest().encode()
