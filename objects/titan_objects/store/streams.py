"""The value of a stream: entries by id, and groups of consumers that share them."""

from bisect import bisect_left, bisect_right
from copy import deepcopy

Id = tuple[int, int]
"""Milliseconds and a number within them; shown as `ms-number`."""

ZERO_ID: Id = (0, 0)
LAST_ID: Id = ((1 << 64) - 1, (1 << 64) - 1)


def shown(id: Id) -> bytes:
    """As clients see it."""
    return b"%d-%d" % id


class Pending:
    """An entry that a consumer was given and has not acknowledged. `since`: unix milliseconds."""

    __slots__ = ("consumer", "count", "since")

    def __init__(self, consumer: "Consumer", since: int, count: int) -> None:
        self.consumer = consumer
        self.since = since
        self.count = count


class Consumer:
    """One reader of a group. `seen`: when it last asked, in unix milliseconds."""

    __slots__ = ("name", "pending", "seen")

    def __init__(self, name: bytes, seen: int) -> None:
        self.name = name
        self.seen = seen
        self.pending: dict[Id, None] = {}


class ConsumerGroup:
    """Readers that get each entry once between them.

    Attributes:
        last: the last id that was given out.
        read: how many entries were, counted from the first ever; None: not known.
    """

    __slots__ = ("consumers", "last", "pending", "read")

    def __init__(self, last: Id, read: int | None) -> None:
        self.last = last
        self.read = read
        self.pending: dict[Id, Pending] = {}
        self.consumers: dict[bytes, Consumer] = {}

    def give(self, id: Id, consumer: Consumer, now: int, count: int) -> None:
        """Notes that a consumer has an entry; whoever had it has it no more."""
        self.drop(id)
        self.pending[id] = Pending(consumer, now, count)
        consumer.pending[id] = None

    def drop(self, id: Id) -> bool:
        """Whether the entry was pending; it is no more."""
        found = self.pending.pop(id, None)
        if found is None:
            return False
        found.consumer.pending.pop(id, None)
        return True


class Stream:
    """Entries in the order of their ids.

    Attributes:
        last: the greatest id ever; added: how many entries ever; deleted: the greatest id that XDEL took.
    """

    __slots__ = ("added", "deleted", "entries", "groups", "ids", "last")

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.entries: dict[Id, list[bytes]] = {}
        self.groups: dict[bytes, ConsumerGroup] = {}
        self.last = ZERO_ID
        self.added = 0
        self.deleted = ZERO_ID

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, id: Id, fields: list[bytes]) -> None:
        """Adds an entry, whose id must be greater than `last`."""
        self.ids.append(id)
        self.entries[id] = fields
        self.last = id
        self.added += 1

    def delete(self, id: Id) -> bool:
        """Whether it was there."""
        if self.entries.pop(id, None) is None:
            return False
        del self.ids[bisect_left(self.ids, id)]
        self.deleted = max(self.deleted, id)
        return True

    def between(self, low: Id, high: Id, count: int = -1, reverse: bool = False) -> list[Id]:
        """Ids from `low` to `high`, both included; `count` below 0: all."""
        begin, end = bisect_left(self.ids, low), bisect_right(self.ids, high)
        if reverse:
            found = self.ids[max(begin, end - count) if count >= 0 else begin : end]
            return found[::-1]
        return self.ids[begin : min(end, begin + count) if count >= 0 else end]

    def trim(self, many: int) -> int:
        """Drops the oldest; says how many."""
        gone = self.ids[: max(0, many)]
        for id in gone:
            del self.entries[id]
        del self.ids[: len(gone)]
        return len(gone)

    def count_until(self, id: Id) -> int | None:
        """How many entries were ever added up to this id; None where it cannot be told without counting."""
        if id == self.last or (not self.ids and id < self.last):
            return self.added
        if id > self.last or self.has_gap(self.ids[0]):
            return None
        if id < self.ids[0]:
            return self.added - len(self.ids)
        return self.added - len(self.ids) + 1 if id == self.ids[0] else None

    def has_gap(self, start: Id) -> bool:
        """Whether an entry was deleted from there on."""
        return bool(self.ids) and self.deleted != ZERO_ID and self.deleted >= start

    def copy(self) -> "Stream":
        """Another one, with its groups."""
        return deepcopy(self)


def sorted_pending(group: ConsumerGroup, consumer: Consumer | None = None) -> list[Id]:
    """Ids that are pending, in order; nearly always they are in order already."""
    return sorted(group.pending if consumer is None else consumer.pending)
