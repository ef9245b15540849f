"""Random schedules of a byzantine group: everything that may happen, in any order, from a seed."""

from collections.abc import Callable

from tests.unit.bft_cluster import QUICK, Cluster, name
from tests.unit.bft_liars import Liar
from titan_overlay.mutable import bft
from titan_overlay.mutable.bft_messages import Phase, Vote, decode_message
from titan_overlay.mutable.bft_pacemaker import BftSettings
from titan_simulations.consensus.bft_liar import Knowledge


def _is_second_vote(raw: bytes) -> bool:
    message = decode_message(raw)
    return isinstance(message, Vote) and message.phase is Phase.SECOND


class Explorer:
    """A cluster with liars and bad luck."""

    def __init__(
        self,
        seed: int,
        n: int = 4,
        liars: int | None = None,
        engine: type[bft.Bft] = bft.Bft,
        settings: BftSettings = QUICK,
    ) -> None:
        faults = (n - 1) // 3
        self.cluster = Cluster(n, faults if liars is None else liars, seed, settings, engine)
        self.chance = self.cluster.chance
        knowledge = Knowledge(self.cluster.committee(name(15)))
        self.liars = {me: Liar(self.cluster, me, knowledge, self.chance) for me in self.cluster.liars}
        self.loss = self.chance.choice([0.0, 0.02, 0.2])
        self.crashes = self.chance.choice([0.0, 0.0, 0.02])
        self.requests = 0
        self.walls: set[tuple[bytes, bytes]] = set()
        """Sender and receiver between which messages wait."""
        self.spite = self.chance.choice([0.0, 0.0, 0.5, 0.95])
        """Share of the second votes that are lost, but for one member: what it commits, nobody else knows."""
        self.favoured = self.chance.choice(list(self.cluster.honest))
        self.actions: list[tuple[float, Callable[[], None]]] = [
            (40.0, self.deliver),
            (20.0, self.write),
            (12.0, self.tell),
            (1.0, self.duplicate),
            (40.0 * self.loss, self.lose),
            (2.0, self.submit),
            (self.chance.choice([0.3, 2.0]), self.wait),
            (self.crashes * 10, self.crash),
            (1.0, self.restart),
            (self.chance.choice([0.0, 0.5, 2.0]), self.wall),
            (2.0, self.serve),
            (0.2, self.compact),
            (self.chance.choice([0.0, 3.0, 8.0]) if self.liars else 0.0, self.lie),
        ]

    def explore(self, steps: int) -> None:
        """Safety is checked by the cluster at every entry that an honest member executes."""
        weights = [weight for weight, _ in self.actions]
        for _, action in self.chance.choices(self.actions, weights, k=steps):
            action()

    # ---- what may happen ---------------------------------------------------------------------------------------

    def deliver(self) -> None:
        bag = self.cluster.bag
        for _ in range(3 if bag else 0):
            # Mostly the older ones: a bag in which everything stays for ever is a network that loses everything.
            position = min(self.chance.randrange(len(bag)), self.chance.randrange(len(bag)))
            sender, to, raw = bag[position]
            if (sender, to) not in self.walls:
                break
        else:
            return
        if to != self.favoured and self.chance.random() < self.spite and _is_second_vote(raw):
            bag.pop(position)
        elif to in self.liars:
            bag.pop(position)
            self.liars[to].receive(sender, raw)
        else:
            self.cluster.deliver(position)

    def wall(self) -> None:
        """Other walls than before: between any two, around one member, or none."""
        self.favoured = self.chance.choice(list(self.cluster.honest))
        members = self.cluster.configuration.members
        share = self.chance.choice([0.0, 0.2, 0.6])
        pairs = [(sender, to) for sender in members for to in members if sender != to]
        self.walls = {pair for pair in pairs if self.chance.random() < share}
        if self.chance.random() < 0.3:
            alone = self.chance.choice(members)
            self.walls |= {pair for pair in pairs if alone in pair}

    def duplicate(self) -> None:
        if self.cluster.bag:
            position = self.chance.randrange(len(self.cluster.bag))
            if self.cluster.bag[position][1] not in self.liars:
                self.cluster.deliver(position, keep=True)

    def lose(self) -> None:
        if self.cluster.bag:
            self.cluster.bag.pop(self.chance.randrange(len(self.cluster.bag)))

    def _up(self) -> list:
        return [member for member in self.cluster.honest.values() if member.up]

    def write(self) -> None:
        ready = [member for member in self._up() if member.unwritten]
        if ready:
            self.chance.choice(ready).write()

    def tell(self) -> None:
        ready = [member for member in self._up() if member.local]
        if ready:
            self.chance.choice(ready).tell()

    def submit(self) -> None:
        self.requests += 1
        some = [me for me in self.cluster.honest if self.chance.random() < 0.8]
        self.cluster.submit(b"request %d" % self.requests, some)

    def wait(self) -> None:
        self.cluster.pass_time()

    def crash(self) -> None:
        self.chance.choice(list(self.cluster.honest.values())).crash()

    def restart(self) -> None:
        down = [member for member in self.cluster.honest.values() if not member.up]
        if down:
            self.chance.choice(down).start()

    def serve(self) -> None:
        for me in [each for each in self.cluster.fetches if each in self.cluster.honest]:
            self.cluster.serve(me, lie=self.chance.random() < 0.3)
            return

    def compact(self) -> None:
        ready = [member for member in self._up() if not member.unwritten]
        if ready:
            self.chance.choice(ready).compact()

    def lie(self) -> None:
        self.chance.choice(list(self.liars.values())).act()

    # ---- the end of bad luck -----------------------------------------------------------------------------------

    def heal(self, *, views_max: int) -> None:
        """All honest members are back and all messages arrive; liars go on. What is asked for now is executed by
        every honest member within `views_max` views."""
        for member in self.cluster.honest.values():
            if not member.up:
                member.start()
        self.walls.clear()
        self.cluster.submit(b"last")
        begun = max(member.engine.view for member in self.cluster.honest.values())
        while not all(b"last" in {entry.data for entry in member.order} for member in self.cluster.honest.values()):
            self._settle()
            self.cluster.pass_time()
            for liar in self.liars.values():
                liar.act()
            views = max(member.engine.view for member in self.cluster.honest.values()) - begun
            assert views <= views_max, f"nothing was committed in {views} views"

    def _settle(self) -> None:
        for _ in range(20_000):
            up = self._up()
            busy = next((member for member in up if member.local or member.unwritten), None)
            if busy is not None:
                busy.tell() if busy.local else busy.write()
            elif self.cluster.bag:
                sender, to, raw = self.cluster.bag[0]
                if to in self.liars:
                    self.cluster.bag.pop(0)
                    self.liars[to].receive(sender, raw)
                else:
                    self.cluster.deliver(0)
            elif any(me in self.cluster.honest for me in self.cluster.fetches):
                self.serve()
            else:
                return
        raise AssertionError("messages lead to messages without end")
