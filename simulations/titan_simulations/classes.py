"""Kinds of machines: what a volunteer's computer at home and a rented server differ in."""

import math
from collections.abc import Sequence

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.config import NodeConfig
from titan_simulations.lifetimes import Lifetime

MIB = 1 << 20
GIB = 1 << 30


class NodeClass(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of machine.

    Attributes:
        share: weight in the pool at any moment.
        stay: session length, as a multiple of that of other classes.
        upload, download: access line, bytes per second.
        max_bytes: room for replicas.
    """

    name: str
    share: float
    stay: float
    upload: float
    download: float
    max_bytes: int

    def config(self) -> NodeConfig:
        """Settings of a node of this class; everything else is the default."""
        return NodeConfig(max_bytes=self.max_bytes, labels={"class": self.name})


CLASSES = {
    # 20 Mbit/s up and 100 down; the node's own limit on its upload (1 MB/s) is lower.
    "home": NodeClass(name="home", share=0.75, stay=1.0, upload=2.5e6, download=12.5e6, max_bytes=GIB),
    "server": NodeClass(name="server", share=0.25, stay=4.0, upload=125e6, download=125e6, max_bytes=16 * GIB),
}


class Population:
    """A mix of classes whose sessions, over all arrivals, have the median that was asked for.

    A departure is replaced by an arrival of the same class, so the shares stay. Classes whose nodes stay longer then
    have fewer of the arrivals; the classes' session lengths keep their ratio.
    """

    def __init__(self, names: Sequence[str], session: Lifetime) -> None:
        unknown = [name for name in names if name not in CLASSES]
        if unknown or not names:
            raise ValueError(f"no such class of nodes: {unknown}; there are {', '.join(CLASSES)}")
        self.classes = [CLASSES[name] for name in names]
        total = sum(each.share for each in self.classes)
        self._cumulated: list[float] = []
        reached = 0.0
        for each in self.classes:
            reached += each.share / total
            self._cumulated.append(reached)
        scale = _scale(self.classes, session)
        self.sessions = {each.name: session.scaled(each.stay * scale) for each in self.classes}

    def draw(self, random: Random) -> NodeClass:
        """The class of a node of the pool."""
        point = random.random()
        for each, reached in zip(self.classes, self._cumulated, strict=True):
            if point < reached:
                return each
        return self.classes[-1]


def _scale(classes: Sequence[NodeClass], session: Lifetime) -> float:
    """The factor that gives the mixture of arrivals the median of `session`, by bisection."""
    median = session.median
    arrivals = [each.share / each.stay for each in classes]
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        sessions = (session.scaled(each.stay * middle) for each in classes)
        shorter = sum(w * s.shorter_than(median) for w, s in zip(arrivals, sessions, strict=True)) / sum(arrivals)
        low, high = (middle, high) if shorter > 0.5 else (low, middle)
    return math.sqrt(low * high)
