"""Calling a mutable object: finds the member that leads, and asks again until there is a reply, which is safe.

A request has a number within a session of this program, or a key of the sender's own (`once`). Members execute each
at most once. So whatever goes wrong on the way (a leader that dies, a lost answer, a group that moves), the same
request is simply sent again, to whoever leads now, until the deadline.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import TypeVar

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    Forbidden,
    LinkError,
    NotHere,
    Overloaded,
    RemotableError,
    Unavailable,
    WireError,
    from_wire,
)
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.links import Links
from titan_overlay.mutable import letters, talk
from titan_overlay.mutable.crowd import Crowds
from titan_overlay.mutable.health import GroupHealth, judge
from titan_overlay.mutable.membership import Membership, Search
from titan_overlay.mutable.requests import OPEN, Reply, Request
from titan_overlay.mutable.sessions import REPLIES_MAX
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.any_holder import HARMLESS, AnyHolder
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place, Places
from titan_overlay.pool.hosting.host import Host
from titan_overlay.wire import codec

T = TypeVar("T")

PATIENCE_SECONDS = 2.0
"""A member that has not answered for so long may have died with the request: another is asked the same."""
PAUSE_SECONDS = (0.02, 0.25)
"""Shortest and longest pause before the group is asked anew: it may be electing."""
REFUSED_SECONDS = 60.0
"""Whoever is refused twice within this time may not watch."""
LOOK_AGAIN = 4
"""After so many members in a row that did not help, the members are looked up anew; or once none is left to ask, and
one said nothing at all."""
SESSIONS_MAX = 1024
"""Objects of which this program keeps a session open."""


class _Session:
    """This program's requests to one object: which number is next, and from which on replies are outstanding."""

    def __init__(self, number: int) -> None:
        self._room = asyncio.Event()
        self.number = number
        self._next = 1
        self._outstanding: set[int] = set()

    async def begin(self) -> int:
        """The next number, once the members are sure to remember all replies that are outstanding."""
        while self._next - self.settled >= REPLIES_MAX:
            self._room.clear()
            await self._room.wait()
        sequence = self._next
        self._next += 1
        self._outstanding.add(sequence)
        return sequence

    def end(self, sequence: int) -> None:
        self._outstanding.discard(sequence)
        self._room.set()

    @property
    def settled(self) -> int:
        return min(self._outstanding, default=self._next)


Order = Callable[[Place, Message, int, int, int], Awaitable[bytes]]
"""Has a request ordered, under a session, a sequence and what is settled."""


class GroupCaller:
    """The caller of mutable objects."""

    def __init__(
        self,
        places: Places,
        links: Links,
        host: Host,
        key: SigningKey,
        pool: PoolId,
        any_holder: AnyHolder,
        ambient: Ambient,
    ) -> None:
        self.user = key.public
        """Who asks."""
        me = Sender(key.id, key.public)
        self.membership = Membership(places, links, host, pool)
        self._crowds = Crowds(self.membership, key, pool)
        self._links = links
        self._me = me
        self._any_holder = any_holder
        self._ambient = ambient
        self._loop = asyncio.get_running_loop()
        self._sessions: OrderedDict[bytes, asyncio.Future[_Session]] = OrderedDict()
        """By genesis: an object that was deleted and published again knows nothing of earlier ones."""
        self._leaders: dict[ObjectId, NodeId] = {}

    async def __call__(self, place: Place, request: Message) -> bytes:
        """The encoded reply.

        Raises:
            RemotableError: what the object answered; Unavailable, DeadlineExceeded: nobody knows whether it did;
            Overloaded: its members have more to do than the time given allows.
        """
        if request.type in HARMLESS:
            return await self._any_holder(place, request)
        if request.type == talk.ADMIT:
            return await self._ask(place, request, talk.ADMIT, request.body, bytes)
        if request.origin is not None:
            return await self._forward(place, request, *request.origin)
        if place.descriptor.value.policy.byzantine:
            return await self._call_byzantine(place, request)
        if request.read or request.type in place.descriptor.value.idempotent:
            return await self._read(place, request)
        if request.once:
            return await self._order(place, request, 0, 0, 0)
        return await self._in_session(place, request, self._order)

    async def _call_byzantine(self, place: Place, request: Message) -> bytes:
        """Reads are put in order too; replies are believed when more members give the same than can lie."""
        if request.once:
            return await self._order_signed(place, request, 0, 0, 0)
        return await self._in_session(place, request, self._order_signed)

    async def _forward(self, place: Place, request: Message, origin: bytes, number: int, seal: bytes) -> bytes:
        """A letter has arrived once it was executed, whatever it came to. RemotableError: it was not yet."""
        letter = codec.encode(letters.letter(origin, number, request.type, request.body, seal))
        if place.descriptor.value.policy.byzantine:
            reply = await self._crowds.tell(place, request, letter)
        else:
            reply = await self._ask(place, request, talk.FORWARD, letter, _reply)
        try:
            return _value(reply)
        except RemotableError as why:
            if why.retryable:
                raise
            return reply.body

    async def _in_session(self, place: Place, request: Message, order: Order) -> bytes:
        session = await self._session(place, request, order)
        sequence = await session.begin()
        try:
            return await order(place, request, session.number, sequence, session.settled)
        except Unavailable:
            self._sessions.pop(place.descriptor.value.genesis, None)  # it may be what was forgotten
            raise
        finally:
            session.end(sequence)

    async def _session(self, place: Place, request: Message, order: Order) -> _Session:
        """This program's session with the object: opened once, shared by all who wait."""
        genesis = place.descriptor.value.genesis
        known = self._sessions.get(genesis)
        if known is None or (known.done() and (known.cancelled() or known.exception() is not None)):
            known = self._loop.create_task(self._open(place, request, order))
            known.add_done_callback(lambda done: done.cancelled() or done.exception())  # each who waits sees it
            self._sessions[genesis] = known
            while len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        return known.result() if known.done() else await asyncio.shield(known)

    async def _open(self, place: Place, request: Message, order: Order) -> _Session:
        opening = Message(request.object_id, OPEN, self._ambient.token_bytes(8), request.deadline, request.chain)
        return _Session(codec.decode(await order(place, opening, 0, 0, 0), int))

    async def _order(self, place: Place, request: Message, session: int, sequence: int, settled: int) -> bytes:
        ordered = Request(self._me.public, session, sequence, settled, request.once, request.type, request.body)
        return _value(await self._ask(place, request, talk.SUBMIT, codec.encode(ordered), _reply))

    async def _order_signed(self, place: Place, request: Message, session: int, sequence: int, settled: int) -> bytes:
        asked = Request(b"", session, sequence, settled, request.once, request.type, request.body)
        return _value(await self._crowds.ask(place, request, asked))

    async def _read(self, place: Place, request: Message) -> bytes:
        question = talk.Read(request.type, request.body, stale_ok=request.read == "stale")
        answer = await self._ask(place, request, talk.READ, codec.encode(question), _answer)
        return _value(answer.reply)

    async def _ask(self, place: Place, request: Message, type: str, body: bytes, parse: Callable[[bytes], T]) -> T:
        """Asks one member after the other until one answers."""
        search = Search(self.membership, request)
        try:
            return await self._ask_each(place, request, type, body, parse, search)
        finally:
            search.end()

    async def _ask_each(
        self, place: Place, request: Message, type: str, body: bytes, parse: Callable[[bytes], T], search: Search
    ) -> T:
        pause, longest = PAUSE_SECONDS
        failure = "no member was reached"
        sent = False
        in_vain = 0
        tried: set[NodeId] = set()
        silent: set[NodeId] = set()
        """Once was enough: nobody's hint leads to them any more, only their turn."""
        skipped: set[NodeId] = set()
        """Those of them that this round does without."""
        while True:
            left = request.deadline - self._loop.time()
            if left <= 0:
                raise Unavailable(
                    f"{place.descriptor.value.name!r} has not answered in time: {failure}", maybe_executed=sent
                )
            place = search.latest(place)
            member = self._member(place, request.object_id, tried)
            if not self.membership.is_within_reach(place, member):  # it leads, as another has just said
                search.begin(place)
            hint = b""
            try:
                patience = min(request.deadline, self._loop.time() + PATIENCE_SECONDS)
                answer = await self.membership.ask(place, member, request, type, body, patience)
                self._leaders[request.object_id] = member
                return parse(answer)
            except NotHere as why:
                failure, hint = str(why), why.hint
            except Overloaded as why:
                pause_now = why.retry_after * (0.5 + self._ambient.random.random())
                if pause_now >= left:
                    why.maybe_executed = why.maybe_executed or sent
                    raise
                await asyncio.sleep(pause_now)
                continue
            except (LinkError, DeadlineExceeded, Unavailable) as why:
                failure = str(why)
                sent = sent or why.maybe_executed
                silent.add(member)
            tried.add(member)
            self._leaders.pop(request.object_id, None)
            if hint and NodeId(hint) not in tried | silent:
                self._leaders[request.object_id] = NodeId(hint)
                continue
            in_vain += 1
            all_tried = len(tried) >= len(place.holders)
            if in_vain % LOOK_AGAIN == 0 or (all_tried and silent - skipped):
                search.begin(place)
            if all_tried:
                skipped = silent - skipped
                tried = set(skipped)
                await asyncio.sleep(min(max(0.0, left), pause * (0.5 + self._ambient.random.random())))
                pause = min(pause * 2, longest)

    async def health(self, place: Place, object_id: ObjectId, deadline: float) -> GroupHealth:
        """What the members say of themselves and of each other.

        Raises:
            Unavailable: nobody shows who the members are.
        """
        request = Message(object_id, talk.STATUS, talk.NOTHING, deadline, ())
        configuration = await self.membership.current(place, request, fresh=True)
        statuses: list[talk.MemberStatus] = []
        silent: dict[str, str] = {}

        async def ask(member: bytes) -> None:
            until = min(deadline, self._loop.time() + PATIENCE_SECONDS)
            try:
                answer = await self.membership.ask(place, NodeId(member), request, talk.STATUS, talk.NOTHING, until)
                statuses.append(codec.decode(answer, talk.MemberStatus))
            except (LinkError, RemotableError) as why:
                silent[member.hex()] = str(why)

        await asyncio.gather(*map(ask, configuration.members))
        quorum = self.membership.charter(place, object_id).quorum(configuration)
        return judge(configuration, quorum, statuses, silent)

    async def changes(self, place: Place, object_id: ObjectId, deadline: float) -> int:
        """How many changes a member that takes part has executed.

        Raises:
            DeadlineExceeded: none has said. RemotableError: this caller may not ask.
        """
        request = Message(object_id, talk.STATUS, talk.NOTHING, deadline, ())
        try:
            return await self._ask(place, request, talk.STATUS, talk.NOTHING, _changes)
        except Unavailable as why:
            raise DeadlineExceeded(str(why)) from None

    def _member(self, place: Place, object_id: ObjectId, tried: set[NodeId]) -> NodeId:
        """Whom to ask next: who led last, as far as is known, else any that was not asked in this round."""
        leader = self._leaders.get(object_id)
        if leader is not None and leader not in tried:
            return leader
        left = [each.signer for each in place.holders if each.signer not in tried] or [
            each.signer for each in place.holders
        ]
        if not left:
            raise Unavailable(f"no member of {place.descriptor.value.name!r} is known")
        return left[int(self._ambient.random.random() * len(left))]

    async def stream(self, place: Place, request: Message) -> AsyncIterator[bytes]:
        """Encoded `Change`s as the `Watch` in the message asks, each once, in order, whichever members fail.

        Raises:
            BadMessage: handlers of mutable objects answer with one reply. Conflict: the first is not kept any more.
            Forbidden: this caller may not watch.
        """
        if request.type != talk.WATCH:
            raise BadMessage(f"{place.descriptor.value.name!r} answers with one reply: send, or watch its changes")
        start = codec.decode(request.body, talk.Watch).start
        tried: set[NodeId] = set()
        refused_at = -inf
        while True:
            member = self._member(place, request.object_id, tried)
            body = codec.encode(talk.Watch(start))
            try:
                contact = self.membership.contact(place, member)
                async for raw in self._links.stream(
                    contact, request.object_id, talk.WATCH, body, deadline=request.deadline
                ):
                    start = codec.decode(raw, talk.Numbered).number + 1
                    tried.clear()
                    yield raw
            except Forbidden:
                # What was shown when this was opened has ended; a new link shows what is held now.
                if self._loop.time() - refused_at < REFUSED_SECONDS:
                    raise
                refused_at = self._loop.time()
            except (LinkError, NotHere, Unavailable):
                pass
            tried.add(member)
            if len(tried) >= len(place.holders):
                tried.clear()
                await asyncio.sleep(PAUSE_SECONDS[1])
                place = await self.membership.look_again(place, request)


def _reply(raw: bytes) -> Reply:
    return codec.decode(raw, Reply)


def _answer(raw: bytes) -> talk.Answer:
    return codec.decode(raw, talk.Answer)


def _changes(raw: bytes) -> int:
    status = codec.decode(raw, talk.MemberStatus)
    if status.trouble:
        raise NotHere(status.trouble)
    return status.changes


def _value(reply: Reply) -> bytes:
    """What a reply says. RemotableError: what the object raised."""
    if reply.failed:
        raise from_wire(codec.decode(reply.body, WireError))
    return reply.body
