"""How many objects a memoryless world would lose, by chains whose rates are measured in the one simulated.

Copies of an object: a birth-death chain on the number of live ones, states 0..r, where r = min_copies. In state i
copies die at rate i * death; each of the r - i that are missing comes back at rate repair = 1 / (mean repair time),
independently, as holders recruit all that are missing at once. State 0 is the end. Source: Ramabhadran and Pasquale,
"Analysis of Long-Running Replicated Systems", INFOCOM 2006, section III; Chun et al., "Efficient Replica Maintenance
for Distributed Storage Systems", NSDI 2006, section 3.1.

Members of a group: of n members some are up, some are down and will return with their disks, some are gone for good.
Each that is up goes down at rate death, for good with a given probability; each that is down returns at rate
1 / (mean downtime); while a majority is up, whoever leads replaces one missing member at a time, down or gone, at rate
1 / (mean repair time), by one that is up. A quorum is lost while fewer than a majority are up, and unrecoverable once
fewer than a majority are not gone. Without the downs this is the chain of a repairable k-out-of-n system (Trivedi,
"Probability and Statistics with Reliability, Queuing, and Computer Science Applications", chapter 8).

With q(t) the distribution at time t and Q the generator, q(t) = q(0) exp(Qt), from all alive on; the end is a state
that is never left. With heavy-tailed sessions the young die much faster than the old: a pool in which all are new loses
most in its first minute. So Q changes over time, and is constant in each part of it.

Ways in which the world is not so: repair takes a nearly constant time rather than an exponential one (which makes
losses rarer: for r = 3 by about half), as most downtimes are far from their mean; and at one moment, too, some copies
and members live on younger nodes than others.
"""

import math
from collections.abc import Iterable

Deaths = Iterable[tuple[float, float]]
"""(seconds, rate at which a copy died in them, per second), one part of the time after the other."""


def loss_probability(copies: int, deaths: Deaths, repair_seconds: float) -> float:
    """Probability that an object with `copies` copies has none left at some time.

    Args:
        repair_seconds: mean time from falling below `copies` to being back; `inf`: no repair.
    """
    if copies < 1:
        raise ValueError("an object has at least one copy")
    repair = _rate(repair_seconds)
    rates = ((seconds, _of_copies(copies, death, repair)) for seconds, death in deaths)
    return _end([0.0] * copies + [1.0], rates, copies)


def expected_losses(objects: int, copies: int, deaths: Deaths, repair_seconds: float) -> float:
    """Expected number of objects lost; see `loss_probability`."""
    return objects * loss_probability(copies, deaths, repair_seconds)


def quorum_loss_probability(
    members: int,
    deaths: Deaths,
    *,
    gone_share: float,
    down_seconds: float,
    repair_seconds: float,
    for_good: bool = True,
) -> float:
    """Probability that a group has at some time no majority of its members.

    Args:
        gone_share: of the members that go down, so many never return.
        down_seconds: mean time until the others do.
        repair_seconds: mean time from a member's death to another's vote in its place; `inf`: no repair.
        for_good: none that are not gone; False: none that are up, even if they return.
    """
    if members < 1:
        raise ValueError("a group has at least one member")
    chain = _Members(members, for_good)
    back, repair = _rate(down_seconds), _rate(repair_seconds)
    rates = ((seconds, chain.rates(death, gone_share, back, repair)) for seconds, death in deaths)
    return _end(chain.all_up, rates, members)


def poisson_at_least(observed: int, expected: float) -> float:
    """Probability of seeing `observed` or more losses where `expected` are expected, and losses are independent."""
    term, below = math.exp(-expected), 0.0
    for count in range(observed):
        below += term
        term *= expected / (count + 1)
    return max(0.0, 1.0 - below)


_Matrix = list[list[float]]
"""Of rates, per second: row: from; column: to; what leaves a state is not in its diagonal."""


def _rate(seconds: float) -> float:
    return 0.0 if math.isinf(seconds) else 1.0 / max(seconds, 1e-9)


def _of_copies(copies: int, death: float, repair: float) -> _Matrix:
    rates = [[0.0] * (copies + 1) for _ in range(copies + 1)]
    for i in range(1, copies + 1):
        rates[i][i - 1] = i * death
        if i < copies:
            rates[i][i + 1] = (copies - i) * repair
    return rates


class _Members:
    """The states of a group, (down, gone); all in which it is lost are one, the first."""

    def __init__(self, members: int, for_good: bool) -> None:
        self._members = members
        self._quorum = members // 2 + 1
        lost = members - self._quorum + 1
        self._states = [
            (down, gone) for gone in range(lost) for down in range(members - gone + 1) if for_good or down + gone < lost
        ]
        self._place = {state: place for place, state in enumerate(self._states, 1)}
        self.all_up = [float(state == (0, 0)) for state in [(-1, -1), *self._states]]

    def rates(self, death: float, gone_share: float, back: float, repair: float) -> _Matrix:
        size = len(self._states) + 1
        rates = [[0.0] * size for _ in range(size)]
        for (down, gone), place in self._place.items():
            row, up, missing = rates[place], self._members - down - gone, down + gone
            row[self._place.get((down + 1, gone), 0)] += up * death * (1.0 - gone_share)
            row[self._place.get((down, gone + 1), 0)] += up * death * gone_share
            if down:
                row[self._place[down - 1, gone]] += down * back
            if missing and up >= self._quorum:
                if down:
                    row[self._place[down - 1, gone]] += repair * down / missing
                if gone:
                    row[self._place[down, gone - 1]] += repair * gone / missing
        return rates


def _end(start: list[float], parts: Iterable[tuple[float, _Matrix]], longest: int) -> float:
    """Probability of state 0 after these parts of the time, each with its rates.

    Args:
        longest: steps from any state to any other, at most.
    """
    state: _Matrix = [start]
    for seconds, rates in parts:
        if seconds > 0:
            state = _product(state, _over(rates, seconds, longest))
    return min(1.0, max(0.0, state[0][0]))


def _over(rates: _Matrix, seconds: float, longest: int) -> _Matrix:
    """exp(Q * seconds): one short step by the Taylor series, doubled until it spans the time."""
    fastest = max(math.fsum(row) for row in rates)
    doublings = max(0, math.ceil(math.log2(max(1.0, fastest * seconds * 64))))
    step = _step(rates, seconds / 2**doublings, 2 * longest + 10)
    for _ in range(doublings):
        step = _product(step, step)
    return step


def _step(rates: _Matrix, seconds: float, orders: int) -> _Matrix:
    """exp(Q * seconds) for so short a time that the series converges at once."""
    size = len(rates)
    generator = [[rate * seconds for rate in row] for row in rates]
    for i in range(size):
        generator[i][i] -= math.fsum(generator[i])
    result: _Matrix = [[float(i == j) for j in range(size)] for i in range(size)]
    term = result
    for order in range(1, orders):
        term = [[value / order for value in row] for row in _product(term, generator)]
        result = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(result, term, strict=True)]
    return result


def _product(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = list(zip(*b, strict=True))
    return [[math.fsum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]
