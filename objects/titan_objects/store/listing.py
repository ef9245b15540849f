"""The keys of a database as they are at one moment, in their order, listed piece by piece while commands go on.

A dict cannot be gone through while keys come and go, and a list of a million keys holds up everybody for tens of
milliseconds. So for as long as its keys are listed, a database has a `Held` in place of its dict: the dict keeps the
keys that it has, and what comes and goes is noted beside it. To commands the two look alike, down to the order of keys.
"""

from collections import deque
from collections.abc import Iterator, MutableMapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titan_objects.store.keyspace import Database

PIECE = 20_000
"""Keys that are listed at once: less than a millisecond's work."""


class Held(MutableMapping[bytes, Any]):
    """A dict whose keys stay as they are, and what has come and gone since."""

    __slots__ = ("base", "gone", "listing", "new")

    def __init__(self, base: dict[bytes, Any], listing: "Listing") -> None:
        self.base = base
        self.listing = listing
        self.gone: set[bytes] = set()
        self.new: dict[bytes, Any] = {}

    def _kept(self, key: bytes) -> bool:
        return key in self.base and key not in self.gone

    def __contains__(self, key: object) -> bool:
        return key in self.new or (key in self.base and key not in self.gone)

    def __getitem__(self, key: bytes) -> Any:
        return self.base[key] if self._kept(key) else self.new[key]

    def get(self, key: bytes, default: Any = None) -> Any:
        return self.base[key] if self._kept(key) else self.new.get(key, default)

    def __setitem__(self, key: bytes, value: Any) -> None:
        if self._kept(key):
            self.base[key] = value
        else:
            self.new[key] = value

    def __delitem__(self, key: bytes) -> None:
        if self._kept(key):
            self.gone.add(key)
        else:
            del self.new[key]

    def __iter__(self) -> Iterator[bytes]:
        kept = (key for key in self.base if key not in self.gone) if self.gone else self.base
        return chain(kept, self.new)

    def __len__(self) -> int:
        return len(self.base) - len(self.gone) + len(self.new)

    def settled(self) -> dict[bytes, Any]:
        """The dict, with all that was noted."""
        for key in self.gone:
            del self.base[key]
        self.base.update(self.new)
        self.gone, self.new = set(), {}
        return self.base


def contents(data: MutableMapping[bytes, Any]) -> MutableMapping[bytes, Any]:
    """The dict itself, where it is held."""
    return data.base if isinstance(data, Held) else data


class Listing:
    """Lists the keys of a database as they are when it is made; ends when it has, or by `close`.

    One that is under way when another begins lists the rest at once.
    """

    def __init__(self, database: "Database") -> None:
        if isinstance(database.data, Held):
            database.data.listing.finish()
        self._databases = database.space.databases
        self._pieces: deque[list[bytes]] = deque()
        assert isinstance(database.data, dict)
        self._rest = iter(database.data)
        self._held: Held | None = Held(database.data, self)
        database.data = self._held

    def more(self) -> bool:
        """Lists a piece, if that is left to do; False: all are listed."""
        if self._held is not None:
            piece = list(islice(self._rest, PIECE))
            self._pieces.append(piece)
            if len(piece) < PIECE:
                self.close()
        return self._held is not None

    def finish(self) -> None:
        """Lists the rest."""
        while self.more():
            pass

    def close(self) -> None:
        """Lists no more. The database has its dict again, unless it was emptied meanwhile."""
        held, self._held = self._held, None
        for database in self._databases:
            if held is not None and database.data is held:  # perhaps another database by now: SWAPDB
                database.data = held.settled()

    def __iter__(self) -> Iterator[bytes]:
        """Takes the keys; those that are not listed yet are when it comes to them."""
        while self._pieces or self._held is not None:
            if not self._pieces:
                self.more()
            piece = self._pieces.popleft()
            piece.reverse()
            while piece:
                yield piece.pop()
