"""CLIENT PAUSE: clients wait for a while, all of them or those that write, and go on where they were."""

from typing import TYPE_CHECKING

from titan_objects.store.blocking import Waiter
from titan_objects.store.lua.calls import writes

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.session import Session
    from titan_objects.store.table import Args, Command


class Pause:
    """The pause of one store.

    Attributes:
        until: unix milliseconds; 0: there is none.
        everything: reads wait as well.
        hides: keys that are over are hidden, and stay.
        held: who waits for its end.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.until = 0
        self.everything = False
        self.hides = False
        self.held: dict[Session, None] = {}

    def begin(self, until: int, everything: bool) -> None:
        """Pauses; one that is under way becomes no shorter and no weaker. Meanwhile nothing expires, but is hidden."""
        self.until = max(self.until, until)
        self.everything |= everything
        self.hides |= self._engine.may_block
        self._engine.look()

    def hide(self) -> None:
        """The transaction in which the pause began is over: what it wrote to hidden keys would have been hidden too."""
        self.hides = True
        self._engine.look()

    def end(self) -> None:
        """Lets everybody go on."""
        self.until, self.everything, self.hides = 0, False, False
        held, self.held = self.held, {}
        for session in held:
            if session.waiter is not None:
                self._engine.waiting.release(session.waiter, b"")
        self._engine.look()

    def concerns(self, session: "Session", command: "Command", args: "Args") -> bool:
        """Whether this command has to wait. Servers that follow this one never do."""
        engine = self._engine
        if session is engine.internal or session in engine.replication.replicas:
            return False
        if self.everything:
            return True
        if command.name == "exec":
            return any(self._writes(engine.table.find_full(each), each) for each in session.queue or ())
        return self._writes(command, args)

    def _writes(self, command: "Command | None", args: "Args") -> bool:
        return command is not None and writes(self._engine, command, args) is not False

    def hold(self, session: "Session", args: "Args") -> None:
        """Lets a client wait, who then begins with this command."""
        session.backlog.append(args)
        self.held[session] = None
        self._engine.waiting.add(Waiter(session, session.db, (), self.until, lambda key: None, b""))
