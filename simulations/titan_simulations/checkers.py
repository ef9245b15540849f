"""Is a history of operations linearizable? The search of Wing and Gong, with Lowe's memory.

Wing and Gong, "Testing and Verifying Concurrent Objects" (1993): try every order that respects real time, depth first.
Lowe, "Testing for Linearizability" (2017): never look twice at the same set of operations done with the same state.
Objects are checked apart (linearizability is local: Herlihy and Wing, 1990), which keeps the searches small.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import msgspec

PENDING: Final = None
"""`Operation.returned` of one that never did."""


class Operation(msgspec.Struct, frozen=True):
    """One operation as its client saw it. Moments are numbers of any kind; equal moments count as overlapping."""

    client: str
    what: Any
    result: Any
    """What came back; of a pending one, nothing is known."""
    called: float
    returned: float | None
    """None: pending. It may have taken effect at any moment since, or never."""


Step = Callable[[Any, Any], tuple[Any, Any]]
"""(state, what) -> (state afterwards, result), as one machine alone would do it. States are hashable."""


class Verdict(msgspec.Struct, frozen=True):
    """What a check found."""

    linearizable: bool | None
    """None: undecided, the budget was used up."""
    steps: int
    stuck: tuple[Operation, ...] = ()
    """Not linearizable: the longest order that was found, and behind it the first operation that fits nowhere."""


class _Event:
    """Call or return of an operation, in a doubly linked list by time."""

    __slots__ = ("bit", "following", "next", "operation", "previous")

    def __init__(self, operation: Operation, bit: int, following: "_Event | None") -> None:
        self.operation = operation
        self.bit = bit
        self.following = following  # of a call: its return, if there is one
        self.next: _Event | None = None
        self.previous: _Event | None = None

    @property
    def is_call(self) -> bool:
        return self.bit >= 0

    def lift(self) -> None:
        """Takes a call and its return out of the list; the events themselves remember where they were."""
        for event in (self, self.following):
            if event is not None:
                if event.previous is not None:
                    event.previous.next = event.next
                if event.next is not None:
                    event.next.previous = event.previous

    def put_back(self) -> None:
        """Undoes the last `lift`."""
        for event in (self.following, self):
            if event is not None:
                if event.previous is not None:
                    event.previous.next = event
                if event.next is not None:
                    event.next.previous = event


def check(history: Sequence[Operation], step: Step, initial: Hashable, budget: int = 1_000_000) -> Verdict:
    """Whether the operations on one object can be put in an order.

    The order gives every operation a moment between its call and its return, and every result is that of `step`.

    Args:
        budget: steps of the search (each a call of `step`), after which it is undecided.
    """
    head = _linked(history)
    completed = sum(operation.returned is not PENDING for operation in history)
    state: Any = initial
    done, steps = 0, 0
    seen: set[tuple[int, Any]] = set()
    stack: list[tuple[_Event, Any]] = []
    longest: tuple[Operation, ...] = ()
    event = head.next
    while completed:
        if event is not None and event.is_call:
            if steps >= budget:
                return Verdict(None, steps)
            steps += 1
            operation = event.operation
            after, result = step(state, operation.what)
            mark = (done | 1 << event.bit, after)
            if (operation.returned is PENDING or result == operation.result) and mark not in seen:
                seen.add(mark)
                stack.append((event, state))
                state, done = after, mark[0]
                completed -= operation.returned is not PENDING
                event.lift()
                event = head.next
            else:
                event = event.next
            continue
        # A return whose operation has found no place yet: something before it was placed wrongly.
        if event is not None and len(stack) >= len(longest):
            longest = (*(placed.operation for placed, _ in stack), event.operation)
        if not stack:
            return Verdict(False, steps, longest)
        event, state = stack.pop()
        done &= ~(1 << event.bit)
        completed += event.operation.returned is not PENDING
        event.put_back()
        event = event.next
    return Verdict(True, steps)


def _linked(history: Sequence[Operation]) -> _Event:
    """The events in the order of time, behind a head; calls before returns of the same moment."""
    events: list[tuple[float, int, int, _Event]] = []
    for number, operation in enumerate(sorted(history, key=lambda each: each.called)):
        returns = None
        if operation.returned is not PENDING:
            returns = _Event(operation, -1, None)
            events.append((operation.returned, 1, number, returns))
        events.append((operation.called, 0, number, _Event(operation, number, returns)))
    events.sort(key=lambda each: each[:3])
    head = last = _Event(Operation("", None, None, 0.0, None), -1, None)
    for *_, event in events:
        last.next, event.previous = event, last
        last = event
    return head
