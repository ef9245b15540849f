"""The linearizability checker, on histories whose verdict is known."""

import itertools
import random
from typing import Any

import pytest

from titan_simulations.checkers import Operation, check


def register(state: int, what: tuple[str, int]) -> tuple[int, Any]:
    """A register that is read, written, and added to."""
    action, value = what
    match action:
        case "write":
            return value, None
        case "add":
            return state + value, state + value
        case _:
            return state, state


def op(client: str, action: str, value: int, called: float, returned: float | None) -> Operation:
    """For a read, `value` is what it found; for an addition, (added, sum) is written `added * 1000 + sum`."""
    match action:
        case "read":
            return Operation(client, ("read", 0), value, called, returned)
        case "add":
            return Operation(client, ("add", value // 1000), value % 1000, called, returned)
        case _:
            return Operation(client, ("write", value), None, called, returned)


GOOD = {
    "nothing at all": [],
    "one after the other": [op("a", "write", 1, 0, 1), op("b", "read", 1, 2, 3)],
    "a read beside a write may find the old value": [op("a", "write", 1, 0, 9), op("b", "read", 0, 2, 3)],
    "a read beside a write may find the new value": [op("a", "write", 1, 0, 9), op("b", "read", 1, 2, 3)],
    "old, then new, beside one write": [
        op("a", "write", 1, 0, 9),
        op("b", "read", 0, 2, 3),
        op("b", "read", 1, 4, 5),
    ],
    "a write that never returned may have happened": [op("a", "write", 1, 0, None), op("b", "read", 1, 5, 6)],
    "a write that never returned may happen late": [
        op("a", "write", 1, 0, None),
        op("b", "read", 0, 5, 6),
        op("b", "read", 1, 7, 8),
    ],
    "a write that never returned need not happen": [op("a", "write", 1, 0, None), op("b", "read", 0, 5, 6)],
    "two writes at once, seen in either order": [
        op("a", "write", 1, 0, 9),
        op("b", "write", 2, 0, 9),
        op("c", "read", 2, 10, 11),
        op("d", "read", 2, 10, 11),
    ],
    "equal moments overlap": [op("a", "write", 1, 0, 5), op("b", "read", 0, 5, 6)],
    "additions in their order": [op("a", "add", 1001, 0, 9), op("b", "add", 1002, 0, 9), op("c", "read", 2, 9.5, 10)],
}

BAD = {
    "a read of what nobody wrote": [op("a", "write", 1, 0, 1), op("b", "read", 2, 2, 3)],
    "a stale read": [op("a", "write", 1, 0, 1), op("b", "read", 0, 2, 3)],
    "new, then old, beside one write": [
        op("a", "write", 1, 0, 9),
        op("b", "read", 1, 2, 3),
        op("c", "read", 0, 4, 5),
    ],
    "an acknowledged write that is lost": [
        op("a", "write", 1, 0, 1),
        op("a", "write", 2, 2, 3),
        op("b", "read", 1, 4, 5),
    ],
    "two readers that disagree about the order of two writes": [
        op("a", "write", 1, 0, 9),
        op("b", "write", 2, 0, 9),
        op("c", "read", 1, 10, 11),
        op("d", "read", 2, 12, 13),
    ],
    "an addition that was executed twice": [op("a", "add", 1001, 0, 1), op("b", "read", 2, 2, 3)],
    "a write that never returned and is seen before it was called": [
        op("b", "read", 1, 0, 1),
        op("a", "write", 1, 2, None),
    ],
    "a write that never returned and is taken back": [
        op("a", "write", 1, 0, None),
        op("b", "read", 1, 5, 6),
        op("b", "read", 0, 7, 8),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history(name):
    assert check(GOOD[name], register, 0).linearizable is True


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history(name):
    verdict = check(BAD[name], register, 0)
    assert verdict.linearizable is False
    assert verdict.stuck


def test_what_is_stuck_ends_with_the_operation_that_fits_nowhere():
    verdict = check(BAD["a stale read"], register, 0)
    assert [each.what[0] for each in verdict.stuck] == ["write", "read"]


def test_without_budget_it_is_undecided():
    history = [op(f"c{number}", "write", number, 0, 100) for number in range(12)]
    history.append(op("r", "read", 99, 101, 102))
    verdict = check(history, register, 0, budget=500)
    assert verdict.linearizable is None
    assert verdict.steps == 500


def brute_force(history: list[Operation]) -> bool:
    """Every subset of the pending, every order: the definition itself."""
    pending = [each for each in history if each.returned is None]
    completed = [each for each in history if each.returned is not None]
    for size in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, size):
            for order in itertools.permutations([*completed, *chosen]):
                if _respects_time(order) and _explains(order):
                    return True
    return False


def _respects_time(order: tuple[Operation, ...]) -> bool:
    return all(
        later.returned is None or later.returned >= earlier.called
        for earlier, later in itertools.combinations(order, 2)
    )


def _explains(order: tuple[Operation, ...]) -> bool:
    state = 0
    for operation in order:
        state, result = register(state, operation.what)
        if operation.returned is not None and result != operation.result:
            return False
    return True


def test_it_agrees_with_the_definition_on_small_histories():
    chance = random.Random(7)
    verdicts = []
    for _ in range(600):
        history = []
        for number in range(chance.randrange(1, 6)):
            called = chance.randrange(10)
            returned = None if chance.random() < 0.2 else called + chance.randrange(6)
            action = chance.choice(["read", "write", "add"])
            value = 1000 + chance.randrange(1, 4) if action == "add" else chance.randrange(3)
            history.append(op(f"c{number}", action, value, called, returned))
        verdict = check(history, register, 0).linearizable
        assert verdict is brute_force(history), history
        verdicts.append(verdict)
    assert 100 < sum(verdicts) < 500
