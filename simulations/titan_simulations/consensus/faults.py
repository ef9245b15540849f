"""What goes wrong, and when: one misfortune after the other, often several at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from titan_overlay.mutable.engine import (
    Configuration,
    EntryKind,
    LearnersChanged,
    Proposed,
    TransferAsked,
)
from titan_simulations.consensus.bodies import encode_configuration
from titan_simulations.consensus.machine import Machine

if TYPE_CHECKING:
    from titan_simulations.consensus.world import World


class Faults:
    """Plans misfortunes until `stop`. `counted`: how many of which."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.random = world.random_of("faults")
        self.counted: dict[str, int] = {}
        self._stopped = False
        self._replacement = Replacement(world)
        self._kinds: list[tuple[int, Callable[[], None]]] = [
            (3, self.isolate_leader),
            (3, self.split),
            (3, self.deafen),
            (3, self.crash_leader),
            (2, self.crash_somebody),
            (3, self.crash_in_the_middle),
            (2, self.lose_power_of_a_majority),
            (2, self.lose_power_of_all),
            (3, self.strike_at_an_election),
            (3, self.freeze),
            (2, self.slow_disk),
            (2, self.lossy_network),
            (2, self.jumbled_network),
            (2, self.hand_over),
            (3, self.replace_a_member),
            (1, self.quiet),
        ]

    def begin(self) -> None:
        """The next misfortune, after a while."""
        self.world.events.after(self.random.uniform(0.1, 1.4), self._strike)

    def stop(self) -> None:
        """No more, and everything is mended."""
        self._stopped = True
        self.world.network.calm()
        for machine in self.world.machines.values():
            machine.sync_seconds = 0.002
            machine.crash_after = None
            if not machine.up:
                machine.start()
        for client in self.world.clients.values():
            client.paused = False

    def _strike(self) -> None:
        if self._stopped:
            return
        weights, kinds = zip(*self._kinds, strict=True)
        kind: Callable[[], None] = self.random.choices(kinds, weights)[0]
        name = getattr(kind, "__name__", "").replace("_", " ")
        self.counted[name] = self.counted.get(name, 0) + 1
        self.world.say(None, f"-- {name}")
        kind()
        self.begin()

    def _later(self, act: Callable[[], None], least: float = 0.3, most: float = 2.5) -> None:
        def unless_stopped() -> None:
            if not self._stopped:
                act()

        self.world.events.after(self.random.uniform(least, most), unless_stopped)

    # ---- walls -------------------------------------------------------------------------------------------------

    def isolate_leader(self) -> None:
        """The leader hears no other machine, nor they it; clients reach all."""
        leader = self.world.leader()
        if leader is not None:
            self._wall([leader.id], self._others([leader.id]), both=True)

    def split(self) -> None:
        """The machines fall into two halves; each client sees one or both."""
        places = [*self.world.machines]
        self.random.shuffle(places)
        cut = self.random.randrange(1, len(places))
        left, right = places[:cut], places[cut:]
        for client in self.world.clients.values():
            self.random.choice([left, right, []]).append(client.place)
        self._wall(left, right, both=True)

    def deafen(self) -> None:
        """A wall in one direction only."""
        one = self.random.choice([*self.world.machines])
        others = self._others([one])
        if self.random.random() < 0.5:
            others = [self.random.choice(others)]
        if self.random.random() < 0.5:
            self._wall([one], others, both=False)
        else:
            self._wall(others, [one], both=False)

    def _others(self, places: list[bytes]) -> list[bytes]:
        return [place for place in self.world.machines if place not in places]

    def _wall(self, left: list[bytes], right: list[bytes], both: bool) -> None:
        walls = {(source, target) for source in left for target in right}
        if both:
            walls |= {(target, source) for source, target in walls}
        self.world.network.walls |= walls
        self._later(lambda: self.world.network.walls.difference_update(walls))

    # ---- deaths ------------------------------------------------------------------------------------------------

    def _crash(self, machine: Machine, power: bool) -> None:
        machine.crash(power)
        self._later(lambda: None if machine.up else machine.start(), 0.05, 2.0)

    def crash_leader(self) -> None:
        """And at once."""
        leader = self.world.leader()
        if leader is not None:
            self._crash(leader, power=self.random.random() < 0.7)

    def crash_somebody(self) -> None:
        """Any machine."""
        self._crash(self.random.choice([*self.world.machines.values()]), power=self.random.random() < 0.7)

    def crash_in_the_middle(self) -> None:
        """Between two messages of one and the same step."""
        machine = self.world.leader() or self.random.choice([*self.world.machines.values()])
        machine.crash_after = self.random.randrange(30)
        self._later(lambda: None if machine.up else machine.start(), 0.5, 2.5)

    def lose_power_of_a_majority(self) -> None:
        """At the same instant."""
        members = self.world.members()
        self._brown_out(self.random.sample(members, len(members) // 2 + 1))

    def lose_power_of_all(self) -> None:
        """The whole building."""
        self._brown_out([*self.world.machines.values()])

    def _brown_out(self, machines: list[Machine]) -> None:
        """Disks get slow, so that much is under way when the power goes."""
        for machine in machines:
            machine.sync_seconds = self.random.choice([0.002, 0.05, 0.2])

        def cut() -> None:
            for machine in machines:
                machine.sync_seconds = 0.002
                self._crash(machine, power=True)

        self._later(cut, 0.0, 0.4)

    def strike_at_an_election(self) -> None:
        """The leader dies; its successor is cut off from one other at once, and the rest lose power for a moment."""
        leader = self.world.leader()
        if leader is None:
            return
        self._crash(leader, power=True)

        def look() -> None:
            elected = self.world.leader()
            if elected is None or elected is leader:
                self._later(look, 0.001, 0.002)
                return
            self._wall(
                [elected.id],
                [self.random.choice([each.id for each in self.world.members() if each is not elected])],
                both=True,
            )
            for machine in self.world.members():
                if machine is not elected and machine.up:
                    machine.crash(power=True)
                    self._later(lambda again=machine: None if again.up else again.start(), 0.0, 0.1)  # type: ignore[misc]

        self._later(look, 0.0, 0.0)

    # ---- things get slow ---------------------------------------------------------------------------------------

    def slow_disk(self) -> None:
        """One machine's, or all."""
        machines = [*self.world.machines.values()]
        chosen = machines if self.random.random() < 0.2 else [self.random.choice(machines)]
        for machine in chosen:
            machine.sync_seconds = self.random.choice([0.02, 0.1, 0.4])
            self._later(lambda mended=machine: setattr(mended, "sync_seconds", 0.002))  # type: ignore[misc]

    def freeze(self) -> None:
        """A machine stands still, and then goes on as if nothing had been: leaders above all."""
        machine = self.world.leader() or self.random.choice([*self.world.machines.values()])
        machine.freeze(self.random.uniform(0.3, 2.0))

    def lossy_network(self) -> None:
        """Losses and duplicates."""
        network = self.world.network
        network.loss, network.duplicates = self.random.choice([0.02, 0.1, 0.3]), self.random.choice([0.0, 0.1])

        def mend() -> None:
            network.loss = network.duplicates = 0.0

        self._later(mend)

    def jumbled_network(self) -> None:
        """Messages overtake each other."""
        network = self.world.network
        network.delay_more = self.random.choice([0.01, 0.05, 0.15])
        self._later(lambda: setattr(network, "delay_more", 0.001))

    def quiet(self) -> None:
        """Nobody asks for anything, until the group sleeps; then perhaps its leader dies."""
        for client in self.world.clients.values():
            client.paused = True

        def wake() -> None:
            leader = self.world.leader()
            if leader is not None and self.random.random() < 0.6:
                self._crash(leader, power=True)
            for client in self.world.clients.values():
                client.paused = False

        self._later(wake, 4.0, 6.0)

    # ---- intended changes --------------------------------------------------------------------------------------

    def hand_over(self) -> None:
        """The leader is asked to let another lead."""
        leader = self.world.leader()
        if leader is not None:
            seat = leader.seats[leader.epoch]
            leader.live(leader.life, lambda: seat.step(TransferAsked()))

    def replace_a_member(self) -> None:
        """A spare machine learns, and takes a member's place."""
        self._replacement.begin()


class Replacement:
    """One replacement at a time: learner, catching up, RECONFIG; who leads meanwhile may change."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.random = world.random_of("replacement")
        self._learner: Machine | None = None
        self._epoch = 0
        self._refs = -1

    def begin(self) -> None:
        """Unless one is under way."""
        spares = [
            machine
            for machine in self.world.machines.values()
            if machine.up and machine.id not in self.world.truth.configuration.members
        ]
        if self._learner is None and spares:
            self._learner = self.random.choice(spares)
            self._epoch = self.world.truth.configuration.epoch
            self.world.say(self._learner, "is to become a member")
            self._look()

    def _look(self) -> None:
        configuration = self.world.truth.configuration
        learner = self._learner
        if learner is None or configuration.epoch != self._epoch:
            self._learner = None  # done, or overtaken
            return
        learners = (learner.id,)
        with_learner = Configuration(configuration.epoch, configuration.members, learners)
        learner.learn(with_learner)
        leader = self.world.leader()
        if leader is not None and leader.epoch == self._epoch:
            self._help(leader, learners)
        self.world.events.after(0.2, self._look)

    def _help(self, leader: Machine, learners: tuple[bytes, ...]) -> None:
        seat = leader.seats[leader.epoch]
        status = seat.engine.status()
        if learners[0] not in status.peers:
            leader.live(leader.life, lambda: seat.step(LearnersChanged(learners)))
        elif status.peers[learners[0]].acknowledged_index >= status.committed - 10 > 0:
            members = [*self.world.truth.configuration.members]
            members.remove(self.random.choice(members))
            after = Configuration(self._epoch + 1, tuple(sorted([*members, *learners])))
            self._refs -= 1
            proposed = Proposed(encode_configuration(after), self._refs, EntryKind.RECONFIG)
            leader.live(leader.life, lambda: seat.step(proposed))
