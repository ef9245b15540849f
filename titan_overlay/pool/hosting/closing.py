"""Work that is called off with whoever was to wait for it."""

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Closing(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine that does something besides when it is closed: also before its first step, where its own `finally`
    would not be reached.
    """

    def __init__(self, work: Coroutine[Any, Any, T], closed: Callable[[], object]) -> None:
        self._work = work
        self._closed = closed

    def __await__(self) -> Generator[Any, Any, T]:
        return self._work.__await__()

    def send(self, value: Any) -> Any:
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()
        self._closed()
