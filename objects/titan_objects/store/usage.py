"""How often each command was called, and how long that took: INFO commandstats and latencystats, LATENCY HISTOGRAM.

To look at the clock costs more than many a command takes. So the first `ALL_TIMED` calls of a command are timed, and of
those that come later one in `STRIDE`, which stands for all since the one before it; calls that follow one another in a
pipeline are timed together. What is seldom called, or slow, is known exactly; what is called all the time, well enough.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from titan_objects.store.table import Args, Table

ALL_TIMED = 64
STRIDE = 251
"""A prime: pipelines that repeat a pattern do not fall in step with it. Python keeps numbers up to 256 ready."""

_DIGITS = 8
"""Bits of a time that are kept: within 0.8 %."""

_LONGEST_NS = 1_000_000_000


class Usage:
    """Of one command.

    Attributes:
        left: calls until one is timed, that one included; who calls counts it down, and may do so below 0.
        failed, rejected: calls that gave an error, and that were refused before they were executed.
        micros: what all calls took, estimated from those that were timed.
    """

    __slots__ = ("_booked", "_spread", "_stride", "failed", "left", "micros", "rejected")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins at 0."""
        self.left = self._booked = self._stride = 1
        self.failed = self.rejected = 0
        self.micros = 0.0
        self._spread: dict[int, int] = {}

    @property
    def calls(self) -> int:
        """Calls that were executed."""
        return self._booked - self.left

    def timed(self, seconds: float, calls: int = 1) -> None:
        """The last so many calls, which are counted, took so long; they stand for all since others were timed."""
        if calls <= 0 or self._stride <= self.left:
            return  # none of them was executed
        one, stands_for = seconds / calls, self._stride - self.left
        self.micros += one * 1e6 * stands_for
        bucket = _upper(min(max(0, round(one * 1e9)), _LONGEST_NS))
        self._spread[bucket] = self._spread.get(bucket, 0) + stands_for
        self._stride = STRIDE if self._booked >= ALL_TIMED else 1
        self._booked += self._stride - self.left
        self.left = self._stride

    def add(self, calls: int) -> None:
        """So many calls were executed elsewhere, and not timed."""
        self._booked += calls

    def percentiles(self, wanted: list[float]) -> list[float]:
        """Microseconds that such shares (percent) of the calls took at most."""
        ordered = sorted(self._spread)
        sums = list(accumulate(self._spread[each] for each in ordered))
        found = []
        for percent in wanted:
            rank = max(1, int(percent / 100 * sums[-1] + 0.5)) if sums else 0
            found.append(next((at / 1000 for at, upto in zip(ordered, sums, strict=True) if upto >= rank), 0.0))
        return found

    def histogram(self) -> list[tuple[int, int]]:
        """Microseconds, doubled from one to the next, and how many calls took no longer; only those that add some."""
        pairs: list[tuple[int, int]] = []
        bound, total = 1024, 0
        for at in sorted(self._spread):
            while at > _upper(bound):
                bound *= 2
            total += self._spread[at]
            micros = _upper(bound) // 1000
            if pairs and pairs[-1][0] == micros:
                pairs.pop()
            pairs.append((micros, total))
        return pairs


def _upper(ns: int) -> int:
    """The largest time that is not told from this one."""
    shift = max(0, ns.bit_length() - _DIGITS)
    return ((ns >> shift) + 1 << shift) - 1


class Usages:
    """Of all commands of a table.

    Attributes:
        by_name: by the full name; what only contains other commands is never called.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self.by_name = {command.name: Usage() for command in table}

    def __iter__(self) -> Iterator[tuple[str, Usage]]:
        """Those that were called, with their names."""
        return ((name, each) for name, each in self.by_name.items() if each.calls or each.rejected)

    @property
    def calls(self) -> int:
        """Of all of them."""
        return sum(each.calls for each in self.by_name.values())

    def reset(self) -> None:
        """Begins at 0."""
        for each in self.by_name.values():
            each.reset()

    def count(self, commands: Iterable[Args]) -> None:
        """These were executed elsewhere, and nobody knows how long that took."""
        for args in commands:
            found = self._table.find_full(args)
            if found is not None:
                self.by_name[found.name].add(1)

    def count_error(self, args: Args, *, rejected: bool = False) -> None:
        """A command gave an error; `rejected`: it was refused, and not executed."""
        found = self._table.find_full(args)
        if found is not None and not (found.subcommands and len(args) > 1):  # there is no such sub-command
            usage = self.by_name[found.name]
            if rejected or not found.takes(len(args)):
                usage.rejected += 1
            else:
                usage.failed += 1
