"""A lying engine in a cluster without a network. Liars work together, and know everything that was ever said."""

import random

from tests.unit.bft_cluster import Cluster
from titan_overlay.mutable.bft_messages import decode_message
from titan_overlay.mutable.engine import GENESIS, Event, Received, TimerDue
from titan_simulations.consensus.bft_liar import Knowledge, LyingBft


class Liar:
    """One of them."""

    def __init__(self, cluster: Cluster, me: bytes, knowledge: Knowledge, chance: random.Random) -> None:
        self.me = me
        self._cluster = cluster
        committee, old = cluster.committee(me), cluster.committee(me, epoch=cluster.configuration.epoch + 1)
        self.engine = LyingBft(committee, old, lambda: cluster.engine(me, GENESIS, []), chance, knowledge)
        self._read = 0

    def receive(self, sender: bytes, raw: bytes) -> None:
        self._step(Received(sender, decode_message(raw)))

    def act(self) -> None:
        for raw in self._cluster.seen[self._read :]:
            self.engine.knowledge.learn(decode_message(raw))
        self._read = len(self._cluster.seen)
        self._step(TimerDue())

    def _step(self, event: Event) -> None:
        self._cluster.post(self.me, self.engine.step(event, self._cluster.now).send_now)
