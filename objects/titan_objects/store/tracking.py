"""Client-side caching: clients that keep what they have read are told when it changes (`CLIENT TRACKING`).

In the default mode the keys that a client reads are remembered, in a table of at most `tracking-table-max-keys`: where
it is full, the key that was noted first is called changed. With `BCAST` nothing is remembered, and every change of a
key with one of the client's prefixes is told, at the end of each turn. Keys are told apart by their names alone,
whatever their database, as in Redis.

What clients are told is bounded by the output limits of subscribers; prefixes, by `PREFIXES_MAX` for a client.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING

from titan_objects.store.resp import array, bulk, bulks, integer

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.session import Session
    from titan_objects.store.table import Args, Command, Handler
    from titan_objects.store.usage import Usage

CHANNEL = b"__redis__:invalidate"
"""What a RESP2 client listens to, to which another's invalidations are redirected."""

PREFIXES_MAX = 1024


class Tracker:
    """How one client is kept informed.

    Attributes:
        choice: "": every key that is read; "optin": those read just after CLIENT CACHING YES; "optout": but those.
        chosen: that was said, and counts for the next command.
        redirect: the id of the client that is told instead; 0: none.
        broken: that one is gone.
    """

    __slots__ = ("broadcasts", "broken", "choice", "chosen", "noloop", "prefixes", "redirect")

    def __init__(self) -> None:
        self.broadcasts = self.noloop = self.broken = self.chosen = False
        self.choice = ""
        self.redirect = 0
        self.prefixes: tuple[bytes, ...] = ()

    @property
    def notes(self) -> bool:
        """Whether what is read now is to be remembered."""
        if self.broadcasts:
            return False
        return self.chosen if self.choice == "optin" else not self.chosen


class Tracking:
    """Who has to be told of which keys."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.clients: dict[Session, Tracker] = {}
        self._broadcasts: dict[Session, Tracker] = {}
        self.readers: OrderedDict[bytes, set[int]] = OrderedDict()
        """Ids of the clients that have read a key; some may be gone."""
        self.pending: dict[Session, dict[bytes, None]] = {}
        """Keys for those who are told at the end of the turn."""
        self._current: Session | None = None
        self._after: list[bytes] = []

    def begin(self, session: "Session", tracker: Tracker) -> None:
        """A client wants to be told, from now on in this way."""
        self.clients[session] = session.tracker = tracker
        if tracker.broadcasts:
            self._broadcasts[session] = tracker
        hears = self._engine.sessions.get(tracker.redirect) if tracker.redirect else session
        if hears is not None:
            hears.told = True
        session.look()
        self._engine.look()

    def leave(self, session: "Session") -> None:
        """A client wants to be told no more."""
        if session.tracker is not None:
            del self.clients[session]
            self._broadcasts.pop(session, None)
            self.pending.pop(session, None)
            session.tracker = None
            session.look()
            self._engine.look()

    # ---- reading -------------------------------------------------------------------------------------------------

    def run(self, handler: "Handler", command: "Command", args: "Args", usage: "Usage") -> bytes | None:
        """Executes a command of a client that is kept informed. What it hears of its own changes follows the reply."""
        engine, session = self._engine, self._engine.session
        self._current = session
        reply = None
        try:
            reply = engine.perform(handler, args, usage)
        finally:
            self.note(command, args)
            self._current = None
            tracker = session.tracker
            if tracker is not None and session.queue is None and command.container != "client":
                tracker.chosen = False
            after = b"".join(self._after)
            self._after.clear()
            if after and (reply is None or session.replies != "on"):
                self._send(session, after)
        return reply + after if reply is not None and session.replies == "on" else reply

    def note(self, command: "Command", args: "Args") -> None:
        """Remembers what the current client has read."""
        tracker = self._engine.session.tracker
        if tracker is None or not tracker.notes:
            return
        command = self._engine.table.find_full(args) or command
        if "readonly" not in command.flags or "noscript" in command.flags:  # a script's own reads count, not its keys
            return
        id = self._engine.session.id
        for key in command.keys(args):
            ids = self.readers.setdefault(key, set())
            ids.add(id)
            if len(ids) > 2 * len(self.clients) + 16:  # most are gone
                ids &= {session.id for session in self.clients}
        most = int(self._engine.config.get("tracking-table-max-keys"))
        while most and len(self.readers) > most:
            self._forget(next(iter(self.readers)), own=False)

    # ---- changes -------------------------------------------------------------------------------------------------

    def changed(self, key: bytes, own: bool) -> None:
        """A key has changed. `own`: the current client has changed it, so that NOLOOP counts."""
        if key in self.readers:
            self._forget(key, own)
        for session, tracker in self._broadcasts.items():
            if key.startswith(tracker.prefixes) and not (own and tracker.noloop and session is self._current):
                self.pending.setdefault(session, {})[key] = None

    def _forget(self, key: bytes, own: bool) -> None:
        for id in sorted(self.readers.pop(key)):
            session = self._engine.sessions.get(id)
            tracker = session.tracker if session is not None else None
            if session is None or tracker is None or tracker.broadcasts:
                continue
            if not (own and tracker.noloop and session is self._current):
                self._tell(session, tracker, [key])

    def flushed(self) -> None:
        """Whole databases were emptied: whatever anybody keeps is void."""
        self.readers.clear()
        self.pending.clear()
        for session, tracker in list(self.clients.items()):
            self._tell(session, tracker, None)

    def end_turn(self) -> None:
        """Tells those with BCAST what has changed since the last time."""
        pending, self.pending = self.pending, {}
        for session, keys in pending.items():
            tracker = session.tracker
            if tracker is not None:
                self._tell(session, tracker, list(keys))

    def _tell(self, session: "Session", tracker: Tracker, keys: list[bytes] | None) -> None:
        """Sends an invalidation; None: of all keys."""
        hears = session
        if tracker.redirect:
            found = self._engine.sessions.get(tracker.redirect)
            if found is None:
                tracker.broken = True
                if session.resp.version == 3:
                    gone = [bulk(b"tracking-redir-broken"), integer(tracker.redirect)]
                    self._send(session, session.resp.push(gone))
                return
            hears = found
        what = hears.resp.null if keys is None else bulks(keys)
        if hears.resp.version == 3:
            data = hears.resp.push([bulk(b"invalidate"), what])
        elif tracker.redirect and hears.subscribed:
            data = array([bulk(b"message"), bulk(CHANNEL), what])
        else:
            return  # RESP2 has nothing that could be sent unasked
        if hears is self._current:
            self._after.append(data)
        else:
            self._send(hears, data)

    def _send(self, session: "Session", data: bytes) -> None:
        session.out.append(data)  # whatever CLIENT REPLY says: it answers nothing
        self._engine.outgoing[session] = None
