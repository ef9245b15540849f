"""A byzantine group without a network: engines, disks that lose what was not written, and messages in a bag.

Whoever drives it says what happens next: a message arrives, twice or never; a disk gets on; time passes; a member
crashes. Every message and record goes through its bytes, and whatever happens, `Cluster` compares the members' orders.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from titan_overlay.mutable import bft
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import decode_message, decode_record
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_overlay.mutable.engine import (
    GENESIS,
    Checkpoint,
    Configuration,
    Entry,
    EntryKind,
    Event,
    Persisted,
    Proposed,
    Ready,
    Received,
    RequestsWait,
    Send,
    SnapshotInstalled,
    SnapshotTaken,
    TimerDue,
)
from titan_overlay.wire import codec

POOL, GROUP = b"p" * 32, b"g" * 32
QUICK = BftSettings(checkpoint_blocks=4, window_blocks=16, reply_bytes_max=256)


def name(number: int) -> bytes:
    return bytes([number]) * 32


class Notary:
    """Signatures that nobody can forge who is not given the closure that makes them."""

    def __init__(self, chance: random.Random) -> None:
        self._secrets = {name(number): chance.randbytes(32) for number in range(16)}

    def signer(self, member: bytes) -> Callable[[bytes], bytes]:
        secret = self._secrets[member]
        return lambda statement: blake2b(statement, key=secret).digest()

    def verify(self, member: bytes, signature: bytes, statement: bytes) -> bool:
        return signature == blake2b(statement, key=self._secrets[member]).digest()


def root_of(order: Sequence[Entry], index: int) -> bytes:
    return blake2b(codec.encode(tuple(each for each in order if each.index <= index)), digest_size=32).digest()


class Member:
    """An honest member: a shell of the plainest kind around the engine."""

    def __init__(self, cluster: "Cluster", me: bytes) -> None:
        self.cluster = cluster
        self.me = me
        self.disk: list[bytes] = []
        self.snapshots: dict[int, tuple[Checkpoint, tuple[Entry, ...]]] = {0: (GENESIS, ())}
        """On disk too."""
        self.up = False
        self.evidence: list[Any] = []
        self.tells_states = True
        """Whether it gets to hand snapshots in."""
        self.start()

    def start(self) -> None:
        self.up = True
        self.unwritten: deque[Ready] = deque()
        """What waits for the disk, in order."""
        self.unhurried: list[Any] = []
        """What goes there with what comes next."""
        self.local: deque[Event] = deque()
        """What the shell has to tell the engine."""
        start, order = self.snapshots[max(self.snapshots)]
        self.order = list(order)
        self.pending: dict[bytes, None] = {}
        self.proposed: dict[int, bytes] = {}
        self.oldest: bytes | None = None
        self.timer: float | None = None
        records = [decode_record(raw) for raw in self.disk]
        self.engine = self.cluster.engine(self.me, start, records)
        self.step(TimerDue())

    def crash(self) -> None:
        self.up = False
        self.timer = None
        self.unwritten.clear()

    def compact(self) -> None:
        """The log is written anew; only what is durable may go into it, so the disk must have caught up."""
        assert not self.unwritten
        self.disk = [codec.encode(record) for record in self.engine.image()]
        self.unhurried.clear()

    # ---- the shell ---------------------------------------------------------------------------------------------

    def step(self, event: Event) -> None:
        ready = self.engine.step(event, self.cluster.now)
        self.timer = ready.timer
        self.cluster.post(self.me, ready.send_now)
        self.unhurried += ready.unhurried
        if ready.persist:
            ready.persist[:0], self.unhurried = self.unhurried, []
        if ready.persist or ready.send_after_persist:
            self.unwritten.append(ready)
        for entry in ready.committed:
            self.execute(entry, ready.checkpoints)
        for refused in ready.refused:
            self.proposed.pop(refused.ref, None)
        self.evidence += ready.evidence
        if ready.fetch is not None:
            self.cluster.fetches[self.me] = ready.fetch
        self.ask()

    def execute(self, entry: Entry, checkpoints: Iterable[int]) -> None:
        assert entry.index == len(self.order) + 1, "every height once, in order"
        self.order.append(entry)
        self.cluster.executed(self.me, entry)
        self.pending.pop(entry.data, None)
        if entry.index in checkpoints:
            state = Checkpoint(entry.index, entry.term, root_of(self.order, entry.index))
            self.snapshots[entry.index] = (state, tuple(self.order))
            if self.tells_states:
                self.local.append(SnapshotTaken(state))

    def ask(self) -> None:
        """Tells the engine what waits, and proposes where it leads."""
        oldest = next(iter(self.pending), None)
        if oldest != self.oldest:
            self.oldest = oldest
            self.local.append(RequestsWait(oldest is not None))
        if self.engine.status().leader != self.me:
            self.proposed.clear()
            return
        under_way = set(self.proposed.values())
        for request in self.pending:
            if request not in under_way:
                self.cluster.refs += 1
                self.proposed[self.cluster.refs] = request
                self.local.append(Proposed(request, self.cluster.refs))

    def tell(self) -> None:
        """The engine learns one thing from its shell."""
        self.step(self.local.popleft())

    def write(self) -> None:
        """The disk finishes what it was given first."""
        ready = self.unwritten.popleft()
        self.disk += [codec.encode(record) for record in ready.persist]
        self.cluster.post(self.me, ready.send_after_persist)
        if ready.persist:
            self.step(Persisted(ready.number))

    def receive(self, sender: bytes, raw: bytes) -> None:
        self.step(Received(sender, decode_message(raw)))

    def install(self, state: Checkpoint, order: Sequence[Entry]) -> None:
        """A state that was fetched, as far as the shell can tell."""
        dropped = self.engine.dropped
        before, self.order = self.order, [each for each in order if each.index <= state.index]
        kept = dict(self.snapshots)
        self.snapshots[state.index] = (state, tuple(self.order))
        self.step(SnapshotInstalled(state))
        if self.engine.dropped > dropped:  # refused
            self.order, self.snapshots = before, kept


class Cluster:
    """Members, of which some may be liars, and what is under way between them."""

    def __init__(
        self,
        n: int = 4,
        liars: int | Sequence[int] = 0,
        seed: int = 0,
        settings: BftSettings = QUICK,
        engine: type[bft.Bft] = bft.Bft,
        valid: Callable[[EntryKind, bytes], bool] = lambda kind, data: not data.startswith(b"invalid"),
        epoch: int = 0,
    ) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.settings = settings
        self.engine_type = engine
        self.valid = valid
        self.notary = Notary(self.chance)
        self.configuration = Configuration(epoch, tuple(name(number) for number in range(n)))
        self.bag: list[tuple[bytes, bytes, bytes]] = []
        """Messages under way: sender, receiver, bytes."""
        self.seen: list[bytes] = []
        """Everything that a liar could have seen."""
        self.fetches: dict[bytes, Any] = {}
        self.agreed: dict[int, Entry] = {}
        self.refs = 0
        chosen = self.chance.sample(range(n), liars) if isinstance(liars, int) else liars
        self.liars = [name(number) for number in sorted(chosen)]
        self.honest = {me: Member(self, me) for me in self.configuration.members if me not in self.liars}

    def committee(self, me: bytes, epoch: int | None = None) -> Committee:
        configuration = self.configuration
        if epoch is not None:
            configuration = Configuration(epoch, configuration.members)
        return Committee(me, configuration, POOL, GROUP, self.notary.signer(me), self.notary.verify)

    def engine(self, me: bytes, start: Checkpoint, records: list[Any]) -> bft.Bft:
        return self.engine_type(self.committee(me), start, records, self.valid, self.settings)

    def post(self, sender: bytes, sends: Iterable[Send]) -> None:
        for send in sends:
            raw = codec.encode(send.message)
            self.seen.append(raw)
            self.bag.append((sender, send.to, raw))

    def executed(self, me: bytes, entry: Entry) -> None:
        """Safety, checked at every entry that an honest member executes."""
        first = self.agreed.setdefault(entry.index, entry)
        assert first == entry, f"{me[:1].hex()} executed {entry}, another member {first}"
        assert entry.kind is EntryKind.NOOP or self.valid(entry.kind, entry.data)

    # ---- what may happen next ----------------------------------------------------------------------------------

    def submit(self, request: bytes, to: Iterable[bytes] | None = None) -> None:
        """A client sends a request to all honest members, or these."""
        for me in self.honest if to is None else to:
            member = self.honest[me]
            if member.up and all(entry.data != request for entry in member.order):
                member.pending[request] = None
                member.ask()

    def deliver(self, position: int, *, keep: bool = False) -> None:
        """A message of the bag arrives."""
        sender, to, raw = self.bag[position] if keep else self.bag.pop(position)
        member = self.honest.get(to)
        if member is not None and member.up:
            member.receive(sender, raw)

    def flush(self) -> None:
        """All disks and shells of those that are up get on with what they have."""
        for member in self.honest.values():
            while member.up and (member.local or member.unwritten):
                member.tell() if member.local else member.write()

    def let(self, *kinds: type, sender: int | None = None, to: int | None = None, **fields: object) -> int:
        """The messages of these kinds, with these fields, between these members arrive, and what they lead to of the
        same sort; all others wait. Returns how many."""

        def fits(post: tuple[bytes, bytes, bytes]) -> bool:
            message = decode_message(post[2])
            return (
                (not kinds or isinstance(message, kinds))
                and (sender is None or post[0] == name(sender))
                and (to is None or post[1] == name(to))
                and all(getattr(message, field) == value for field, value in fields.items())
            )

        arrived = 0
        self.flush()
        while (position := next((each for each, post in enumerate(self.bag) if fits(post)), None)) is not None:
            self.deliver(position)
            self.flush()
            arrived += 1
        return arrived

    def serve(self, me: bytes, source: bytes | None = None, *, lie: bool = False) -> None:
        """A shell gets the state that its engine has asked for, or a lie in its place."""
        fetch = self.fetches.pop(me)
        index = fetch.checkpoint.index
        sources = [source] if source else [each for each in fetch.sources if each in self.honest]
        for each in sources:
            kept = self.honest[each].snapshots.get(index)
            if kept is None or not self.honest[me].up:
                continue
            order = kept[1] if not lie else (*kept[1][:-1], Entry(index, kept[0].term, EntryKind.COMMANDS, b"lie"))
            self.honest[me].install(Checkpoint(index, kept[0].term, root_of(order, index)), order)
            return

    def pass_time(self) -> bool:
        """Until the next timer; False: nobody has one."""
        timers = [member.timer for member in self.honest.values() if member.up and member.timer is not None]
        if not timers:
            return False
        self.now = max(self.now, min(timers))
        for member in self.honest.values():
            if member.up and member.timer is not None and member.timer <= self.now:
                member.step(TimerDue())
        return True

    def settle(self, *, steps: int = 100_000, lose: Callable[[bytes, bytes, bytes], bool] = lambda *_: False) -> None:
        """Everything that is under way happens, in order, and no time passes."""
        for _ in range(steps):
            up = [member for member in self.honest.values() if member.up]
            busy = next((member for member in up if member.local or member.unwritten), None)
            if busy is not None:
                busy.tell() if busy.local else busy.write()
            elif self.bag:
                if lose(*self.bag[0]):
                    self.bag.pop(0)
                else:
                    self.deliver(0)
            elif any(me in self.honest and self.honest[me].up for me in self.fetches):
                self.serve(next(iter(self.fetches)))
            else:
                return
        raise AssertionError("it does not come to rest")

    def run(self, seconds: float, *, lose: Callable[[bytes, bytes, bytes], bool] = lambda *_: False) -> None:
        """As `settle`, for a while."""
        end = self.now + seconds
        self.settle(lose=lose)
        while self.now < end and self.pass_time():
            self.settle(lose=lose)

    def orders(self) -> list[list[bytes]]:
        """What each honest member has executed, without empty entries."""
        return [
            [entry.data for entry in member.order if entry.kind is not EntryKind.NOOP]
            for member in self.honest.values()
        ]
