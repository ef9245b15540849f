"""Tasks, futures and handles that behave the same every run."""

import asyncio
import contextvars
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from titan_overlay.testing.loop import VirtualLoop


class _SerialHash:
    """Mixed into tasks and futures: hashes by the order in which the loop's objects were first hashed."""

    __slots__ = ()
    _loop: "VirtualLoop"
    serial: int

    def __hash__(self) -> int:
        try:
            return self.serial
        except AttributeError:
            # Lazily: most futures are never hashed, and a Python __init__ would cost each of them.
            self.serial = serial = self._loop._next_serial()  # type: ignore[misc]  # a slot of the subclasses
            return serial


class VirtualTask(_SerialHash, asyncio.Task[Any]):
    """A task that sets iterate over in the same order every run."""

    __slots__ = ("host", "serial")
    __hash__ = _SerialHash.__hash__
    host: str | None
    """IP of the simulated host it was made on (`MemoryNetwork.on_host`)."""


class VirtualFuture(_SerialHash, asyncio.Future[Any]):
    """A future that sets iterate over in the same order every run."""

    __slots__ = ("serial",)
    __hash__ = _SerialHash.__hash__


class OrderedWeakSet:
    """Async generators in the order they were started, so that shutdown closes them in that order."""

    def __init__(self) -> None:
        self._items: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def add(self, item: Any) -> None:
        self._items[item] = None

    def discard(self, item: Any) -> None:
        self._items.pop(item, None)

    def clear(self) -> None:
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._items))


class VirtualHandle(asyncio.Handle):
    """A handle that is made without asking for debug mode: a third of the cost of each callback."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: contextvars.Context | None = None) -> None:
        _fill_handle(self, callback, args, loop, context)


class VirtualTimer(asyncio.TimerHandle):
    """The same for timers; it is in the heap from the start."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Any, args: Any, loop: Any, context: contextvars.Context | None = None
    ) -> None:
        _fill_handle(self, callback, args, loop, context)
        self._when = when
        self._scheduled = True


def _fill_handle(handle: Any, callback: Any, args: Any, loop: Any, context: contextvars.Context | None) -> None:
    handle._context = contextvars.copy_context() if context is None else context
    handle._loop = loop
    handle._callback = callback
    handle._args = args
    handle._cancelled = False
    handle._repr = None
    handle._source_traceback = None
