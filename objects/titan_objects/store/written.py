"""What commands have written: effects, which need neither clock nor chance, as a log has them."""

from collections.abc import Iterable

from titan_objects.store.keyspace import Database
from titan_objects.store.table import Args

_MULTI, _EXEC = [b"MULTI"], [b"EXEC"]


class Written:
    """Of one engine.

    A command that has changed something is its own effect, unless it says by `rewrite` what stands in the log for it.

    Attributes:
        db: the database of the command at hand.
        dirty: the command at hand has changed something.
        effects: commands to log, in order; the caller empties it.
        verbatim: all effects are commands as they were sent; the caller sets it again.
    """

    def __init__(self, db: Database) -> None:
        self.db = db
        self.dirty = False
        self.effects: list[Args] = []
        self.verbatim = True
        self._logged_db = 0
        self._rewritten = False

    def note(self, args: Args) -> None:
        """The command at hand has come to its end, and has changed something."""
        self.dirty = False
        if self._rewritten:
            self._rewritten = False
            return
        if self.db.index != self._logged_db:
            self._select()
        self.effects.append(args)

    def rewrite(self, *args: bytes) -> None:
        """Logs this instead of the command at hand (or, called again, as well)."""
        self.dirty = True
        self._rewritten = True
        self.emit(args)

    def quiet(self) -> None:
        """The command at hand is in the log already, by `rewrite` or by commands that it called."""
        self._rewritten = self.dirty = True

    def logged(self) -> None:
        """All that was changed outside of a command is in the log already, by `rewrite`."""
        self.dirty = self._rewritten = False

    def emit(self, args: Iterable[bytes]) -> None:
        """Logs a command beside the one at hand."""
        if self.db.index != self._logged_db:
            self._select()
        self.effects.append(list(args))
        self.verbatim = False

    def wrap(self, start: int) -> None:
        """Makes the effects from `start` on one transaction of the log, if they are many; a script's is part of it."""
        writes = [args for args in self.effects[start:] if args not in (_MULTI, _EXEC)]
        if len(writes) > 1:
            self.effects[start:] = [_MULTI, *writes, _EXEC]
        self.verbatim = False

    def forget_logged_db(self) -> None:
        """Where the log's reader will be is not known: what is logged next says where it belongs."""
        self._logged_db = -1

    def rewind_log(self) -> None:
        """Whoever reads the log from here on begins in database 0."""
        if self._logged_db:
            self._logged_db = 0
            self.effects.append([b"SELECT", b"0"])
            self.verbatim = False

    def _select(self) -> None:
        self._logged_db = self.db.index
        self.effects.append([b"SELECT", b"%d" % self.db.index])
        self.verbatim = False
