"""A dict that can be walked through as it was at one moment while it goes on changing: for snapshots of much state.

To copy a million entries takes longer than anybody should wait. Here a walk freezes the dict as it is, and what is
written meanwhile goes into a small one beside it; when the walk is over, the small one is merged in. Whether and when
there were walks shows nowhere else, not even in the order of the keys: members of a group that walk at different times
stay the same.
"""

from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class _Again(Generic[V]):
    """A value whose key was gone meanwhile, so that it has a new place, at the end."""

    __slots__ = ("value",)

    def __init__(self, value: V) -> None:
        self.value = value


_GONE: Any = object()


class WalkableDict(MutableMapping[K, V]):
    """See the module. Values that can change are to be replaced, not changed in place."""

    __slots__ = ("_base", "_changes", "_length", "_walk")

    def __init__(self) -> None:
        self._base: dict[K, V] = {}
        self._changes: dict[K, V | _Again[V]] = {}
        """Since the walk began; empty where there is none."""
        self._length = 0
        self._walk: Iterator[tuple[K, V]] | None = None

    def __getitem__(self, key: K) -> V:
        changed = self._changes.get(key) if self._changes else None
        if changed is None and key not in self._changes:
            return self._base[key]
        if changed is _GONE:
            raise KeyError(key)
        return changed.value if isinstance(changed, _Again) else changed  # type: ignore[return-value]

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: T) -> V | T: ...
    def get(self, key: K, default: Any = None) -> Any:
        """As of a dict."""
        if not self._changes:
            return self._base.get(key, default)
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        if key in self._changes:
            return self._changes[key] is not _GONE
        return key in self._base

    def __setitem__(self, key: K, value: V) -> None:
        changes = self._changes
        if self._walk is None:
            self._base[key] = value
            self._length = len(self._base)
        elif key not in changes:
            self._length += key not in self._base
            changes[key] = value
        elif changes[key] is _GONE:
            del changes[key]
            self._length += 1
            changes[key] = _Again(value)
        else:
            changes[key] = _Again(value) if isinstance(changes[key], _Again) else value

    def __delitem__(self, key: K) -> None:
        if self._walk is None:
            del self._base[key]
            self._length = len(self._base)
        else:
            self[key]  # raises where it is gone already
            self._changes[key] = _GONE
            self._length -= 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[K]:
        if self._walk is None:
            return iter(self._base)
        return self._keys()

    def _keys(self) -> Iterator[K]:
        """While there is a walk. As with a dict, whoever adds or removes keys meanwhile cannot go on."""
        length = self._length
        for key in self._merged(dict(self._base)):
            yield key
            if self._length != length:
                raise RuntimeError("dictionary changed size during iteration")

    def clear(self) -> None:
        """As of a dict."""
        if self._walk is None:
            self._base.clear()
        else:
            self._base = {}  # the walk keeps the one that it began with
            self._changes.clear()
        self._length = 0

    def walk(self) -> Iterator[tuple[K, V]]:
        """All entries as they are now, in their order, however late they are asked for.

        One walk at a time is free; another that begins meanwhile copies the dict. A walk that is not finished is to be
        closed.
        """
        if self._walk is not None:
            return iter(self._merged(dict(self._base)).items())
        self._walk = walk = self._entries()
        next(walk)  # so that its end is seen, whenever it is closed
        return walk

    def _entries(self) -> Iterator[Any]:
        entries = self._base.items()
        try:
            yield None
            yield from entries
        finally:
            self._walk = None
            self._merged(self._base)
            self._changes.clear()

    def _merged(self, base: dict[K, V]) -> dict[K, V]:
        for key, change in self._changes.items():
            if change is _GONE:
                base.pop(key, None)
            elif isinstance(change, _Again):
                base.pop(key, None)
                base[key] = change.value
            else:
                base[key] = change
        return base
