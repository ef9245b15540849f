"""How many workers there should be: what the scaler decides by (`scaler.py` carries it out). No I/O, no clock.

- Start as many as it takes for all that waits to run at once, within the limits. A worker that was started a moment
  ago, or is idle, counts as free.
- While one has been idle for a while although tasks wait, they are not for such workers, and no more are started.
- Reap what was idle for as long as the cool-down, the longest idle first.
- A worker that ends by itself, or is reaped without ever having worked although tasks wait, was started in vain. From
  then on one is tried at a time, and the pause before it doubles, from one second to `VAIN_SECONDS`, until one works.
"""

from collections.abc import Sequence

import msgspec

SETTLE_SECONDS = 5.0
"""Idle for less, a worker may only not have asked yet."""
VAIN_SECONDS = 300.0


class Bounds(msgspec.Struct, frozen=True):
    """Between what the number of workers stays, and how fast it falls."""

    least: int = 0
    most: int = 4
    slots: int = 4
    """Tasks that one worker runs at once."""
    cool_down: float = 45.0
    """Seconds for which a worker is idle before it is reaped."""


class Seen(msgspec.Struct):
    """A worker as its scaler sees it."""

    number: int
    started: float
    busy: int = 0
    """Tasks that it runs."""
    idle_since: float | None = None
    """None: it works, or has not said yet that it is ready."""
    worked: bool = False

    def tell(self, busy: int, now: float) -> None:
        """It says how many tasks it runs."""
        if busy or self.idle_since is None or self.busy:
            self.idle_since = None if busy else now
        self.busy = busy
        self.worked = self.worked or busy > 0


class Decision(msgspec.Struct, frozen=True):
    """What is to be done."""

    start: int = 0
    reap: tuple[int, ...] = ()
    """Numbers of workers."""


class Scaling:
    """Decides, look by look."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._vain = 0
        """Workers in a row that were started in vain."""
        self._not_before = float("-inf")

    def decide(self, now: float, waiting: int, workers: Sequence[Seen]) -> Decision:
        """What to do, where so many tasks wait."""
        bounds = self.bounds
        if any(each.worked and each.busy for each in workers):
            self._vain, self._not_before = 0, float("-inf")
        idle = {each.number: now - each.idle_since for each in workers if each.idle_since is not None}
        useless = any(each > SETTLE_SECONDS for each in idle.values())
        trying = self._vain > 0 and not all(each.worked for each in workers)
        if start := self._start(now, 0 if useless or trying else waiting, workers):
            return Decision(start)
        spare = max(0, len(workers) - bounds.least)
        tired = [number for number, since in idle.items() if since >= bounds.cool_down]
        tired.sort(key=lambda number: -idle[number])
        reap = tuple(tired[:spare])
        if waiting and any(not each.worked for each in workers if each.number in reap):
            self._in_vain(now)
        return Decision(0, reap)

    def ended(self, now: float) -> None:
        """A worker has ended that nobody has reaped."""
        self._in_vain(now)

    def _start(self, now: float, waiting: int, workers: Sequence[Seen]) -> int:
        bounds = self.bounds
        if now < self._not_before:
            return 0
        free = sum(max(0, bounds.slots - each.busy) for each in workers)
        wanted = -(-max(0, waiting - free) // bounds.slots)
        most = min(1 if self._vain else bounds.most, bounds.most - len(workers))
        return max(0, min(max(wanted, bounds.least - len(workers)), most))

    def _in_vain(self, now: float) -> None:
        self._not_before = now + min(2.0 ** min(self._vain, 30), VAIN_SECONDS)
        self._vain += 1
