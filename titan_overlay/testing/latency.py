"""How long a packet takes from one host to another: models of the Internet, from crude to fair."""

import math
from typing import Any, Protocol

from titan_overlay.ambient import Random


class Latency(Protocol):
    """One-way delays in seconds. A host's `place` is drawn once; a packet's delay is drawn from two places."""

    def place(self, random: Random) -> Any:
        """Where a host is; `random` is seeded by the network's seed and the host's IP."""
        ...

    def draw(self, source: Any, destination: Any, random: Random) -> float:
        """The delay of one packet."""
        ...


class Fixed:
    """The same delay for all."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def place(self, random: Random) -> None:
        """Nowhere in particular."""

    def draw(self, source: Any, destination: Any, random: Random) -> float:
        """The one delay."""
        return self.seconds


class Uniform:
    """Each packet's delay drawn evenly between two bounds; packets overtake each other."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.span = low, high - low

    def place(self, random: Random) -> None:
        """Nowhere in particular."""

    def draw(self, source: Any, destination: Any, random: Random) -> float:
        """Between the bounds."""
        return self.low + self.span * random.random()


class Plane:
    """Hosts on a plane, each behind an access line (Dabek et al., Vivaldi, SIGCOMM 2004, section 5.4: height vectors).

    The delay is the distance plus both access delays, times an exponentially distributed excess of mean `jitter`.
    The defaults give round trips with a median near 80 ms and a tail past 200 ms.

    side: seconds across the (square) plane.
    access: median access delay in seconds, log-normal with `spread`.
    """

    def __init__(self, side: float = 0.05, access: float = 0.005, spread: float = 0.6, jitter: float = 0.05) -> None:
        self.side, self.access, self.spread, self.jitter = side, access, spread, jitter

    def place(self, random: Random) -> tuple[float, float, float]:
        """(x, y, access delay), in seconds."""
        x, y = random.random() * self.side, random.random() * self.side
        return x, y, random.lognormvariate(math.log(self.access), self.spread)

    def draw(
        self, source: tuple[float, float, float], destination: tuple[float, float, float], random: Random
    ) -> float:
        """Distance plus access lines plus jitter."""
        base = math.hypot(source[0] - destination[0], source[1] - destination[1]) + source[2] + destination[2]
        return base * (1.0 - self.jitter * math.log(1.0 - random.random()))
