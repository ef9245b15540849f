"""How long nodes stay: distributions of session lengths.

Text forms: `weibull:SHAPE:MEDIAN`, `exponential:MEDIAN`, `fixed:LENGTH`, `forever`; lengths like `90s`, `30m`, `1h`.
Session lengths in deployed peer-to-peer systems are well fitted by a Weibull of shape 0.3 to 0.6: many short stays and
a heavy tail (Stutzbach and Rejaie, "Understanding Churn in Peer-to-Peer Networks", IMC 2006, section 4.3).
"""

import math
from typing import Protocol

import msgspec

from titan_overlay.ambient import Random

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """`90s`, `30m`, `1h`, `2d` or plain seconds. Raises ValueError."""
    unit = _UNITS.get(text[-1:])
    value = float(text[:-1]) * unit if unit else float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"a length of time is positive and finite, not {text!r}")
    return value


class Lifetime(Protocol):
    """A distribution of session lengths, in seconds."""

    @property
    def mean(self) -> float:
        """Expected length of a session; `inf`: nodes stay for ever."""
        ...

    @property
    def median(self) -> float:
        """Half of all sessions are shorter."""
        ...

    def draw(self, random: Random) -> float:
        """The length of a session that begins now."""
        ...

    def residual(self, random: Random) -> float:
        """What is left of the session of a node met at random in a pool that has long been in balance.

        Such a node is more likely to be in a long session (length-biased), and met at a uniform moment of it.
        """
        ...

    def shorter_than(self, length: float) -> float:
        """Share of sessions that are shorter."""
        ...

    def scaled(self, factor: float) -> "Lifetime":
        """The same shape, every length times `factor`."""
        ...


class Weibull(msgspec.Struct, frozen=True):
    """Survival exp(-(t/scale)^shape); shape < 1: whoever has stayed long stays longer."""

    shape: float
    median: float

    @property
    def scale(self) -> float:
        """The parameter lambda, in seconds."""
        return self.median / math.pow(math.log(2.0), 1.0 / self.shape)

    @property
    def mean(self) -> float:
        return self.scale * math.gamma(1.0 + 1.0 / self.shape)

    def draw(self, random: Random) -> float:
        return self.scale * math.pow(-math.log(1.0 - random.random()), 1.0 / self.shape)

    def residual(self, random: Random) -> float:
        # If X has the density x f(x) / mean, then (X/scale)^shape is Gamma(1 + 1/shape).
        biased = self.scale * math.pow(random.gammavariate(1.0 + 1.0 / self.shape, 1.0), 1.0 / self.shape)
        return biased * random.random()

    def shorter_than(self, length: float) -> float:
        return 1.0 - math.exp(-math.pow(length / self.scale, self.shape))

    def scaled(self, factor: float) -> "Weibull":
        return Weibull(self.shape, self.median * factor)


class Fixed(msgspec.Struct, frozen=True):
    """All sessions have one length."""

    length: float

    @property
    def mean(self) -> float:
        return self.length

    @property
    def median(self) -> float:
        return self.length

    def draw(self, random: Random) -> float:
        return self.length

    def residual(self, random: Random) -> float:
        return self.length * random.random()

    def shorter_than(self, length: float) -> float:
        return float(length > self.length)

    def scaled(self, factor: float) -> "Fixed":
        return Fixed(self.length * factor)


class Forever(msgspec.Struct, frozen=True):
    """Nobody leaves."""

    mean: float = math.inf
    median: float = math.inf

    def draw(self, random: Random) -> float:
        return math.inf

    def residual(self, random: Random) -> float:
        return math.inf

    def shorter_than(self, length: float) -> float:
        return 0.0

    def scaled(self, factor: float) -> "Forever":
        return self


def parse(text: str) -> Lifetime:
    """The distribution that a text form names. Raises ValueError saying what is wrong."""
    kind, *rest = text.split(":")
    try:
        match kind, rest:
            case "weibull", [shape, median]:
                if not 0.1 <= float(shape) <= 10:
                    raise ValueError("the shape lies between 0.1 and 10")
                return Weibull(float(shape), seconds(median))
            case "exponential", [median]:
                return Weibull(1.0, seconds(median))
            case "fixed", [length]:
                return Fixed(seconds(length))
            case "forever", []:
                return Forever()
    except ValueError as why:
        raise ValueError(f"session {text!r}: {why}") from None
    raise ValueError(f"session {text!r}: write weibull:SHAPE:MEDIAN, exponential:MEDIAN, fixed:LENGTH or forever")
