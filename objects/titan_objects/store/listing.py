"""The keys of a dict as they are at one moment, in their order, listed piece by piece while commands go on.

A dict cannot be gone through while keys come and go, and a list of a million keys holds up everybody for tens of
milliseconds. So for as long as its keys are listed, a database has a `Held` in place of the dict: that keeps the keys
that it has, and what comes and goes is noted beside it. To commands the two look alike, down to the order of keys.
Whoever needs the keys of one moment makes a `Listing` then; all that are made meanwhile share what is listed.

A piece that waits is encoded, one object: the garbage collector would else go through all the keys in it, which are far
apart in memory, and to let go of them would take as long.
"""

from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

if TYPE_CHECKING:
    from titan_objects.store.keyspace import Database, Keyspace

PIECE = 5_000
"""Keys that are listed at once: about a millisecond's work where they are far apart in memory."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class Held(MutableMapping[bytes, Any]):
    """A dict whose keys stay as they are, and what has come and gone since.

    Attributes:
        pieces: the keys of the dict, as far as they are listed, encoded; none once they all are.
        listed: they all are, and the dict has what was noted.
        listings: who wants to have the pieces.
    """

    __slots__ = ("_rest", "_space", "base", "gone", "listed", "listings", "new", "pieces")

    def __init__(self, base: dict[bytes, Any], space: "Keyspace") -> None:
        self.base = base
        self.gone: set[bytes] = set()
        self.new: dict[bytes, Any] = {}
        self.pieces: list[bytes] = []
        self.listed = False
        self.listings: WeakSet[Listing] = WeakSet()
        self._rest = iter(base)
        self._space = space
        space.held.append(self)

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

    def more(self) -> None:
        """Lists a piece. After the last one, databases have the dict again, with all that was noted."""
        if self.listed:
            return
        keys = list(islice(self._rest, PIECE))
        piece = _encode(keys)
        self.pieces.append(piece)
        for listing in self.listings:
            listing.queue.append(piece)
        if len(keys) < PIECE:
            self._settle()

    def _settle(self) -> None:
        self.listed = True
        self.pieces = []
        self._space.held.remove(self)
        for key in self.gone:
            del self.base[key]
        self.base.update(self.new)
        self.gone, self.new = set(), {}
        for database in self._space.databases:  # perhaps another one by now (SWAPDB), or none (FLUSHALL)
            if database.data is self:
                database.data = self.base


def contents(data: MutableMapping[bytes, Any]) -> MutableMapping[bytes, Any]:
    """The dict itself, where it is held."""
    return data.base if isinstance(data, Held) else data


class Listing(Iterable[bytes]):
    """The keys of a database as they are when it is made; to be gone through once.

    Attributes:
        data: what they lead to: as it is now, not as it was.
        queue: pieces that are listed and not taken, encoded.
    """

    def __init__(self, database: "Database") -> None:
        held = database.data
        if not isinstance(held, Held):
            assert isinstance(held, dict)
            held = database.data = Held(held, database.space)
        self.data: MutableMapping[bytes, Any] = held
        self.queue = deque(held.pieces)
        self._held = held
        self._gone = set(held.gone)
        self._new = list(held.new)
        held.listings.add(self)
        held.more()

    def pieces(self) -> Iterator[list[bytes]]:
        """The keys, piece by piece; those that are not listed yet are when it comes to them."""
        held, gone, queue = self._held, self._gone, self.queue
        while queue or not held.listed:
            if not queue:
                held.more()
            keys = _decode(queue.popleft())
            yield [key for key in keys if key not in gone] if gone else keys
        yield self._new

    def __iter__(self) -> Iterator[bytes]:
        return chain.from_iterable(self.pieces())
