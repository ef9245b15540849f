"""The state machine: an object's state, and what each entry of the order makes of it. The same at all members; no I/O.

    entry -> batch: time and chance are agreed -> timers that are due -> requests, each executed exactly once
          -> replies, changes for those who watch, messages for the outbox

What a handler is called with, and how one that raises is undone, is in `instance.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import chain
from typing import Annotated, Any, Final

import msgspec

from titan_overlay.errors import BadMessage, Forbidden, RemotableError
from titan_overlay.mutable.code import Load, NewCode, no_code
from titan_overlay.mutable.context import Effects, Turn
from titan_overlay.mutable.declare import MutableType
from titan_overlay.mutable.decoding import total
from titan_overlay.mutable.engine import Count, Entry, EntryKind
from titan_overlay.mutable.instance import OUTBOX_MAX, SNAPSHOT_CHUNK_BYTES, TIMERS_MAX, Instance, Taking
from titan_overlay.mutable.requests import (
    BATCH,
    DELIVERED,
    OPEN,
    PARTS_MAX,
    UPGRADE,
    Batch,
    Part,
    Reply,
    Request,
    failed,
)
from titan_overlay.mutable.sessions import KeptSessions, Sessions
from titan_overlay.mutable.snapshots import CHUNK_BYTES_MAX
from titan_overlay.mutable.talk import Change
from titan_overlay.wire import codec


class Later(msgspec.Struct, frozen=True, array_like=True):
    """A message of the outbox."""

    number: int
    name: str
    type: str
    body: bytes
    arrived: tuple[bytes, ...] = ()
    """Members that have said so."""


class Timer(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A message that the object will send to itself."""

    at: float
    number: int
    type: str
    body: bytes


class Executed(msgspec.Struct):
    """What one entry came to."""

    requests: tuple[Request, ...]
    replies: list[Reply]
    """One for each request, in their order."""
    changes: list[Change]


class _Own(msgspec.Struct, array_like=True):
    """What the machine itself must remember: part of each snapshot."""

    height: Annotated[int, msgspec.Meta(ge=0, le=1 << 46)]
    """Numbers of sessions are 65,536 times as large, and integers have 64 bits."""
    now: float
    numbers: Count
    """Of outbox and timers, given out so far."""
    changes: Count
    outbox: list[Later]
    timers: list[Timer]
    sessions: KeptSessions
    code: NewCode | None = None
    """That has taken the place of the first."""


_beginning: Final[Callable[[bytes], "_Own | int"]] = total(_Own | Annotated[int, msgspec.Meta(ge=1)], "a snapshot")
"""What a snapshot begins with; a number says that it is in so many chunks, too large for one."""

_NO_KEY = bytes(32)


class Machine:
    """One object's state at one member.

    Args:
        instance: of the class, fresh.
        owner: public key whose code may take the place of this.
        load: makes a class of it.
        arrivals: so many members must say that a message of the outbox has arrived: one more than may lie.
    """

    def __init__(
        self,
        kind: MutableType,
        instance: Any,
        name: str,
        object_id: bytes,
        *,
        owner: bytes = b"",
        load: Load = no_code,
        arrivals: int = 1,
    ) -> None:
        self._first = kind
        self._code: NewCode | None = None
        self._owner = owner
        self._load = load
        self._arrivals = arrivals
        self.name = name
        self.object_id = object_id
        self.height = 0
        """Of the last entry executed."""
        self.now = 0.0
        self.outbox: dict[int, Later] = {}
        self.timers: list[Timer] = []
        self.changes = 0
        self.numbers = 0
        """Of messages of the outbox and timers, given out so far."""
        self._place = 0
        """Of the last call of a handler in the entry that is being executed."""
        self._sessions = Sessions()
        if kind.state is not None:
            kind.state.fresh(instance)
        self._object = Instance(kind, instance, name, object_id)

    @property
    def kind(self) -> MutableType:
        """The class that runs now."""
        return self._object.kind

    @property
    def instance(self) -> Any:
        """Of that class."""
        return self._object.value

    # ---- executing -------------------------------------------------------------------------------------------

    def execute(self, entry: Entry) -> Executed:
        """Executes the next entry. What is in it may be wrong: replies are errors then.

        Raises:
            LacksCode: this member cannot; nothing has changed.
        """
        assert entry.index == self.height + 1, "entries come in order, each once, and none is missed"
        done = Executed((), [], [])
        batch = _batch(entry)
        kinds = self._loaded(batch.requests) if batch is not None else {}
        self.height = entry.index
        if batch is None:
            return done  # all members see the same bytes, and skip them alike
        self.now = max(self.now, batch.now)
        done.requests = batch.requests
        self._place = 0
        ordered = self.numbers  # what these order for now waits for the next entry: else this one might never end
        while self.timers and self.timers[0].at <= self.now and self.timers[0].number <= ordered:
            due = self.timers.pop(0)
            self._run(_NO_KEY, (Part(due.type, due.body),), batch.seed, done)
        for number, request in enumerate(batch.requests):
            if request.type == UPGRADE:
                done.replies.append(self._upgraded(request, kinds))
            else:
                done.replies.append(self._answer(request, batch.seed, number, done))
        self._object.rest()
        return done

    def _answer(self, request: Request, seed: bytes, number: int, done: Executed) -> Reply:
        """The reply to one request: remembered, or made now.

        Args:
            number: of the request in its entry, from 0.
        """
        try:
            if request.type == OPEN:
                return Reply(codec.encode(self._sessions.open(number + self.height * 65_536, request, self.now)))
            if request.type == DELIVERED:
                self._arrived(codec.decode(request.body, int), request.sender)
                return Reply(codec.encode(None))
            known = self._sessions.known(request, self.now)
        except RemotableError as why:
            return failed(why)
        if known is None:
            known = self._run_request(request, seed, done)
            if not (request.is_letter and known.is_retryable):  # nothing was done then, and who brings it comes again
                self._sessions.remember(request, known, self.now)
        return known

    def _arrived(self, number: int, member: bytes) -> None:
        """A message leaves the outbox once enough members know that it has arrived."""
        later = self.outbox.get(number)
        if later is not None and member not in later.arrived:
            arrived = (*later.arrived, member)
            if len(arrived) >= self._arrivals:
                del self.outbox[number]
            else:
                self.outbox[number] = msgspec.structs.replace(later, arrived=arrived)

    def _run_request(self, request: Request, seed: bytes, done: Executed) -> Reply:
        if request.type != BATCH:
            return self._run(request.sender, (Part(request.type, request.body),), seed, done)[0]
        try:
            parts = codec.decode(request.body, tuple[Part, ...])
            if len(parts) > PARTS_MAX:
                raise BadMessage(f"a batch has {PARTS_MAX} messages at most, not {len(parts)}")
        except BadMessage as why:
            return failed(why)
        replies: list[Reply] = []
        while len(replies) < len(parts):
            start = len(replies)
            replies += self._run(request.sender, parts[start : self._object.together(parts, start)], seed, done)
        return Reply(codec.encode(replies))

    def _run(self, sender: bytes, parts: tuple[Part, ...], seed: bytes, done: Executed) -> list[Reply]:
        """One call of a handler; a reply for each message."""
        self._place += 1
        room, timers_room = OUTBOX_MAX - len(self.outbox), TIMERS_MAX - len(self.timers)
        turn = Turn(sender, parts, self.now, seed, self.height, self._place, room, timers_room)
        effects = Effects(self.numbers)
        try:
            replies = self._object.call(turn, effects)
        except RemotableError as why:
            return [failed(why)] * len(parts)
        self._keep(effects)
        for part, reply in zip(parts, replies, strict=True):
            if not reply.failed:
                self.changes += 1
                done.changes.append(
                    Change(self.changes, self.height, self.now, sender, part.type, part.body, reply.body)
                )
        return replies

    def _keep(self, effects: Effects) -> None:
        """What a handler that ended well has ordered."""
        for number, name, type, body in effects.later:
            self.outbox[number] = Later(number, name, type, body)
        if effects.timers:
            self.timers += [Timer(*each) for each in effects.timers]
            self.timers.sort()
        self.numbers = effects.numbers

    def reply_to(self, request: Request) -> Reply | None:
        """The reply to a request that has been executed; None: it has not, or its reply is not kept any more."""
        return self._sessions.reply_to(request)

    # ---- another class -----------------------------------------------------------------------------------------

    def _loaded(self, requests: Iterable[Request]) -> dict[bytes, MutableType]:
        """The classes that are to take over in this entry, before anything of it is executed. LacksCode: one of them
        does not run here.
        """
        kinds = {}
        for request in requests:
            if request.type == UPGRADE and request.sender == self._owner:
                try:
                    new = codec.decode(request.body, NewCode)
                except BadMessage:
                    continue
                if new.owner == self._owner:
                    kinds[new.digest] = self._load(new)
        return kinds

    def _upgraded(self, request: Request, kinds: dict[bytes, MutableType]) -> Reply:
        try:
            known = self._sessions.known(request, self.now)
            if known is None:
                new = codec.decode(request.body, NewCode)
                kind = kinds.get(new.digest)
                if kind is None:
                    raise Forbidden(f"only the key that published {self.name!r} replaces its code, with its own")
                self._take_over(kind, new)
                known = Reply(codec.encode(None))
        except RemotableError as why:
            known = failed(why)  # and is not remembered: what was wrong may be mended, and sent again
        else:
            self._sessions.remember(request, known, self.now)
        return known

    def _take_over(self, kind: MutableType, code: NewCode) -> None:
        """An instance of another class, with this state. BadMessage: it does not take it; nothing has changed."""
        taking = Taking(kind, of_another=True)
        try:
            for chunk in self._object.state():
                taking.add(chunk)
        except BadMessage:
            raise
        except Exception as why:  # of the object's own
            raise BadMessage(f"there is nothing to take over now: {type(why).__name__}: {why}") from None
        taking.done()
        self._put(taking, code)

    def _put(self, taking: Taking, code: NewCode | None) -> None:
        """BadMessage: its `migrate` has made something of it that cannot be kept; nothing has changed."""
        try:
            made = Instance(taking.kind, taking.value, self.name, self.object_id)
        except TypeError as why:
            raise BadMessage(f"what was made of the state is none: {why}") from None
        self._object, self._code = made, code

    # ---- reading ---------------------------------------------------------------------------------------------

    def reads(self, type: str) -> bool:
        """Whether the handler of this type is declared `@titan.readonly`."""
        return self._object.reads(type)

    def read(self, request: Request) -> bytes:
        """The reply of a read-only handler to the state as it is now.

        Raises:
            RemotableError: of the handler; BadMessage: it is not declared to be read-only.
        """
        if not self.reads(request.type):
            raise BadMessage(
                f"{request.type} may change {self.name!r}: declare its handler @titan.readonly, or send it"
            )
        parts = (Part(request.type, request.body),)
        return self._object.read(Turn(request.sender, parts, self.now, b"", self.height, 0)).body

    # ---- snapshots -------------------------------------------------------------------------------------------

    def root(self) -> bytes:
        """A hash of all that is replicated: equal at all members at the same height, or a handler is to blame."""
        digest = sha256()
        for chunk in self.snapshot():
            digest.update(chunk)
        return digest.digest()

    def snapshot(self) -> Iterator[bytes]:
        """The state as it is now in chunks, the same bytes at all members; it may go on while they are taken."""
        own = _Own(
            self.height,
            self.now,
            self.numbers,
            self.changes,
            list(self.outbox.values()),
            self.timers,
            self._sessions.keep(),
            self._code,
        )
        return chain(_in_chunks(codec.encode(own)), self._object.state())

    def restoring(self) -> "Restoring":
        """Takes a snapshot in, chunk by chunk."""
        return Restoring(self)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """As `restoring`, at once."""
        restoring = self.restoring()
        for chunk in chunks:
            restoring.add(chunk)
        restoring.finish()

    def kind_of(self, own: "_Own") -> MutableType:
        """The class that a state is of. LacksCode: it does not run here."""
        if own.code == self._code:
            return self.kind
        return self._first if own.code is None else self._load(own.code)

    def become(self, own: "_Own", taking: Taking) -> None:
        """Goes on from another state. BadMessage: it is none; nothing has changed."""
        self._put(taking, own.code)
        self.height, self.now, self.numbers, self.changes = own.height, own.now, own.numbers, own.changes
        self.outbox = {each.number: each for each in own.outbox}
        self.timers = sorted(own.timers)
        self._sessions = Sessions.restored(own.sessions)

    def due(self) -> float | None:
        """Agreed time at which the next timer is due."""
        return self.timers[0].at if self.timers else None


class Restoring:
    """A snapshot on its way into a machine, which stays as it is until all of it is there.

    All methods raise BadMessage: this is no snapshot of that object. `add` raises LacksCode: it is the state of a class
    that does not run here.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._pieces: list[bytes] = []
        """Of what the machine must remember, and how many there are still to come."""
        self._pieces_left = 0
        self._own: _Own | None = None
        self._taking: Taking | None = None

    def add(self, chunk: bytes) -> None:
        """The next chunk."""
        if self._taking is not None:
            self._taking.add(chunk)
            return
        if self._pieces_left:
            self._pieces.append(chunk)
            self._pieces_left -= 1
            if self._pieces_left:
                return
            chunk = b"".join(self._pieces)
            self._pieces.clear()
        begins = _beginning(chunk)
        if isinstance(begins, int):
            self._pieces_left = begins
        else:
            self._own, self._taking = begins, Taking(self._machine.kind_of(begins))

    def check(self) -> None:
        """That was all: could it be finished?"""
        if self._taking is None:
            raise BadMessage("the snapshot is empty, or its beginning is not complete")
        self._taking.done()

    def finish(self) -> None:
        """From now on it is the machine's state."""
        self.check()
        assert self._own is not None
        assert self._taking is not None
        self._machine.become(self._own, self._taking)


def _in_chunks(own: bytes) -> Iterator[bytes]:
    """What the machine must remember: thousands of replies, letters and timers may be more than fits into one."""
    if len(own) > CHUNK_BYTES_MAX:
        starts = range(0, len(own), SNAPSHOT_CHUNK_BYTES)
        yield codec.encode(len(starts))
        for start in starts:
            yield own[start : start + SNAPSHOT_CHUNK_BYTES]
    else:
        yield own


def _batch(entry: Entry) -> Batch | None:
    """The requests in an entry; None: there are none."""
    if entry.kind is not EntryKind.COMMANDS:
        return None
    try:
        return codec.decode(entry.data, Batch)
    except BadMessage:
        return None
