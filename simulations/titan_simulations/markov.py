"""How many objects a memoryless world would lose: a birth-death chain on the number of live copies.

States 0..r, where r = min_copies. In state i copies die at rate i * death; each of the r - i that are missing comes
back at rate repair = 1 / (mean repair time), independently, as holders recruit all that are missing at once. State 0 is
the end. Source: Ramabhadran and Pasquale, "Analysis of Long-Running Replicated Systems", INFOCOM 2006, section III;
Chun et al., "Efficient Replica Maintenance for Distributed Storage Systems", NSDI 2006, section 3.1.

With q(t) the distribution at time t and Q the generator, q(t) = q(0) exp(Qt), and the probability that an object is
lost by t is q_0(t), for q(0) = all r copies alive. With heavy-tailed sessions the young die much faster than the old: a
pool in which all are new loses most in its first minute. So Q changes over time, and is constant in each part of it.

Two ways in which the world is not so: repair takes a nearly constant time rather than an exponential one (which makes
losses rarer: for r = 3 by about half), and at one moment, too, some copies lie on younger nodes than others.
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
    repair_rate = 0.0 if math.isinf(repair_seconds) else 1.0 / max(repair_seconds, 1e-9)
    state: _Matrix = [[0.0] * copies + [1.0]]
    for seconds, death_rate in deaths:
        if seconds > 0:
            state = _product(state, _over(copies, death_rate, repair_rate, seconds))
    return min(1.0, max(0.0, state[0][0]))


def expected_losses(objects: int, copies: int, deaths: Deaths, repair_seconds: float) -> float:
    """Expected number of objects lost; see `loss_probability`."""
    return objects * loss_probability(copies, deaths, repair_seconds)


def poisson_at_least(observed: int, expected: float) -> float:
    """Probability of seeing `observed` or more losses where `expected` are expected, and losses are independent."""
    term, below = math.exp(-expected), 0.0
    for count in range(observed):
        below += term
        term *= expected / (count + 1)
    return max(0.0, 1.0 - below)


_Matrix = list[list[float]]


def _over(copies: int, death: float, repair: float, seconds: float) -> _Matrix:
    """exp(Q * seconds): one short step by the Taylor series, doubled until it spans the time."""
    doublings = max(0, math.ceil(math.log2(max(1.0, copies * (death + repair) * seconds * 64))))
    step = _step(copies, death, repair, seconds / 2**doublings)
    for _ in range(doublings):
        step = _product(step, step)
    return step


def _step(copies: int, death: float, repair: float, seconds: float) -> _Matrix:
    """exp(Q * seconds) for so short a time that the series converges at once. Row: from; column: to."""
    size = copies + 1
    rates = [[0.0] * size for _ in range(size)]
    for i in range(1, size):
        rates[i][i - 1] = i * death * seconds
        if i < copies:
            rates[i][i + 1] = (copies - i) * repair * seconds
        rates[i][i] = -sum(rates[i])
    result: _Matrix = [[float(i == j) for j in range(size)] for i in range(size)]
    term = result
    for order in range(1, 2 * size + 8):
        term = [[value / order for value in row] for row in _product(term, rates)]
        result = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(result, term, strict=True)]
    return result


def _product(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = list(zip(*b, strict=True))
    return [[math.fsum(x * y for x, y in zip(row, column, strict=True)) for column in columns] for row in a]
