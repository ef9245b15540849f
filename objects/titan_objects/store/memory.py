"""`maxmemory`: how much the keys take, which were used lately, and which go when it is too much.

Sizes are estimates of what Python takes, kept up to date key by key while there is a limit. Which keys go is decided
from the commands and `chance` alone, as Redis does it: a few are drawn, and the one used longest ago (LRU), least often
(LFU), or that ends soonest (TTL), goes.
"""

from collections import deque
from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any

from titan_objects.store.listing import Listing
from titan_objects.store.resp import CommandError
from titan_objects.store.streams import Stream
from titan_objects.store.values import HASHES, STRINGS, Drawable, ExpiringHash, ZSet

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.keyspace import Database, Placed
    from titan_objects.store.table import Args, Command

KEY_BYTES = 100
"""A key's share of the dictionaries."""

SAMPLED = 8
"""How many elements are looked at to estimate a whole value."""

LFU_START = 5

_OOM = b"OOM command not allowed when used memory > 'maxmemory'."

_LOOKING = frozenset(("object", "memory"))
"""What they tell of a key would be that they were asked."""

SLICE_KEYS = 500
"""Keys that are looked at once there is a limit, in one slice: about two milliseconds' work."""

Place = tuple["Placed", bytes]
"""A key, and the database that it is in, by what SWAPDB moves with it."""


def size_of(key: bytes, value: Any, samples: int = SAMPLED) -> int:
    """Bytes that a key and its value take, about; `samples` 0: every element is looked at."""
    return KEY_BYTES + 33 + len(key) + _value_bytes(value, samples)


def _value_bytes(value: Any, samples: int) -> int:
    if type(value) in STRINGS:
        return 33 + len(value)
    if type(value) is deque:
        return 700 + _estimated(value, len(value), samples, 8)
    if type(value) in HASHES:
        pairs = value.items()
        sampled = list(islice(pairs, samples or None))
        mean = sum(len(field) + len(each) + 66 for field, each in sampled) / max(1, len(sampled))
        ends = 300 * len(value.ends) if type(value) is ExpiringHash else 0
        return 64 + int(len(value) * (mean + 100)) + ends
    if type(value) is ZSet:
        return 200 + _estimated(value.scores, len(value), samples, 300)
    if type(value) is Stream:
        sampled_ids = value.ids[: samples or None]
        mean = sum(sum(map(len, value.entries[id])) + 300 for id in sampled_ids) / max(1, len(sampled_ids))
        return 400 + int(len(value) * mean) + 500 * len(value.groups)
    return 64 + _estimated(value.order, len(value), samples, 140)


def _estimated(elements: Any, count: int, samples: int, overhead: int) -> int:
    sampled = list(islice(elements, samples or None))
    return int(count * (sum(map(len, sampled)) / max(1, len(sampled)) + 33 + overhead))


class Meter:
    """Watches the sizes and uses of all keys of an engine, while `maxmemory` or a policy that goes by uses is set.

    Keys that are there already are looked at slice by slice: until `more` has seen them all, `total` is too small.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._sizes: dict[Place, int] = {}
        self._places: Drawable[Place] = Drawable()
        self._used: dict[Place, tuple[int, int]] = {}
        self._changed: dict[Place, None] = {}
        self._unseen = deque((db.placed, iter(Listing(db))) for db in engine.databases if db.data)
        self.total = 0
        self._full = False
        """There was nothing to let go before the transaction or script that runs."""

    def more(self) -> bool:
        """Looks at a slice of the keys that were there before; False: all have been."""
        if not self._unseen:
            return False
        placed, keys = self._unseen[0]
        some = list(islice(keys, SLICE_KEYS))
        self._changed |= {(placed, key): None for key in some if (placed, key) not in self._sizes}
        if len(some) < SLICE_KEYS:
            self._unseen.popleft()
        self.measure()
        return True

    def note(self, db: "Database", key: bytes) -> None:
        """A key has changed; it is measured when the sum is asked for."""
        self._changed[db.placed, key] = None

    def measure(self) -> int:
        """Bytes that all keys take."""
        changed, self._changed = self._changed, {}
        for place in changed:
            placed, key = place
            value = placed.database.data.get(key)
            before = self._sizes.pop(place, 0)
            if value is None:
                self._used.pop(place, None)
                self._places.remove(place)
                after = 0
            else:
                after = self._sizes[place] = size_of(key, value)
                if not before:
                    self._places.add(place)
                    self._used.setdefault(place, (self._engine.now, LFU_START))
            self.total += after - before
        return self.total

    # ---- snapshots -----------------------------------------------------------------------------------------------

    def used(self, place: Place) -> tuple[int, int] | None:
        """When a key was used last, and its counter then."""
        return self._used.get(place)

    def order(self) -> list[Place]:
        """The list from which keys are drawn."""
        return list(self._places.order)

    def restore(self, db: "Database", key: bytes, used: tuple[int, int]) -> None:
        """A key as another store knew it."""
        place = (db.placed, key)
        self._used[place] = used
        before, after = self._sizes.get(place, 0), size_of(key, db.data[key])
        self._sizes[place] = after
        self.total += after - before

    def draw_from(self, places: Iterable[Place]) -> None:
        """More of the list from which keys are drawn."""
        for place in places:
            self._places.add(place)

    def admit(self, command: "Command", args: "Args") -> None:
        """Notes which keys are used; before what a client wants and may need memory, lets keys go until there is some.

        What a log or a server that is followed has is executed as it is: it says itself which keys have gone.

        Raises:
            CommandError: OOM, there is nothing to let go.
        """
        self._note_use(command, args)
        engine = self._engine
        queue = engine.session.queue
        if engine.session is engine.internal:
            self._full = False
        elif queue is not None:
            self._full = not self._make_room()
            if self._full and any("denyoom" in self._flags(each) for each in queue):
                raise CommandError(_OOM)
        elif "denyoom" in command.flags or command.group == "scripting":
            self._full = not self._make_room()
            if self._full and "denyoom" in command.flags:
                raise CommandError(_OOM)

    def admit_queued(self) -> None:
        """Before a command is queued, whatever it is. Raises CommandError: OOM, what is queued takes memory."""
        if self._engine.session is not self._engine.internal and not self._make_room():
            raise CommandError(_OOM)

    def admit_called(self, command: "Command", args: "Args") -> None:
        """Of a transaction or a script: no key goes in the middle of it, and what has begun to write goes on.

        Raises:
            CommandError: OOM, there was nothing to let go before it.
        """
        self._note_use(command, args)
        if self._full and "denyoom" in command.flags and self._engine.scripts.needs_memory:
            raise CommandError(_OOM)

    def admit_script(self) -> None:
        """Before a script that says what it does, but not that it may run now. Raises CommandError: OOM."""
        if self._full:
            raise CommandError(_OOM)

    def _note_use(self, command: "Command", args: "Args") -> None:
        for key in command.keys(args) if command.container not in _LOOKING else ():
            self._use((self._engine.db.placed, key))

    def _flags(self, args: "Args") -> frozenset[str]:
        command = self._engine.table.find_full(args)
        return frozenset() if command is None else command.flags

    def _make_room(self) -> bool:
        """Lets keys go until there are few enough; False: there is nothing to let go."""
        limit = self._engine.config.maxmemory
        while limit and self.measure() > limit:
            if not self._let_one_go():
                return False
        return True

    def idle_ms(self, db: "Database", key: bytes) -> int:
        """How long nobody used a key."""
        return max(0, self._engine.now - self._used.get((db.placed, key), (self._engine.now, 0))[0])

    def frequency(self, db: "Database", key: bytes) -> int:
        """How often a key was used: a logarithmic counter up to 255, which fades (`lfu-decay-time`)."""
        last, count = self._used.get((db.placed, key), (self._engine.now, LFU_START))
        minutes = self._engine.config.lfu_decay_minutes
        return max(0, count - (self._engine.now - last) // (60_000 * minutes)) if minutes else count

    def _use(self, place: Place) -> None:
        if place in self._used:
            db, key = place[0].database, place[1]
            if self._engine.preserve is not None:
                self._engine.preserve(db, key)
            count = self.frequency(db, key)
            chance = 1 / (max(0, count - LFU_START) * self._engine.config.lfu_log_factor + 1)
            grown = count < 255 and self._engine.chance.random() < chance
            self._used[place] = (self._engine.now, count + grown)

    def _let_one_go(self) -> bool:
        engine = self._engine
        policy = engine.config.get("maxmemory-policy")
        if policy == "noeviction":
            return False
        which, how = policy.split("-")
        best: tuple[float, Place] | None = None
        for place in self._drawn(int(engine.config.get("maxmemory-samples")), which == "volatile"):
            db, key = place[0].database, place[1]
            if how == "lru":
                rank = float(self._used.get(place, (0, 0))[0])
            elif how == "lfu":
                rank = float(self.frequency(db, key))
            elif how == "ttl":
                rank = float(db.expires[key])
            else:
                rank = 0.0
            if best is None or rank < best[0]:
                best = (rank, place)
        if best is None:
            return False
        placed, key = best[1]
        engine.leaving.evict(placed.database, key)
        return True

    def _drawn(self, many: int, volatile: bool) -> list[Place]:
        """Some keys by chance; of those that expire alone, if asked for."""
        drawn: list[Place] = []
        tries = 0
        order = self._places.order
        while order and len(drawn) < many and tries < 20 * many:
            tries += 1
            place = order[self._engine.chance.randrange(len(order))]
            db, key = place[0].database, place[1]
            if key in (db.expires if volatile else db.data):  # one that is gone leaves when it is measured
                drawn.append(place)
        if not drawn and volatile:
            for db in self._engine.databases:  # by their names, not as a dict has them: members must agree
                drawn += [(db.placed, key) for key in nsmallest(many, db.expires)]
        return drawn
