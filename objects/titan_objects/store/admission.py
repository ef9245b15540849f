"""The closer look at a command, where its session or the whole store needs one: who sends it, whether it may be
executed just now, and whether it is executed, queued, held or answered at all.
"""

from typing import TYPE_CHECKING

from titan_objects.store.lua.calls import writes
from titan_objects.store.resp import QUEUED, CommandError
from titan_objects.store.session import Session
from titan_objects.store.table import Args, Command, Handler
from titan_objects.store.usage import Usage

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

READ_ONLY = b"READONLY You can't write against a read only replica."
NESTED = b"ERR MULTI calls can not be nested"
WATCH_WITHIN = b"ERR WATCH inside MULTI is not allowed"
"""Of what a transaction refuses, these two alone leave it as it was."""
_LOADING = b"LOADING Redis is loading the dataset in memory"

_AT_ONCE = frozenset(("exec", "discard", "multi", "watch", "quit", "reset"))
_ORDERLY = frozenset((b"SAVE", b"NOW", b"FORCE"))
"""How SHUTDOWN may be told to end what it is to save."""
_BEFORE_AUTH = frozenset(("auth", "hello", "quit", "reset"))
_WHILE_SUBSCRIBED = frozenset(
    ("subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "ping", "quit", "reset")
)


def _may_interrupt(command: Command, args: Args) -> bool:
    """Whether a command may be executed while a script runs. What makes no sense is refused as at any time."""
    if command.name == "shutdown":
        words = {word.upper() for word in args[1:]}
        return b"NOSAVE" in words or not words <= _ORDERLY
    return "allow-busy" in command.flags or (bool(command.subcommands) and len(args) > 1)


def end(engine: "Engine", session: Session) -> tuple[list[Args], bool, bool]:
    """Leaves a transaction: what was queued, whether something in it was refused, whether a watched key changed."""
    queue, flawed, doomed = session.queue or [], session.flawed, session.doomed
    session.queue, session.flawed = None, False
    engine.unwatch(session)
    session.look()
    return queue, flawed, doomed


class Admission:
    """Of one engine.

    Attributes:
        refused: the command at hand was not executed.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.refused = False

    def run(self, handler: Handler, command: Command, args: Args, usage: Usage) -> bytes | None:
        """Executes a command, or does with it what its session wants. Raises CommandError: it is refused, or failed."""
        engine = self._engine
        session = engine.session
        named, command = command, self.full(command, args)
        try:
            self._check_sender(session, command, args)
            if engine.busy and not _may_interrupt(command, args):
                raise engine.scripts.busy
            if engine.pause.until:
                if engine.now >= engine.pause.until:
                    engine.pause.end()
                elif engine.pause.concerns(session, command, args):
                    engine.pause.hold(session, args)
                    return None
            before = session.replies
            if before == "skip-next":
                session.replies = "skip"  # until the command is executed, which may say otherwise
            if session.queue is not None and command.name not in _AT_ONCE:
                self._check_queued(named, command, args)
                session.queue.append(args)
                return self._shown_to(session, before, QUEUED)
            if engine.gate:
                self._admit(command, args)
                if engine.meter is not None:
                    engine.meter.admit(command, args)
        except CommandError:
            self.refused = True
            raise
        calls = "skip-monitor" in command.flags  # a script is shown before what it calls
        if engine.monitors and calls:
            self._show(session.address, command, args)
        try:
            if session.tracker is None:
                reply = engine.perform(handler, args, usage)
            else:
                reply = engine.tracking.run(handler, command, args, usage)
        finally:
            if engine.monitors and not calls:
                self._show(session.address, command, args)
        return self._shown_to(session, before, reply)

    def _shown_to(self, session: Session, before: str, reply: bytes | None) -> bytes | None:
        """The reply to a command, if this client wants it. `before`: which ones it wanted when it sent it."""
        if before == "off" and session.replies == "off":
            return None
        if session.replies == "skip":
            if session.waiter is None:
                session.skipped()
            return None
        return reply

    def full(self, command: Command, args: Args) -> Command:
        """The command of a call, or its sub-command: that one knows whether it writes, and what."""
        return (self._engine.table.find_full(args) or command) if command.subcommands else command

    def _check_sender(self, session: Session, command: Command, args: Args) -> None:
        engine = self._engine
        if session.user is None:
            if command.name not in _BEFORE_AUTH:
                raise CommandError(b"NOAUTH Authentication required.")
        elif not session.user.unrestricted and "no-auth" not in command.flags:
            engine.acl.check(session, command, args, engine.now)
        if session.subscribed and session.resp.version == 2 and command.name not in _WHILE_SUBSCRIBED:
            raise CommandError(
                f"ERR Can't execute '{command.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET "
                "are allowed in this context"
            )

    def _check_queued(self, named: Command, command: Command, args: Args) -> None:
        engine = self._engine
        if "no-multi" in command.flags:
            raise CommandError(f"ERR Command '{command.name}' not allowed inside a transaction")
        if engine.gate:
            self._check_writes(command, args)
        if engine.meter is not None:
            engine.meter.admit_queued()
        if named.subcommands:
            if engine.subcommand(args) is named and len(args) > 1:
                named.handler(engine, args)  # it has the error: there is no such sub-command
            engine.session.last_subcommand = command.name

    def admit_called(self, command: Command, args: Args) -> None:
        """A command that a transaction or a script calls. Raises CommandError: it is refused."""
        command = self.full(command, args)
        engine = self._engine
        self._admit(command, args)
        if engine.meter is not None:
            engine.meter.admit_called(command, args)
        if engine.monitors and engine.session is not engine.internal:
            self._show("lua" if engine.scripts.running is not None else engine.session.address, command, args)

    def _show(self, origin: str, command: Command, args: Args) -> None:
        engine = self._engine
        engine.monitors.show(origin, engine.db.index, command, args, engine.now)

    def _admit(self, command: Command, args: Args) -> None:
        """What concerns all sessions. Raises CommandError: not now."""
        engine = self._engine
        from_client = engine.session is not engine.internal
        if engine.loading and from_client and "loading" not in command.flags:
            raise CommandError(_LOADING)
        self._check_writes(command, args)
        if command.writes and engine.preserve is not None:
            for key in command.keys(args):
                engine.preserve(engine.db, key)

    def _check_writes(self, command: Command, args: Args) -> None:
        """Raises CommandError: it writes, which it may not."""
        engine = self._engine
        followed = engine.replication.leader is not None and engine.session is not engine.internal
        if (followed or engine.refuse_writes is not None) and writes(engine, command, args):
            raise CommandError(READ_ONLY if engine.refuse_writes is None else engine.refuse_writes.text)

    def refusal(self, session: Session, args: Args, why: CommandError) -> bytes | None:
        """The reply to a command that was refused, if there is one."""
        if not why.counted:
            self._engine.stats.note_error(why.text)
        refused, self.refused = self.refused, False
        self._engine.usages.count_error(args, rejected=refused)
        if args[0].lower() == b"exec" and (session.queue is not None or refused or len(args) > 1):
            end(self._engine, session)
            why = CommandError(b"EXECABORT Transaction discarded because of: " + why.text.removeprefix(b"ERR "))
        elif session.queue is not None and why.text not in (NESTED, WATCH_WITHIN):
            session.flawed = True
        if session.replies != "on":
            session.replies = "off" if session.replies == "off" else "on"
            session.look()
            return None
        return why.reply
