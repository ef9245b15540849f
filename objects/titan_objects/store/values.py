"""The types of values: strings are `bytes` (or `bytearray`, once changed in place), lists `deque`, hashes `dict` (or
`ExpiringHash`, once one of their fields was given an end).

Sets and sorted sets have classes, because they are asked for members by chance and by rank. All keep an order that
follows from the commands alone, never from Python's hash seed: members of a group must answer alike.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeVar

T = TypeVar("T")

Scored = tuple[float, bytes]
"""A score and its member: their order is that of the sorted set."""


class Drawable(dict[T, int]):
    """Each member's place in `order`, so that one can be drawn by chance or removed at once.

    Whatever goes through the members goes by `order`, which is all that a snapshot keeps of them.
    """

    __slots__ = ("order",)

    def __init__(self, members: Iterable[T] = ()) -> None:
        super().__init__()
        self.order: list[T] = []
        for member in members:
            self.add(member)

    def add(self, member: T) -> bool:
        """Whether it is new."""
        if member in self:
            return False
        self[member] = len(self.order)
        self.order.append(member)
        return True

    def remove(self, member: T) -> bool:
        """Whether it was there. The last one takes its place."""
        at = self.pop(member, -1)
        if at < 0:
            return False
        last = self.order.pop()
        if last is not member and at < len(self.order):
            self.order[at] = last
            self[last] = at
        return True


class Members(Drawable[bytes]):
    """A set."""

    __slots__ = ()


class ZSet:
    """A sorted set: scores by member, and rows of (score, member) in order.

    A row holds up to 1,024 pairs, so an insertion moves little memory; ranks come from the sums of the rows' lengths,
    which are counted again only after a change.
    """

    __slots__ = ("_firsts", "_rows", "_starts", "scores")

    ROW_MAX = 1024

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self._rows: list[list[Scored]] = []
        self._firsts: list[Scored] = []
        self._starts: list[int] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def put(self, member: bytes, score: float) -> None:
        """Adds a member, or moves it. There is no -0."""
        score += 0.0
        old = self.scores.get(member)
        if old is not None:
            if old == score:
                return
            self._take((old, member))
        self.scores[member] = score
        self._insert((score, member))

    def remove(self, member: bytes) -> bool:
        """Whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        self._take((score, member))
        return True

    def rank(self, member: bytes) -> int:
        """How many stand before it; it must be there."""
        pair = (self.scores[member], member)
        row = self._row_of(pair)
        return self._begin(row) + bisect_left(self._rows[row], pair)

    def before(self, pair: Scored) -> int:
        """How many pairs are smaller than this one, which need not be there."""
        if not self._rows:
            return 0
        row = self._row_of(pair)
        return self._begin(row) + bisect_left(self._rows[row], pair)

    def slice(self, start: int, stop: int) -> list[Scored]:
        """Pairs by rank, from `start` up to `stop`."""
        found: list[Scored] = []
        if start >= stop or not self._rows:
            return found
        self._begin(0)
        assert self._starts is not None
        row = max(0, _last_not_above(self._starts, start))
        while row < len(self._rows) and self._starts[row] < stop:
            begin = self._starts[row]
            found += self._rows[row][max(0, start - begin) : stop - begin]
            row += 1
        return found

    def __iter__(self) -> Iterator[Scored]:
        for row in self._rows:
            yield from row

    def copy(self) -> "ZSet":
        """Another one with the same members."""
        twin = ZSet()
        twin.scores = dict(self.scores)
        twin._rows = [list(row) for row in self._rows]
        twin._firsts = list(self._firsts)
        return twin

    def _row_of(self, pair: Scored) -> int:
        return max(0, _last_not_above(self._firsts, pair))

    def _begin(self, row: int) -> int:
        if self._starts is None:
            self._starts = [0, *accumulate(map(len, self._rows))]
            self._starts.pop()
        return self._starts[row]

    def _insert(self, pair: Scored) -> None:
        self._starts = None
        if not self._rows:
            self._rows.append([pair])
            self._firsts.append(pair)
            return
        at = self._row_of(pair)
        row = self._rows[at]
        insort(row, pair)
        if len(row) > self.ROW_MAX:
            half = len(row) // 2
            self._rows.insert(at + 1, row[half:])
            self._firsts.insert(at + 1, row[half])
            del row[half:]
        self._firsts[at] = row[0]

    def _take(self, pair: Scored) -> None:
        self._starts = None
        at = self._row_of(pair)
        row = self._rows[at]
        del row[bisect_left(row, pair)]
        if row:
            self._firsts[at] = row[0]
        else:
            del self._rows[at], self._firsts[at]


class ExpiringHash(dict[bytes, bytes]):
    """A hash some of whose fields end. One that is set anew, or removed, ends no more.

    A hash becomes one with the first end that is set in it, which copies it; all others stay plain and pay nothing.

    Attributes:
        ends: the fields that end, by the moment (unix milliseconds).
    """

    __slots__ = ("ends",)

    END_MAX = (1 << 46) - 1

    def __init__(self, fields: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(fields)
        self.ends = ZSet()

    @property
    def first(self) -> int | None:
        """The earliest end."""
        return next((int(at) for at, _ in self.ends), None)

    def end_at(self, field: bytes, at: int) -> None:
        """Sets a field's end. Raises ValueError: so late that Redis would not take it."""
        if not 0 < at <= self.END_MAX:
            raise ValueError(f"no field ends at {at}")
        self.ends.put(field, at)

    def end_of(self, field: bytes) -> int | None:
        """When a field ends; None: it does not."""
        at = self.ends.scores.get(field)
        return None if at is None else int(at)

    def __setitem__(self, field: bytes, value: bytes) -> None:
        self.ends.remove(field)
        super().__setitem__(field, value)

    def update(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:  # type: ignore[override]
        """Sets fields."""
        for field, value in pairs:
            self[field] = value

    def pop(self, field: bytes, default: Any = None) -> Any:
        """Removes a field."""
        self.ends.remove(field)
        return super().pop(field, default)

    def take_due(self, now: int, limit: int) -> list[bytes]:
        """Removes up to `limit` fields that have ended by now; their names, those that ended first before others."""
        due = [field for at, field in self.ends.slice(0, limit) if at <= now]
        for field in due:
            del self[field]
            self.ends.remove(field)
        return due

    def live(self, now: int) -> dict[bytes, bytes]:
        """What has not ended by now."""
        ends = self.ends.scores
        return {field: value for field, value in self.items() if ends.get(field, math.inf) > now}

    def copy(self) -> "ExpiringHash":
        """Another one with the same fields and ends."""
        twin = ExpiringHash(self)
        twin.ends = self.ends.copy()
        return twin


def _last_not_above(values: list[Any], value: Any) -> int:
    at = bisect_left(values, value)
    return at if at < len(values) and values[at] == value else at - 1


STRINGS = (bytes, bytearray)
HASHES = (dict, ExpiringHash)


def type_name(value: Any) -> bytes:
    """What `TYPE` answers."""
    kind = type(value)
    if kind in STRINGS:
        return b"string"
    if kind is deque:
        return b"list"
    if kind in HASHES:
        return b"hash"
    if kind is Members:
        return b"set"
    return b"zset" if kind is ZSet else b"stream"


def duplicate(value: Any) -> Any:
    """A copy that shares nothing that can change."""
    if type(value) is bytes:
        return value
    if type(value) is Members:
        return Members(value.order)
    return value.copy()
