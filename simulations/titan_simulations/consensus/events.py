"""A heap of events: virtual time without an event loop."""

from collections.abc import Callable
from heapq import heappop, heappush

Act = Callable[[], None]


class Events:
    """What happens next. Events of the same moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count = 0
        """Events that have happened."""
        self._heap: list[tuple[float, int, Act]] = []
        self._planned = 0

    def after(self, seconds: float, act: Act) -> None:
        """Plans something."""
        self._planned += 1
        heappush(self._heap, (self.now + seconds, self._planned, act))

    def step(self) -> bool:
        """Lets the next event happen; False: there is none."""
        if not self._heap:
            return False
        self.now, _, act = heappop(self._heap)
        self.count += 1
        act()
        return True
