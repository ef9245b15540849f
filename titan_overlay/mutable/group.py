"""One member of one group: the shell around an engine and a state machine.

    a request     -> waits for this turn's batch -> Proposed -> Accepted (its place) -> committed -> executed -> reply
    a read        -> this turn's ReadAsked       -> ReadReady (an index) -> executed that far -> reply
    a peer's Step -> Received
    the disk      -> Persisted, and only then what may not be said before

Everything runs in turns of the loop, in one place (`_do`). What the engine says is done in its order; nothing here
decides what is committed.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden, NotHere, Overloaded, RemotableError, StorageError
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import (
    Checkpoint,
    Configuration,
    Engine,
    Entry,
    Event,
    Fetch,
    PeerSilent,
    Persisted,
    Proposed,
    ReadAsked,
    Ready,
    Received,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
)
from titan_overlay.mutable.feed import Feed
from titan_overlay.mutable.machine import Machine
from titan_overlay.mutable.requests import DELIVERED, Batch, Reply, Request
from titan_overlay.mutable.snapshots import Head, Snapshots
from titan_overlay.wire import codec

log = logging.getLogger("titan")

QUEUE_MAX = 8192
"""Requests that wait to be proposed."""
BATCH_BYTES = 256 << 10
BATCH_REQUESTS = 2048
READ_AGAIN_SECONDS = 0.5
"""The engine may never answer a read; then it is asked again."""
SNAPSHOT_LOG_BYTES = 4 << 20
"""A snapshot is taken when the log behind the last one has grown by this, or by twice what the last one had."""
PIECE_BYTES = 256 << 10
FETCH_SECONDS = 10.0
TIMER_SECONDS_MIN = 0.05


class Peers(Protocol):
    """The way to the other members."""

    def post(self, member: bytes, type: str, body: bytes) -> None:
        """Sends and forgets: what is lost is lost."""

    async def ask(self, member: bytes, type: str, body: bytes, timeout: float) -> bytes:
        """Raises LinkError or RemotableError: no answer."""
        ...


class Log(Protocol):
    """This group's part in the node's write-ahead log."""

    def append(self, records: list[Any]) -> "asyncio.Future[None]":
        """Done when they, and all before them, are durable. StorageError: the disk is full or broken."""
        ...

    def compact(self, image: list[Any]) -> None:
        """These records are worth all that were appended before."""
        ...


class Maker(Protocol):
    """Makes the engine of an epoch, and knows its messages."""

    def engine(self, configuration: Configuration, checkpoint: Checkpoint) -> Engine: ...

    def decode(self, raw: msgspec.Raw) -> Any:
        """A message of the engine. BadMessage: it is none."""


class _Placed:
    """A batch of ours that stands in the log."""

    __slots__ = ("term", "waiting")

    def __init__(self, term: int, waiting: "list[asyncio.Future[Reply]]") -> None:
        self.term = term
        self.waiting = waiting


class Group:
    """See the module.

    Args:
        checkpoint: what `machine` has been restored to.
        deliver: (the object's outbox number, name, type, body) -> when it has arrived.
    """

    def __init__(
        self,
        me: bytes,
        configuration: Configuration,
        checkpoint: Checkpoint,
        machine: Machine,
        *,
        ambient: Ambient,
        maker: Maker,
        wal: Log,
        peers: Peers,
        snapshots: Snapshots,
        deliver: Callable[[int, str, str, bytes], Awaitable[None]],
    ) -> None:
        self.me = me
        self.configuration = configuration
        self.machine = machine
        self.feed = Feed(machine.changes)
        self.trouble = ""
        """Why this member takes no part any more, or empty."""
        self._ambient = ambient
        self._maker = maker
        self._wal = wal
        self._peers = peers
        self._snapshots = snapshots
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._engine = maker.engine(configuration, checkpoint)
        self._snapshot = checkpoint
        self._queue: deque[tuple[Request, asyncio.Future[Reply]]] = deque()
        self._queued_bytes = 0
        self._flushing = False
        self._refs = 0
        self._proposed: dict[int, list[asyncio.Future[Reply]]] = {}
        """By ref: not yet accepted or refused."""
        self._placed: dict[int, _Placed] = {}
        """By height."""
        self._reads: list[asyncio.Future[None]] = []
        """Asked in this turn of the loop."""
        self._asked: dict[int, list[asyncio.Future[None]]] = {}
        """By ref."""
        self._readable: list[tuple[int, list[asyncio.Future[None]]]] = []
        """Wait until this height has been executed."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.TimerHandle | None = None
        self._saves: asyncio.Future[None] | None = None
        """The last that the log was asked for."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._fetching = False
        self._snapshotting = False
        self._sending: set[int] = set()
        """Numbers of the outbox under way."""
        self._log_bytes = 0
        self._snapshot_bytes = 0

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes part from now on."""
        self._step(TimerDue())

    async def close(self) -> None:
        """Takes no part any more; who waits is sent elsewhere."""
        self._retire("this member has stopped")
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _retire(self, why: str) -> None:
        if not self.trouble:
            self.trouble = why
        for timer in (self._timer, self._wake):
            if timer is not None:
                timer.cancel()
        self._send_away()
        for waiting in (self._reads, *self._asked.values(), *(each for _, each in self._readable)):
            _fail(waiting, NotHere(f"this member of {self.machine.name!r} takes no part: {self.trouble}"))
        self._reads, self._asked, self._readable = [], {}, []
        self.feed.close()

    def _send_away(self) -> None:
        """Those whose requests this member cannot answer for: another will know."""
        waiting = [future for _, future in self._queue]
        for futures in (*self._proposed.values(), *(each.waiting for each in self._placed.values())):
            waiting += futures
        self._queue.clear()
        self._queued_bytes = 0
        self._proposed.clear()
        self._placed.clear()
        _fail(waiting, self._elsewhere())

    def _elsewhere(self) -> NotHere:
        leader = self._engine.leader
        hint = leader if leader is not None and leader != self.me else b""
        return NotHere(f"another member of {self.machine.name!r} leads", hint=hint, maybe_executed=True)

    # ---- requests --------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> "asyncio.Future[Reply]":
        """Has a request ordered and executed.

        Raises (by the future too):
            NotHere: another member leads (`hint`); asking it with the same session and sequence is safe.
            Overloaded: too many wait.
        """
        if self.trouble:
            raise NotHere(f"this member of {self.machine.name!r} takes no part: {self.trouble}")
        if len(self._queue) >= QUEUE_MAX or self._queued_bytes > 32 * BATCH_BYTES:
            raise Overloaded(f"{len(self._queue)} messages wait for {self.machine.name!r}", retry_after=0.2)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._queue.append((request, future))
        self._queued_bytes += len(request.body)
        self._flush_soon()
        return future

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Proposes what has come together in this turn of the loop, and asks for all reads at once."""
        self._flushing = False
        if self.trouble:
            return
        while self._queue:
            requests: list[Request] = []
            waiting: list[asyncio.Future[Reply]] = []
            size = 0
            while self._queue and size < BATCH_BYTES and len(requests) < BATCH_REQUESTS:
                request, future = self._queue.popleft()
                self._queued_bytes -= len(request.body)
                if not future.done():
                    requests.append(request)
                    waiting.append(future)
                    size += len(request.body)
            if requests:
                self._propose(tuple(requests), waiting)
        if self._reads:
            self._refs += 1
            asked, self._reads = self._reads, []
            self._asked[self._refs] = asked
            self._loop.call_later(READ_AGAIN_SECONDS, self._read_again, self._refs)
            self._step(ReadAsked(self._refs))

    def _propose(self, requests: tuple[Request, ...], waiting: "list[asyncio.Future[Reply]]") -> None:
        self._refs += 1
        self._proposed[self._refs] = waiting
        batch = Batch(self._ambient.wall(), self._ambient.token_bytes(16), requests)
        self._step(Proposed(codec.encode(batch), self._refs))

    # ---- reads -----------------------------------------------------------------------------------------------

    async def read(self, question: talk.Read, sender: bytes) -> talk.Answer:
        """Answers a read-only handler's question: linearizable, unless `stale_ok`.

        Raises:
            NotHere: this member takes no part.
        """
        if self.trouble:
            raise NotHere(f"this member of {self.machine.name!r} takes no part: {self.trouble}")
        if not question.stale_ok:
            current: asyncio.Future[None] = self._loop.create_future()
            self._reads.append(current)
            self._flush_soon()
            await current
        request = Request(sender, 0, 0, 0, "", question.type, question.body)
        try:
            reply = Reply(self.machine.read(request))
        except RemotableError as why:
            reply = Reply(codec.encode(why.to_wire()), failed=True)
        return talk.Answer(reply, self.configuration.epoch, self.machine.height)

    def _read_again(self, ref: int) -> None:
        waiting = [each for each in self._asked.pop(ref, ()) if not each.done()]
        if waiting and not self.trouble:
            self._reads += waiting
            self._flush_soon()

    # ---- the engine ------------------------------------------------------------------------------------------

    def receive(self, sender: bytes, body: bytes | msgspec.Raw) -> None:
        """A `Step` from another member.

        Raises:
            BadMessage: it is none. Forbidden: the sender is no member.
        """
        if sender not in self.configuration.members and sender not in self.configuration.learners:
            raise Forbidden(f"only members of {self.machine.name!r} agree on its order")
        step = codec.decode(body, talk.Step)
        if step.epoch != self.configuration.epoch or self.trouble:
            return
        for raw in step.messages:
            self._step(Received(sender, self._maker.decode(raw)))

    def _step(self, event: Event) -> None:
        self._do(self._engine.step(event, self._loop.time()))

    def _do(self, ready: Ready) -> None:
        self._send(ready.send_now)
        if ready.persist:
            saved = self._saves = self._wal.append(ready.persist)
            saved.add_done_callback(lambda done: self._saved(done, ready))
        elif ready.send_after_persist:
            if self._saves is None or self._saves.done():
                self._send(ready.send_after_persist)
            else:
                self._saves.add_done_callback(lambda done: self._saved(done, ready))
        for refused in ready.refused:
            self._refused(refused.ref, refused.leader)
        for accepted in ready.accepted:
            self._placed[accepted.index] = _Placed(accepted.term, self._proposed.pop(accepted.ref, []))
        for entry in ready.committed:
            self._execute(entry)
        for each in ready.reads:
            self._readable.append((each.index, self._asked.pop(each.ref, [])))
        if self._readable:
            self._answer_reads()
        if ready.fetch is not None and not self._fetching:
            self._fetching = True
            self._spawn(self._fetch(ready.fetch))
        for proof in ready.evidence:
            log.warning("%s: a member has lied: %r", self.machine.name, proof)
        self._set_timer(ready.timer)

    def _saved(self, done: "asyncio.Future[None]", ready: Ready) -> None:
        if self.trouble or done.cancelled():
            return
        failure = done.exception()
        if failure is not None:
            log.error("%s: this member stops, its log cannot be written: %s", self.machine.name, failure)
            self._retire(f"its log cannot be written: {failure}")
            return
        self._send(ready.send_after_persist)
        if ready.persist:
            self._step(Persisted(ready.number))

    def _send(self, sends: list[Send]) -> None:
        if not sends:
            return
        by_peer: dict[bytes, list[msgspec.Raw]] = {}
        for each in sends:
            by_peer.setdefault(each.to, []).append(msgspec.Raw(codec.encode(each.message)))
        for peer, messages in by_peer.items():
            self._peers.post(peer, talk.STEP, codec.encode(talk.Step(self.configuration.epoch, messages)))

    def _refused(self, ref: int, leader: bytes | None) -> None:
        waiting = self._proposed.pop(ref, None) or self._asked.pop(ref, None) or []
        if leader == self.me:
            _fail(waiting, Overloaded(f"{self.machine.name!r} has as much under way as it may", retry_after=0.05))
        else:
            why = f"another member of {self.machine.name!r} leads" if leader else "no member leads just now"
            _fail(waiting, NotHere(why, hint=leader or b""))

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            if when is not None and self._timer.when() == when and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = None if when is None or self.trouble else self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self._step(TimerDue())

    @property
    def peers(self) -> list[bytes]:
        """The other members, and those who learn."""
        return [each for each in (*self.configuration.members, *self.configuration.learners) if each != self.me]

    def silent(self, peer: bytes) -> None:
        """Nothing was heard of that node for a while, in any group."""
        if not self.trouble:
            self._step(PeerSilent(peer))

    # ---- executing -------------------------------------------------------------------------------------------

    def _execute(self, entry: Entry) -> None:
        done = self.machine.execute(entry)
        self.feed.add(done.changes)
        self._log_bytes += len(entry.data)
        placed = self._placed.pop(entry.index, None)
        if placed is not None:
            if placed.term == entry.term:
                for future, reply in zip(placed.waiting, done.replies, strict=True):
                    if not future.done():
                        future.set_result(reply)
            else:
                _fail(placed.waiting, self._elsewhere())
        if self.machine.outbox:
            self._drain_outbox()
        self._set_wake()
        if self._log_bytes > max(SNAPSHOT_LOG_BYTES, 2 * self._snapshot_bytes) and not self._snapshotting:
            self._snapshotting = True
            self._log_bytes = 0
            self._spawn(self._take_snapshot(Checkpoint(entry.index, entry.term)))

    def _answer_reads(self) -> None:
        later: list[tuple[int, list[asyncio.Future[None]]]] = []
        for index, waiting in self._readable:
            if index > self.machine.height:
                later.append((index, waiting))
                continue
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        self._readable = later

    def _set_wake(self) -> None:
        """Agreed timers need somebody to say what time it is: whoever leads, with an empty batch."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        due = self.machine.due()
        if due is not None and not self.trouble:
            pause = max(TIMER_SECONDS_MIN, due - self._ambient.wall())
            self._wake = self._loop.call_later(pause, self._tell_time)

    def _tell_time(self) -> None:
        self._wake = None
        if self.leads:
            self._propose((), [])
        self._set_wake()

    @property
    def leads(self) -> bool:
        """Whether this member is the leader, as far as it knows."""
        return not self.trouble and self._engine.leader == self.me

    # ---- outbox ----------------------------------------------------------------------------------------------

    def _drain_outbox(self) -> None:
        if not self.leads:
            return
        for number, later in self.machine.outbox.items():
            if number not in self._sending:
                self._sending.add(number)
                self._spawn(self._bring(number, later.name, later.type, later.body))

    async def _bring(self, number: int, name: str, type: str, body: bytes) -> None:
        """Brings one message of the outbox, as often as it takes."""
        pause = 0.2
        try:
            while self.leads and number in self.machine.outbox:
                try:
                    await self._deliver(number, name, type, body)
                    self._propose((Request(self.me, 0, 0, 0, "", DELIVERED, codec.encode(number)),), [])
                    return
                except RemotableError as why:
                    log.info("%s: %r does not take its message yet: %s", self.machine.name, name, why)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 30.0)
        finally:
            self._sending.discard(number)

    # ---- snapshots -------------------------------------------------------------------------------------------

    async def _take_snapshot(self, checkpoint: Checkpoint) -> None:
        try:
            head = Head(self.machine.object_id, checkpoint, self.configuration)
            chunks = self.machine.snapshot()
            self._snapshot_bytes = await self._snapshots.write(head, chunks)
        except StorageError as why:
            log.warning("%s: no snapshot could be written, the log goes on: %s", self.machine.name, why)
            return
        finally:
            self._snapshotting = False
        self._snapshot = checkpoint
        self._step(SnapshotTaken(checkpoint))
        self._wal.compact(self._engine.image())

    async def piece(self, wanted: talk.StateWanted) -> talk.StatePiece:
        """A piece of this member's snapshot, for one that is behind.

        Raises:
            NotHere: it has none that high.
        """
        index = self._snapshot.index
        if index < wanted.index or not index:
            raise NotHere(f"this member has no snapshot of {self.machine.name!r} at {wanted.index}")
        try:
            size, data = await self._snapshots.piece(index, wanted.offset, PIECE_BYTES)
        except FileNotFoundError:
            raise NotHere("the snapshot has just been replaced; ask again") from None
        return talk.StatePiece(index, size, data)

    async def _fetch(self, fetch: Fetch) -> None:
        """Gets a state from another member and goes on from there."""
        try:
            for source in fetch.sources:
                try:
                    head, chunks = await self._fetch_from(source, fetch.checkpoint)
                    break
                except Exception as why:
                    log.info("%s: no state from %s: %s", self.machine.name, source.hex()[:12], why)
            else:
                return
            if head.checkpoint.index <= self.machine.height:
                return
            self.machine.restore(chunks)
            self.feed.restart(self.machine.changes)
            self._snapshot = head.checkpoint
            for height in [each for each in self._placed if each <= head.checkpoint.index]:
                _fail(self._placed.pop(height).waiting, self._elsewhere())
            self._step(SnapshotInstalled(head.checkpoint))
            self._wal.compact(self._engine.image())
            self._answer_reads()
        finally:
            self._fetching = False

    async def _fetch_from(self, source: bytes, checkpoint: Checkpoint) -> tuple[Head, list[bytes]]:
        index, offset = checkpoint.index, 0
        while True:
            body = codec.encode(talk.StateWanted(index, offset))
            answer = await self._peers.ask(source, talk.STATE, body, FETCH_SECONDS)
            piece = codec.decode(answer, talk.StatePiece)
            if piece.index != index:
                index, offset = piece.index, 0
                if piece.index < checkpoint.index:
                    raise BadMessage("it offers an older state than was asked for")
                if not piece.data:
                    raise BadMessage("it sends nothing")
            await self._snapshots.add(piece.data, offset)
            offset += len(piece.data)
            if offset >= piece.size:
                break
            if not piece.data:
                raise BadMessage("it stopped in the middle")
        head, chunks = await self._snapshots.fetched()
        if checkpoint.root and head.checkpoint != checkpoint:
            raise BadMessage("it is not the state that was agreed on")
        return head, chunks

    # ---- what people see -------------------------------------------------------------------------------------

    def status(self) -> talk.MemberStatus:
        """How this member sees its group."""
        status = self._engine.status()
        return talk.MemberStatus(
            member=self.me.hex(),
            role=status.role,
            leader=status.leader.hex() if status.leader else "",
            epoch=self.configuration.epoch,
            term=status.term,
            members=tuple(each.hex() for each in self.configuration.members),
            learners=tuple(each.hex() for each in self.configuration.learners),
            first=status.first,
            last=status.last,
            committed=status.committed,
            executed=self.machine.height,
            snapshot=self._snapshot.index,
            lag={peer.hex(): max(0, status.last - each.acknowledged_index) for peer, each in status.peers.items()}
            if status.leader == self.me
            else {},
            trouble=self.trouble,
        )

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s: a member failed", self.machine.name, exc_info=task.exception())


def _fail(waiting: "list[asyncio.Future[Any]]", why: RemotableError) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(why)
