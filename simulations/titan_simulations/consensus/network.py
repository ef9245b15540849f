"""What lies between machines: delay, loss, duplicates, other orders, and walls that may stand in one direction only."""

from collections.abc import Callable
from hashlib import sha256

from titan_overlay.ambient import Random
from titan_simulations.consensus.events import Events

Place = bytes
"""Who sends and receives: a machine's id, or a client's."""


class Network:
    """Delivers by calling `deliver(source, target, message)`. All settings may be changed at any time."""

    def __init__(self, events: Events, random: Random, deliver: Callable[[Place, Place, bytes], None]) -> None:
        self.loss = 0.0
        self.duplicates = 0.0
        self.delay_min = 0.0005
        self.delay_more = 0.001
        """Mean of what comes on top: the larger, the more messages overtake each other."""
        self.walls: set[tuple[Place, Place]] = set()
        """(source, target) between which nothing passes."""
        self.sent = 0
        self.trace = sha256()
        """Everything that was ever sent, and when: two runs that agree on it are the same run."""
        self._events = events
        self._random = random
        self._deliver = deliver

    def send(self, source: Place, target: Place, message: bytes) -> None:
        """One way."""
        self.sent += 1
        self.trace.update(b"%r%b%b%b" % (self._events.now, source, target, message))
        random = self._random
        copies = 2 if self.duplicates and random.random() < self.duplicates else 1
        for _ in range(copies):
            if self.loss and random.random() < self.loss:
                continue
            delay = self.delay_min + random.expovariate(1.0) * self.delay_more
            self._events.after(delay, lambda: self._arrive(source, target, message))

    def _arrive(self, source: Place, target: Place, message: bytes) -> None:
        # A wall that was built meanwhile stops what was under way.
        if (source, target) not in self.walls:
            self._deliver(source, target, message)

    def calm(self) -> None:
        """Ends everything that goes wrong."""
        self.loss = self.duplicates = 0.0
        self.delay_more = 0.001
        self.walls.clear()
