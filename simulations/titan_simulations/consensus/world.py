"""A group of machines, their clients, and everything between them: one seed, one story."""

from collections.abc import Callable

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.mutable.engine import Configuration
from titan_simulations.checkers import Operation
from titan_simulations.consensus.client import Client
from titan_simulations.consensus.engines import EngineKind
from titan_simulations.consensus.events import Events
from titan_simulations.consensus.faults import Faults
from titan_simulations.consensus.machine import Machine
from titan_simulations.consensus.network import Network
from titan_simulations.consensus.truth import Truth

SPARES = 2


class ConsensusConfig(msgspec.Struct, frozen=True):
    """What a run is; times in simulated seconds."""

    operations: int = 1000
    """At least so many are completed."""
    clients: int = 5
    keys: int = 5
    think_seconds: float = 0.04
    """Mean, between an answer and the next request."""
    fault_seconds: float = 20.0
    recovery_seconds: float = 10.0
    """When the faults have stopped, every client must have an answer within this time."""
    budget: int = 300_000
    """Steps of the checker for one key."""


class Outcome(msgspec.Struct, frozen=True):
    """What one seed came to."""

    seed: int
    operations: int
    violations: tuple[str, ...]
    undecided: int
    """Keys whose histories were too much for the checker."""
    stalled: bool
    epochs: int
    simulated_seconds: float
    events: int
    faults: dict[str, int]
    trace_hash: str


class World:
    """Everything of one seed. `transcript`: what happened, in words, if it is wanted."""

    def __init__(
        self,
        kind: EngineKind,
        seed: int,
        config: ConsensusConfig = ConsensusConfig(),  # noqa: B008 -- frozen
        *,
        transcript: bool = False,
    ) -> None:
        self.kind = kind
        self.seed = seed
        self.config = config
        self.transcript: list[str] | None = [] if transcript else None
        self.over = False
        self.events = Events()
        self.network = Network(self.events, self.random_of("network"), self._deliver)
        ids = [f"m{number + 1}".encode().ljust(32, b".") for number in range(kind.members + SPARES)]
        configuration = Configuration(1, tuple(ids[: kind.members]))
        self.truth = Truth(configuration)
        liars = set(self.random_of("liars").sample(configuration.members, kind.liars))
        self.machines = {id: Machine(self, id, lies=id in liars) for id in ids}
        self.clients = {f"c{number}".encode(): Client(self, number) for number in range(config.clients)}
        self.faults = Faults(self)
        self._moments = 0
        for machine in self.machines.values():
            if machine.id in configuration.members:
                machine.found(configuration)
            machine.start()

    def run(self) -> Outcome:
        """Faults, then peace, then judgement."""
        config, events = self.config, self.events
        for client in self.clients.values():
            client.begin()
        self.faults.begin()
        self._run_until(lambda: events.now >= config.fault_seconds)
        self.faults.stop()
        self.say(None, "-- everything is mended")
        before = {client.name: client.completed for client in self.clients.values()}
        limit = events.now + config.recovery_seconds
        self._run_until(
            lambda: events.now >= limit or all(each.completed > before[each.name] for each in self.clients.values())
        )
        stalled = events.now >= limit
        if not stalled:
            limit = events.now + 10 * config.recovery_seconds
            self._run_until(lambda: events.now >= limit or self.completed >= config.operations)
            self._read_everything()
            stalled = self.completed < config.operations
        self._judge(stalled)
        return Outcome(
            seed=self.seed,
            operations=self.completed,
            violations=tuple(self.truth.violations),
            undecided=self.truth.undecided,
            stalled=stalled,
            epochs=self.truth.configuration.epoch,
            simulated_seconds=events.now,
            events=events.count,
            faults=dict(sorted(self.faults.counted.items())),
            trace_hash=self.network.trace.hexdigest(),
        )

    def _read_everything(self) -> None:
        """A last look at every key, and time for everybody to catch up."""
        for client in self.clients.values():
            client.wanted = list(range(self.config.keys))
        limit = self.events.now + self.config.recovery_seconds
        self._run_until(lambda: self.events.now >= limit or not any(client.wanted for client in self.clients.values()))
        self.over = True
        limit = self.events.now + 3.0
        self._run_until(lambda: self.events.now >= limit)

    def _run_until(self, met: Callable[[], bool]) -> None:
        while not met() and not self.truth.violations and self.events.step():
            pass

    def _judge(self, stalled: bool) -> None:
        history: dict[int, list[Operation]] = {}
        for client in self.clients.values():
            for key, operation in client.history + client.pending():
                history.setdefault(key, []).append(operation)
        self.truth.judge_history(history, self.config.budget)
        acknowledged = {each for client in self.clients.values() for each in client.acknowledged}
        if not stalled and not self.truth.violations:
            for machine in self.honest():
                self.truth.judge_store(machine.name, machine.store, acknowledged)

    # ---- what everybody uses -----------------------------------------------------------------------------------

    @property
    def completed(self) -> int:
        """Operations that were answered."""
        return sum(client.completed for client in self.clients.values())

    def random_of(self, what: str) -> Random:
        """Chance of its own for everything, so that a change here leaves the luck there as it was."""
        return Random(f"{self.seed}/{what}")

    def moment(self) -> int:
        """Numbers that count up: what was seen in which order."""
        self._moments += 1
        return self._moments

    def place_of(self, client: int) -> bytes:
        """Where answers to a client go."""
        return f"c{client}".encode()

    def members(self) -> list[Machine]:
        """Machines of the latest configuration."""
        return [self.machines[id] for id in self.truth.configuration.members]

    def honest(self) -> list[Machine]:
        """Those of them that do not lie."""
        return [machine for machine in self.members() if not machine.lies]

    def leader(self) -> Machine | None:
        """Who leads the latest epoch: of several who think so, the one of the highest term. A liar is not asked."""
        found: list[tuple[int, Machine]] = []
        for machine in self.honest():
            seat = machine.seats.get(machine.epoch) if machine.up else None
            if seat is not None and (status := seat.engine.status()).role == "leader":
                found.append((status.term, machine))
        return max(found, key=lambda each: each[0])[1] if found else None

    def say(self, who: Machine | None, what: str) -> None:
        """For the transcript."""
        if self.transcript is not None:
            self.transcript.append(f"{self.events.now:9.4f}  {who.name if who else ''} {what}".rstrip())

    def _deliver(self, source: bytes, target: bytes, message: bytes) -> None:
        machine = self.machines.get(target)
        if machine is None:
            self.clients[target].deliver(source, message)
        elif machine.up:
            machine.deliver(source, message)
