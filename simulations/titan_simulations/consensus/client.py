"""A client: one request after the other, each repeated until it is answered, and a record of what it saw."""

from collections import Counter
from typing import TYPE_CHECKING

from titan_simulations.checkers import PENDING, Operation
from titan_simulations.consensus.bodies import Answer, Ask, Elsewhere, decode, encode
from titan_simulations.consensus.store import Action, Request

if TYPE_CHECKING:
    from titan_simulations.consensus.world import World

PATIENCE_SECONDS = 0.4
GIVE_UP_TRIES = 4
GIVE_UP_SHARE = 0.05
"""Of tries beyond those: the client goes on to something else, and never learns what became of it."""


class Client:
    """One of them. `history`: by key, what it did; `acknowledged`: its changes that it was told are done."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.number = number
        self.name = f"c{number}"
        self.place = self.name.encode()
        self.random = world.random_of(self.name)
        self.history: list[tuple[int, Operation]] = []
        self.acknowledged: set[tuple[int, int]] = set()
        self.completed = 0
        self.paused = False
        self.wanted: list[int] = []
        """Keys that are to be read next."""
        self._request: Request | None = None
        self._called = 0
        self._tries = 0
        self._leader: bytes | None = None
        self._replies: dict[bytes, int | None] = {}
        self._sequence = 0

    def begin(self) -> None:
        """Thinks, then asks."""
        self.world.events.after(self.random.expovariate(1.0) * self.world.config.think_seconds, self._next)

    def _next(self) -> None:
        if self.world.over:
            return
        if self.paused:
            self.begin()
            return
        random, config = self.random, self.world.config
        if self.wanted:
            action, key = Action.READ, self.wanted.pop()
        else:
            action = random.choices((Action.READ, Action.WRITE, Action.ADD), (4, 3, 3))[0]
            key = random.randrange(config.keys)
        self._sequence += 1
        value = 0 if action is Action.READ else self.number * 100_000 + self._sequence
        self._request = Request(self.number, self._sequence, action, key, value).proven()
        self._called = self.world.moment()
        self._tries = 0
        self._replies = {}
        self._try()

    def _try(self) -> None:
        request = self._request
        assert request is not None
        self._tries += 1
        if self._tries > GIVE_UP_TRIES and self.random.random() < GIVE_UP_SHARE:
            self._note(None, PENDING)
            return
        members = self.world.truth.configuration.members
        apart = request.action is Action.READ and self.world.kind.reads_apart
        if self.world.kind.everybody:
            targets = list(members)
        elif self._leader is None or (apart and self.random.random() < 0.5):
            targets = [self.random.choice(members)]
        else:
            targets = [self._leader]
        for target in targets:
            self.world.network.send(self.place, target, encode(Ask(request)))
        tries = self._tries
        self.world.events.after(PATIENCE_SECONDS * self.random.uniform(1, 2), lambda: self._late(request, tries))

    def _late(self, request: Request, tries: int) -> None:
        if self._request is request and self._tries == tries:
            self._leader = None
            self._try()

    def deliver(self, source: bytes, raw: bytes) -> None:
        """A machine says something."""
        body, request = decode(raw), self._request
        if request is None:
            return
        match body:
            case Answer(sequence, result) if sequence == request.sequence:
                self._replies[source] = result
                alike = Counter(self._replies.values())[result]
                if alike >= self.world.kind.replies:
                    self._leader = source if request.action is not Action.READ else self._leader
                    self._note(result, self.world.moment())
            case Elsewhere(sequence, leader) if sequence == request.sequence:
                self._leader = leader
                tries = self._tries
                self.world.events.after(self.random.uniform(0.005, 0.05), lambda: self._late_hint(request, tries))
            case _:
                pass

    def _late_hint(self, request: Request, tries: int) -> None:
        if self._request is request and self._tries == tries:
            self._try()

    def _note(self, result: int | None, returned: float | None) -> None:
        request = self._request
        assert request is not None
        what = (request.action, request.value)
        self.history.append((request.key, Operation(self.name, what, result, self._called, returned)))
        if returned is not PENDING:
            self.completed += 1
            if request.action is not Action.READ:
                self.acknowledged.add((self.number, request.sequence))
        self._request = None
        self.begin()

    def pending(self) -> list[tuple[int, Operation]]:
        """What it is still waiting for."""
        request = self._request
        if request is None:
            return []
        what = (request.action, request.value)
        return [(request.key, Operation(self.name, what, None, self._called, PENDING))]
