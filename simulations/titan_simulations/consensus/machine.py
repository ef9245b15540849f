"""A machine: one node's shell around engines, its state machine, its disk and its clock."""

from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from titan_overlay.mutable.engine import (
    GENESIS,
    Checkpoint,
    Configuration,
    Entry,
    EntryKind,
    PeerSilent,
    Received,
    SnapshotInstalled,
    SnapshotTaken,
)
from titan_overlay.mutable.recollection import Promise, kept, promised
from titan_simulations.consensus.bodies import (
    Answer,
    Ask,
    AskState,
    Body,
    Elsewhere,
    ForEngine,
    Moved,
    Ping,
    Saved,
    StatePiece,
    decode,
    decode_configuration,
    decode_requests,
    encode,
)
from titan_simulations.consensus.disk import SimulatedDisk, Written
from titan_simulations.consensus.events import Act
from titan_simulations.consensus.seat import Seat
from titan_simulations.consensus.store import Request, Store
from titan_simulations.consensus.transfer import Transfer

if TYPE_CHECKING:
    from titan_simulations.consensus.world import World

PING_SECONDS = 0.5
SILENT_SECONDS = 1.5


class Crashed(Exception):
    """The machine stops in the middle of what it does."""


class Machine:
    """One of them. `up`: it runs. `life` counts its starts: what was planned in another life never happens.

    One that `lies` has something else in the place of its engine, and answers clients as it likes; what it says or has
    is not judged.
    """

    def __init__(self, world: "World", id: bytes, lies: bool) -> None:
        self.world = world
        self.id = id
        self.name = id.rstrip(b".").decode()
        self.kind = world.kind
        self.lies = lies
        self.make = self.kind.make_liar if lies and self.kind.make_liar is not None else self.kind.make
        self.random = world.random_of(self.name)
        self.up = False
        self.life = 0
        self.sync_seconds = 0.002
        self.skew = self.random.uniform(0.8, 1.25)
        """How fast its clock runs."""
        self.crash_after: int | None = None
        """So many messages from now it crashes, in the middle of what it does then."""
        self._frozen_until = 0.0
        self.disk = SimulatedDisk(world.events, self._sync_seconds)
        self._forget()

    def _forget(self) -> None:
        self.seats: dict[int, Seat] = {}
        self.epoch = 0
        self.configuration: Configuration | None = None
        self.store = Store()
        self.executed = 0
        self.asked: dict[tuple[int, int], Request] = {}
        """(client, sequence) of requests that wait here, the oldest first."""
        self.transfer = Transfer(self)
        self._saving = False
        self._saved = 0
        self._heard: dict[bytes, float] = {}
        self._silent: set[bytes] = set()

    def _sync_seconds(self) -> float:
        return self.sync_seconds * self.random.uniform(0.5, 1.5)

    # ---- life and death ----------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Its own time."""
        return self.world.events.now * self.skew

    def after(self, seconds: float, act: Act) -> None:
        """Plans something by its own clock, in this life."""
        life = self.life
        self.world.events.after(seconds / self.skew, lambda: self.live(life, act))

    def live(self, life: int, act: Act) -> None:
        """Does something, unless that life is over, and perhaps dies of it."""
        if life != self.life or not self.up:
            return
        frozen = self._frozen_until - self.world.events.now
        if frozen > 0.0:
            self.world.events.after(frozen, lambda: self.live(life, act))
        else:
            with suppress(Crashed):
                act()

    def found(self, configuration: Configuration) -> None:
        """A member of the first epoch."""
        self.disk.snapshot = encode(Saved(configuration, GENESIS, Store().encode()))

    def start(self) -> None:
        """Begins a life with what is on disk."""
        self.up = True
        self.life += 1
        self._frozen_until = 0.0
        self._forget()
        self.world.say(self, "starts")
        self.live(self.life, self._recover)
        self.after(PING_SECONDS, self._ping)

    def _recover(self) -> None:
        if self.disk.snapshot is not None:
            self._adopt(Saved.decode(self.disk.snapshot))

    def freeze(self, seconds: float) -> None:
        """Stands still: what happens meanwhile happens then."""
        if self.up:
            self.world.say(self, f"is frozen for {seconds:.1f} s")
            self._frozen_until = self.world.events.now + seconds

    def crash(self, power: bool) -> None:
        """Ends this life; `power`: what was not synced may be gone."""
        if self.up:
            self.world.say(self, "loses power" if power else "is killed")
            self.up = False
            self.life += 1
            self.crash_after = None
            self.disk = self.disk.crash(self.random, power)

    # ---- messages ----------------------------------------------------------------------------------------------

    def transmit(self, target: bytes, body: Body) -> None:
        """Sends something, or dies of it."""
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash(power=self.random.random() < 0.7)
                raise Crashed
        self.world.network.send(self.id, target, encode(body))

    def deliver(self, source: bytes, raw: bytes) -> None:
        """Something arrives."""
        self.live(self.life, lambda: self._take(source, decode(raw)))

    def _take(self, source: bytes, body: Body) -> None:
        self._heard[source] = self.clock()
        self._silent.discard(source)
        match body:
            case ForEngine(epoch, raw):
                self._for_engine(source, epoch, raw)
            case Ask(request):
                self._ask(source, request)
            case AskState():
                self.transfer.give(source, body)
            case StatePiece():
                self.transfer.take(source, body)
            case Moved():
                self.transfer.begin(source)
            case _:
                pass

    def _for_engine(self, source: bytes, epoch: int, raw: msgspec.Raw) -> None:
        seat = self.seats.get(epoch)
        if seat is not None:
            seat.step(Received(source, self.kind.decode_message(bytes(raw))))
        elif epoch < self.epoch:
            self.transmit(source, Moved())
        else:  # also whoever became a member while it was down, before anything of the group was on its disk
            self.transfer.begin(source)

    def _ping(self) -> None:
        self.after(PING_SECONDS, self._ping)
        for peer in self._peers():
            self.transmit(peer, Ping())
            if self.clock() - self._heard.setdefault(peer, self.clock()) > SILENT_SECONDS and peer not in self._silent:
                self._silent.add(peer)
                for seat in list(self.seats.values()):
                    seat.step(PeerSilent(peer))

    def _peers(self) -> list[bytes]:
        if self.configuration is None:
            return []
        return [peer for peer in self.configuration.members if peer != self.id]

    # ---- clients -----------------------------------------------------------------------------------------------

    def _ask(self, client: bytes, request: Request) -> None:
        seat = self.seats.get(self.epoch)
        last, reply = self.store.sessions.get(request.client, (-1, None))
        if seat is None:
            self.transmit(client, Elsewhere(request.sequence, None))
        elif request.sequence == last:
            self.transmit(client, Answer(last, reply))
        elif request.sequence > last:
            seat.ask(request)

    def answer(self, request: Request, result: int | None) -> None:
        """Tells the client, if it was this machine that it asked."""
        mark = (request.client, request.sequence)
        if mark in self.asked:
            del self.asked[mark]
            if self.lies and self.random.random() < 0.5:
                result = self.random.randrange(1000)
            self.transmit(self.world.place_of(request.client), Answer(request.sequence, result))

    def refuse(self, request: Request, leader: bytes | None) -> None:
        """Sends the client on."""
        self.asked.pop((request.client, request.sequence), None)
        there = None if leader == self.id else leader
        self.transmit(self.world.place_of(request.client), Elsewhere(request.sequence, there))

    # ---- execution ---------------------------------------------------------------------------------------------

    def execute(self, seat: Seat, entry: Entry, agreed: bool) -> None:
        """The next entry of the order; `agreed`: members compare their states there."""
        if entry.index <= self.executed:
            return
        if not self.lies:
            self.world.truth.executed(self.name, self.executed, entry)
        self.executed = entry.index
        if entry.kind is EntryKind.COMMANDS:
            try:
                requests = decode_requests(entry.data)
            except msgspec.ValidationError:
                requests = []
                self.world.truth.invented(self.name, entry)
            for request in requests:
                self.answer(request, self.store.execute(request))
        elif entry.kind is EntryKind.RECONFIG:
            self._end_epoch(decode_configuration(entry.data))
            return
        due = self.kind.snapshot_every is not None and entry.index >= self._saved + self.kind.snapshot_every
        if agreed or (due and not self._saving):
            self._take_snapshot(seat, entry.term)

    def checkpoint(self, term: int) -> Checkpoint:
        """The state as it is now."""
        checkpoint = Checkpoint(self.executed, term, sha256(self.store.encode()).digest())
        if not self.lies:
            self.world.truth.reached(self.name, checkpoint)
        return checkpoint

    def _take_snapshot(self, seat: Seat, term: int) -> None:
        assert self.configuration is not None
        saved = Saved(self.configuration, self.checkpoint(term), self.store.encode())
        self._saving = True

        def done() -> None:
            self._saving = False
            if self._saved > saved.checkpoint.index:
                return  # a state that was fetched has overtaken it
            self._saved = saved.checkpoint.index
            if self.seats.get(seat.epoch) is seat:
                seat.step(SnapshotTaken(saved.checkpoint))
                records = [encode(record) for record in seat.engine.image()]
                self.disk.write(Written(seat.epoch, True, records), lambda: None)

        self.save(saved, done)

    def save(self, saved: Saved, done: Act) -> None:
        """Puts a state on disk, and goes on."""
        life = self.life
        self.disk.save(saved.checkpoint.index, encode(saved), lambda: self.live(life, done))

    def _end_epoch(self, configuration: Configuration) -> None:
        """The stop sign was executed: the next epoch begins with this state, once that is durable."""
        saved = Saved(configuration, self.checkpoint(0), self.store.encode())
        self.save(saved, lambda: self._adopt(saved))

    def install(self, saved: Saved) -> None:
        """A state that was fetched, and is durable."""
        if saved.checkpoint.index > self.executed or saved.configuration.epoch > self.epoch:
            self.world.say(self, f"has fetched the state at {saved.checkpoint.index}")
            self._adopt(saved)

    def _adopt(self, saved: Saved) -> None:
        """Goes on from a state."""
        configuration, point = saved.configuration, saved.checkpoint
        if configuration.epoch < self.epoch or point.index < self.executed:
            return
        self.store = Store.decode(saved.store)
        self.executed = self._saved = point.index
        self.configuration = configuration
        seat = self.seats.get(configuration.epoch)
        if seat is not None:
            seat.step(SnapshotInstalled(point))
            return
        self.epoch = configuration.epoch
        if not self.lies:
            self.world.truth.began(configuration)
        # The last epoch's engine stays until this one works: others may have to learn where it ended.
        self.seats = {epoch: old for epoch, old in self.seats.items() if epoch == self.epoch - 1}
        if self.id in configuration.members + configuration.learners:
            self.sit_down(configuration, point)

    def learn(self, configuration: Configuration) -> None:
        """Becomes a learner of an epoch; begins with its own snapshot, if that is of this epoch."""
        if not self.up or configuration.epoch in self.seats:
            return
        point = GENESIS
        saved = Saved.decode(self.disk.snapshot) if self.disk.snapshot is not None else None
        self._forget()
        if saved is not None and saved.configuration.epoch == configuration.epoch:
            point, self.store = saved.checkpoint, Store.decode(saved.store)
        self.executed = self._saved = point.index
        self.epoch, self.configuration = configuration.epoch, configuration
        self.live(self.life, lambda: self.sit_down(configuration, point))

    def sit_down(self, configuration: Configuration, point: Checkpoint) -> None:
        """Takes part in an epoch."""
        records = [self.kind.decode_record(raw) for raw in self.disk.records(configuration.epoch)]
        seat = self.seats[configuration.epoch] = Seat(self, configuration, point, records)
        if not self.lies:
            self.world.truth.remembers(self.name, kept(seat.engine.status()), self._witnesses(configuration.epoch))
        seat.begin()

    def _witnesses(self, epoch: int) -> list[Promise]:
        """What this machine has promised to others, as they know it."""
        seats = [each.seats.get(epoch) for each in self.world.machines.values() if each is not self and not each.lies]
        return [promised(seat.engine.status(), self.id) for seat in seats if seat is not None]
