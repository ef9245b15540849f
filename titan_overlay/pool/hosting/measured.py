"""How long the handlers of one call keep the loop busy: the time of their steps, not of their waits."""

import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def measured(work: Awaitable[T], clock: Callable[[], float], spend: Callable[[float], None]) -> Generator[Any, Any, T]:
    """`await` for `work`, which tells `spend` the seconds of each step."""
    steps: Any = work.__await__()
    error: BaseException | None = None
    value: Any = None
    while True:
        began = clock()
        try:
            yielded = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            spend(clock() - began)
        value = error = None
        try:
            value = yield yielded
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as why:
            error = why
