"""Requests that a member of a byzantine group knows of and that have not been executed.

A sender entrusts a request to the leader, and tells all members as soon as that does not serve it, so that no leader
can drop a request unseen: each member expects it then, whoever leads proposes it, and the one that has waited longest
is what a leader is measured by. That one is brought to the leader, as in Castro and Liskov, "Practical Byzantine Fault
Tolerance" (1999), section 4.4: a sender may have told all but the leader.
"""

import asyncio
from typing import TYPE_CHECKING

from titan_overlay.errors import BadMessage, Forbidden, NotHere, Overloaded, RemotableError
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Entry, RequestsWait
from titan_overlay.mutable.gathering import Gathering
from titan_overlay.mutable.instance import OUTBOX_MAX
from titan_overlay.mutable.intake import WAITING_BYTES_MAX, WAITING_MAX, batches, fail
from titan_overlay.mutable.letters import arrival
from titan_overlay.mutable.machine import Executed
from titan_overlay.mutable.proofs import Proofs
from titan_overlay.mutable.requests import DELIVERED, OPEN, VOUCHED_MAX, Reply, Request, decode_request
from titan_overlay.mutable.vouching import Vouching
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.runner import Body
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.front import Front
    from titan_overlay.mutable.group import Group


Key = tuple[bytes, int, int, str, bytes]
TIMER: Key = (b"", 0, 0, "timer", b"")
"""Stands for a timer that is late, as if somebody had asked for it."""
QUEUE_SECONDS = 1.5
"""So long a request may wait behind others: its sender takes a leader that has not answered in 2 s for a silent one."""
RELAY_SECONDS = 0.3
"""A request that has waited longest for so long is brought to whoever leads, well before that one is blamed."""
LATE_SECONDS = 5.0
"""By which clocks of honest members may differ, before one is blamed for a timer."""


def key_of(request: Request) -> Key:
    """What makes it the same request when it comes again."""
    return (
        request.sender,
        request.session,
        request.sequence,
        request.once,
        request.proof if request.type == OPEN else b"",
    )


class _Waiting:
    """A request, and who waits for what it comes to."""

    __slots__ = ("entrusted", "request", "since", "told")

    def __init__(self, request: Request, since: float) -> None:
        self.request = request
        self.since = since
        """Loop time."""
        self.told: dict[asyncio.Future[bytes], None] = {}
        """Encoded `Reply`s, one for each who asks: anybody may who has the request, and who gives up gives up alone."""
        self.entrusted: dict[asyncio.Future[bytes], None] = {}
        """Encoded `Vouched`s."""

    def fail(self, why: RemotableError) -> None:
        fail([*self.told, *self.entrusted], why)


def _one_more(waiting: "dict[asyncio.Future[bytes], None]") -> "asyncio.Future[bytes]":
    """For one who waits, until it does not."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    waiting[future] = None
    future.add_done_callback(lambda done: waiting.pop(done, None))
    return future


class Expected:
    """An `Intake`, in the order of arrival.

    Args:
        proofs: checks who asked; the same that the engine's votes go by.
    """

    def __init__(self, group: "Group", front: "Front", proofs: Proofs, vouching: Vouching) -> None:
        self._vouching = vouching
        self._group = group
        self._proofs = proofs
        self._front = front
        self._requests: dict[Key, _Waiting] = {}
        self._bytes = 0
        """Of the requests."""
        self._fresh: list[Request] = []
        """Not proposed by this member, in this view."""
        self._proposed: dict[int, list[Request]] = {}
        """By ref: without a place in the order."""
        self._placed: set[int] = set()
        """Heights at which something that this member proposed is to stand."""
        self._gathering = Gathering(group.loop, front.flush_soon)
        self._oldest: Key | None = None
        """That the engine was told of."""
        self._relaying: asyncio.TimerHandle | None = None
        self._relayed: tuple[Key | None, bytes | None] = (None, None)
        """What was last brought to whom."""

    def add(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        self._proofs.heard(request, teller)
        done = self._group.machine.reply_to(request)
        if done is not None:  # who is told of it only now must not wait for it to be ordered once more
            future: asyncio.Future[bytes] = self._group.loop.create_future()
            future.set_result(codec.encode(done))
            return future
        return _one_more(self._expect(request).told)

    def told(self, type: str, body: Body, sender: Sender) -> Begun:
        if type == talk.ENTRUST:
            return self._entrust(decode_request(body), sender.public)
        if type == talk.VOUCH:
            self._vouching.vouched(sender.id, codec.decode(body, talk.Vouchers))
            return talk.NOTHING
        if type == talk.SEALS:
            self._group.outbox.signed(sender.id, codec.decode(body, talk.Signed))
            return talk.NOTHING
        if type == talk.ARRIVED:
            self._arrived(sender.id, codec.decode(body, talk.Signed))
            return talk.NOTHING
        return codec.encode(self._vouching.key_for(sender.public))

    def _arrived(self, member: bytes, signed: talk.Signed) -> None:
        """Another member knows that something may leave the outbox: whoever leads has to have it ordered."""
        for number, signature in signed.signatures[:OUTBOX_MAX]:
            later = self._group.machine.outbox.get(number)
            if later is not None and member not in later.arrived:
                request = arrival(member, number, signature)
                self._proofs.check(request)
                self._expect(request)
        self._front.flush_soon()

    def _entrust(self, request: Request, teller: bytes) -> "asyncio.Future[bytes]":
        """As `add`, at the leader alone: an encoded `Vouched`.

        Raises:
            NotHere: another member leads (`hint`), or all have to be asked.
        """
        if not self._group.leads:
            raise self._front.elsewhere()
        self._proofs.heard(request, teller)
        if self._group.machine.reply_to(request) is not None:
            raise NotHere(f"it has been executed: all members of {self._group.machine.name!r} know what it came to")
        waiting = self._expect(request)
        future = _one_more(waiting.entrusted)
        if self._is_signed(waiting.request):  # looked at now, while others are still on their way
            self._front.flush_soon()
        return future

    def _expect(self, request: Request) -> _Waiting:
        key = key_of(request)
        known = self._requests.get(key)
        if known is not None:
            return known
        if len(self._requests) >= WAITING_MAX or self._bytes > WAITING_BYTES_MAX or self._is_late():
            raise Overloaded(f"{len(self._requests)} messages wait for {self._group.machine.name!r}", retry_after=0.5)
        waiting = self._requests[key] = _Waiting(request, self._group.loop.time())
        self._bytes += request.size
        if self._group.leads:
            self._fresh.append(request)
        return waiting

    def _is_late(self) -> bool:
        """More waits than goes into a block, and not since just now: who comes last would wait in vain."""
        oldest = next(iter(self._requests.values())) if len(self._requests) > VOUCHED_MAX else None
        return oldest is not None and self._group.loop.time() - oldest.since > QUEUE_SECONDS

    def flush(self) -> None:
        if not self._group.leads:
            self._fresh = []
        elif self._fresh and self._may_propose():
            fresh = [each for each in self._fresh if key_of(each) in self._requests and self._is_signed(each)]
            self._fresh = []
            for batch in batches(fresh, VOUCHED_MAX):
                ref = self._front.new_ref()
                self._proposed[ref] = batch
                self._front.propose(batch, ref)
        self._tell_oldest()

    def _may_propose(self) -> bool:
        """One block is under way at a time: what comes meanwhile loses nothing by going into the next together."""
        under_way = self._proposed or self._placed
        return not under_way and self._gathering.over(under_way=False, waiting=len(self._fresh))

    def _is_signed(self, request: Request) -> bool:
        """Whether its sender has signed it. What is not is nobody's fault but the sender's, and is let go."""
        try:
            self._proofs.check(request)
        except (Forbidden, BadMessage) as why:
            waiting = self._forget(key_of(request))
            assert waiting is not None, "only what waits is looked at"
            waiting.fail(why)
            return False
        return True

    def _forget(self, key: Key) -> _Waiting | None:
        waiting = self._requests.pop(key, None)
        if waiting is not None:
            self._bytes -= waiting.request.size
        return waiting

    def _tell_oldest(self) -> None:
        """A leader is measured by a timer that is late, else by the request that has waited longest, of those whose
        sender has signed it.
        """
        oldest = next(iter(self._requests), None)
        while oldest is not None and not self._is_signed(self._requests[oldest].request):
            oldest = next(iter(self._requests), None)
        due = self._group.machine.due()
        if due is not None and self._group.ambient.wall() > due + LATE_SECONDS:
            oldest = TIMER
        if oldest != self._oldest:
            self._oldest = oldest
            self._group.step(RequestsWait(oldest is not None))
            self._relay_soon()

    def _relay_soon(self) -> None:
        if self._relaying is not None:
            self._relaying.cancel()
            self._relaying = None
        if self._oldest in self._requests:
            self._relaying = self._group.loop.call_later(RELAY_SECONDS, self._relay)

    def _relay(self) -> None:
        group = self._group
        leader = None if group.is_absent else group.engine.leader
        waiting = self._requests.get(self._oldest) if self._oldest is not None else None
        if waiting is not None and leader not in (None, group.me) and self._relayed != (self._oldest, leader):
            self._relayed = self._oldest, leader
            if waiting.request.type != DELIVERED:  # which members say themselves, to all
                group.peers.post(leader, talk.SUBMIT, codec.encode(waiting.request))
        self._relay_soon()

    def leads_now(self) -> None:
        """Whatever an earlier leader did not get ordered is to be proposed."""
        self._forget_proposals()
        self._fresh = [each.request for each in self._requests.values()]

    def leads_no_more(self) -> None:
        """Who has entrusted this member with a request asks all."""
        self._forget_proposals()
        why = self._front.elsewhere()
        fail([future for each in self._requests.values() for future in each.entrusted], why)
        self._vouching.send_away(why)

    def _forget_proposals(self) -> None:
        self._fresh = []
        self._proposed.clear()
        self._placed.clear()

    def timer_waits(self) -> None:
        self._tell_oldest()

    def accepted(self, ref: int, index: int, term: int) -> None:
        if self._proposed.pop(ref, None) is not None:
            self._placed.add(index)

    def refused(self, ref: int, why: RemotableError) -> None:
        """Another member proposes it then; or this one, once there is room."""
        self._fresh = self._proposed.pop(ref, []) + self._fresh

    def executed(self, entry: Entry, done: Executed) -> None:
        if entry.index in self._placed:
            self._placed.discard(entry.index)
            self._gathering.ended(answered=len(done.requests), waiting=len(self._fresh))
            if self._fresh:
                self._front.flush_soon()
        self._vouching.vouch(entry.index, done.requests, done.replies)
        if self._requests:
            for place, (request, reply) in enumerate(zip(done.requests, done.replies, strict=True)):
                waiting = self._forget(key_of(request))
                if waiting is not None:
                    self._answer(waiting, entry.index, place, reply)
        self._vouching.executed(entry.index)
        self._tell_oldest()

    def _answer(self, waiting: _Waiting, height: int, place: int, reply: Reply) -> None:
        for future in waiting.told:
            if not future.done():
                future.set_result(codec.encode(reply))
        for future in waiting.entrusted:
            if not future.done():
                self._vouching.owe(height, place, reply, future)

    def passed_over(self, height: int, why: RemotableError) -> None:
        """Whether it was among them shows when it is asked for again."""
        self._placed = {each for each in self._placed if each > height}

    def send_away(self, why: NotHere) -> None:
        self._vouching.send_away(why)
        for each in self._requests.values():
            each.fail(why)
        self._requests.clear()
        self._bytes = 0
        self._forget_proposals()
        self._oldest = None
        self._relay_soon()
