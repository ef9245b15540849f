"""A run that is rescued: another one takes over what was finished, and runs the rest."""

from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.unit.dag_world import Desk, World, dags, definition, dump, states
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Adopt, Begin, Decide, Failure, Report, Rerun, Spawn, Success
from titan_objects.dag.rescue import MAGIC, Left, Rescue, data_named, parts, read_rescue, rescue_of, written
from titan_objects.dag.steps import State


def again(desk: Desk) -> Desk:
    """A run that goes on from this one, by way of a file."""
    found = read_rescue(written(rescue_of(Left("~me/dag/1", Engine.replay(desk.engine.journal)))), "it.rescue")
    other = Desk(found.definition, **found.params)
    for part in parts(found.found):
        other.step(part)
    return other


def test_what_has_succeeded_is_not_run_again_and_its_results_are_what_they_were() -> None:
    desk = Desk(
        definition({"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]}, {"id": "d", "needs": ["a"]})
    )
    values = {"a": {1: b"bytes"}, "b": [1.5, None]}
    for _ in values:
        (order,) = desk.lease(count=1)
        desk.step(Report("w", order.epoch, Success(values[order.key], b"digest", {"out": "sha256:1"})))
    desk.lease(count=1)
    other = again(desk)
    assert other.engine.steps["a"].instances[0].result == desk.engine.steps["a"].instances[0].result
    assert other.engine.steps["b"].result == [1.5, None]
    assert sorted(other.run()) == ["c", "d"]
    assert other.engine.state is State.SUCCEEDED


def test_what_has_failed_runs_again_with_all_behind_it() -> None:
    desk = Desk(
        definition(
            {"id": "a", "map": {"over": [1, 2, 3]}},
            {"id": "after", "depends": "a.Failed"},
            {"id": "whatever", "depends": "a.Done"},
            {"id": "beside"},
        )
    )
    desk.run(lambda order: Failure("Bad") if order.key == "a[1]" else order.key)
    assert states(desk.engine) == {"a": "FAILED", "after": "SUCCEEDED", "whatever": "SUCCEEDED", "beside": "SUCCEEDED"}
    other = again(desk)
    assert other.run() == ["a[1]", "whatever"]
    assert other.engine.steps["a"].result == ["a[0]", "a[1]", "a[2]"]
    assert states(other.engine)["after"] == "SKIPPED"


@pytest.mark.parametrize("done", [{0, 1, 2}, {7, 8, 9}, {1, 4, 8}, set(range(10))])
def test_of_a_map_that_runs_a_few_at_once_the_missing_ones_run(done: set[int]) -> None:
    for over in (list(range(10)), "${list}"):
        tasks: list[dict[str, Any]] = [{"id": "m", "map": {"over": over, "max_parallel": 2}}]
        if over == "${list}":
            tasks = [{"id": "list"}, {**tasks[0], "needs": ["list"]}]
        desk = Desk(definition(*tasks))
        results = {f"m[{n}]": Success(f"m[{n}]") for n in done}
        desk.step(Adopt({**results, **({"list": Success(list(range(10)))} if len(tasks) > 1 else {})}))
        assert {f"m[{n}]" for n in range(10) if n not in done} == set(desk.run())
        assert desk.engine.steps["m"].result == [f"m[{n}]" for n in range(10)]


def test_no_more_of_a_map_run_at_once_because_one_runs_again_or_came_from_elsewhere() -> None:
    desk = Desk(definition({"id": "m", "map": {"over": list(range(12)), "max_parallel": 2}}))
    for turn in range(12):
        orders = desk.lease()
        assert desk.engine.leases <= 2 + (turn == 3), "it runs again at once, and those that run go on"
        if turn == 2:
            desk.step(Rerun(tasks=("m[0]",)))
        if turn == 5:
            desk.step(Adopt({"m[9]": Success("m[9]")}))
        for order in orders[:2]:
            desk.step(Report("w", order.epoch, Success(order.key)))
    assert desk.engine.state is State.SUCCEEDED and desk.engine.result == [f"m[{n}]" for n in range(12)]


def test_a_map_of_very_many_that_are_there_already_does_not_overflow() -> None:
    desk = Desk(
        definition({"id": "list"}, {"id": "m", "needs": ["list"], "map": {"over": "${list}", "max_parallel": 1}})
    )
    desk.step(Adopt({f"m[{n}]": Success(n) for n in range(5000)}))
    desk.step(Adopt({"list": Success(list(range(5000)))}))
    assert desk.engine.state is State.SUCCEEDED


def test_a_cycle_goes_on_in_the_round_that_it_was_in() -> None:
    tasks = {"id": "a"}, {"id": "b", "needs": ["a"], "loop": {"to": "a", "max": 3}}, {"id": "c", "needs": ["b"]}
    desk = Desk(definition(*tasks))
    for key in ("a", "b", "a"):
        (order,) = desk.lease(count=1)
        assert order.key == key
        desk.step(Report("w", order.epoch, Success(key)))
    assert again(desk).run() == ["b", "a", "b", "c"]
    desk.run()
    assert again(desk).engine.state is State.SUCCEEDED


def test_what_was_approved_stays_approved() -> None:
    gate = {"approval": {"message": "?"}, "call": ""}
    desk = Desk(definition({"id": "a"}, {"id": "one", "needs": ["a"], **gate}, {"id": "two", "needs": ["one"], **gate}))
    desk.run()
    desk.step(Decide("one", True))
    other = again(desk)
    assert states(other.engine) == {"a": "SUCCEEDED", "one": "SUCCEEDED", "two": "AWAITING_APPROVAL"}


def test_spawned_tasks_come_along_and_no_epoch_comes_twice() -> None:
    desk = Desk(definition({"id": "a"}, {"id": "b", "needs": ["a"]}))
    (order,) = desk.lease()
    desk.step(Spawn("w", order.epoch, definition({"id": f"a-in-{order.epoch}"}).tasks))  # type: ignore[arg-type]
    desk.step(Report("w", order.epoch, Success(1)))
    other = again(desk)
    assert {each.epoch for each in other.lease()}.isdisjoint({1}) and set(states(other.engine)) == {"a", "a-in-1", "b"}
    assert sorted(again(other).run()) == ["a-in-1", "b"]
    assert other.engine.result_task == "b"


@settings(max_examples=50, deadline=None)
@given(tasks=dags(), seed=st.integers(0, 2**32), cut=st.integers(1, 12))
def test_wherever_a_run_is_cut_the_other_ends_as_it_would_have(
    tasks: list[dict[str, Any]], seed: int, cut: int
) -> None:
    whole = World(Engine(), seed, workers=2)
    whole.step(Begin(definition(*tasks)))
    whole.run()
    first = World(Engine(), seed, workers=2, death=0.2)
    first.step(Begin(definition(*tasks)))
    with suppress(AssertionError):
        first.run(rounds=cut)
    found = rescue_of(Left("it", Engine.replay(first.engine.journal)))
    second = World(Engine(), seed + 1, workers=2)
    second.step(Begin(found.definition, found.params))
    for part in parts(found.found):
        second.step(part)
    second.run()
    assert states(second.engine) == states(whole.engine) and second.engine.result == whole.engine.result
    if not any("loop" in each for each in tasks):
        committed = Counter(key for key, _ in [*first.ended, *second.ended])
        assert all(count == 1 for count in committed.values())
    replayed = Engine.replay(second.engine.journal)
    assert dump(replayed) == dump(second.engine)


def test_data_is_found_wherever_it_is_named() -> None:
    def name(n: int) -> str:
        return f"sha256:{n:064x}"

    found = Rescue(
        origin="it",
        definition=definition({"id": "a", "args": [{"$data": name(1)}]}),
        params={"p": {"deep": [{"$data": name(2)}]}},
        found=Adopt({"a": Success({"$data": name(3)}, files={"f": name(4), "g": "no name"})}),
    )
    assert data_named(found) == {name(n) for n in (1, 2, 3, 4)}


GOOD = Rescue(origin="it", definition=definition({"id": "a"}, {"id": "m", "map": {"over": [1]}}), found=Adopt())


def plain(**changes: Any) -> bytes:
    return MAGIC + msgspec.msgpack.encode({**msgspec.to_builtins(GOOD, builtin_types=[bytes]), **changes})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no rescue file"),
        (b"titan-dag-rescue 2\n", "newer version"),
        (written(GOOD)[:-1], "damaged, or not all of it"),
        (plain(more=1), "unknown field `more`"),
        (plain(params=[]), "params: Expected `object`"),
        (plain(definition={"name": "x", "tasks": [{"id": "a b"}]}), r"definition.tasks\[0\].id: Expected"),
        (plain(definition={"name": "x", "tasks": [{"id": "a"}]}), "task 'a': it does nothing"),
        (plain(params={"x": 1}), "no parameter 'x'"),
        (written(msgspec.structs.replace(GOOD, found=Adopt({"b": Success()}))), "no task 'b'"),
        (written(msgspec.structs.replace(GOOD, found=Adopt({"m": Success()}))), r"not 'm'"),
        (written(msgspec.structs.replace(GOOD, found=Adopt({"a[0]": Success()}))), r"not 'a\[0\]'"),
        (written(msgspec.structs.replace(GOOD, data={"sha256:00": b"x"})), "data.sha256:00: these bytes"),
        (written(msgspec.structs.replace(GOOD, code={"a.py": b"", "b.py": b""})), "one Python file or one package"),
        *(
            (written(msgspec.structs.replace(GOOD, code={name: b""})), "code: .* is no name, or lies outside of it")
            for name in ("a/../../b.py", "/a.py", "..", ".", "", "a\0.py")
        ),
        (written(msgspec.structs.replace(GOOD, code={"é" * 128 + ".py": b""})), "code: 'é+'.* has a part of more than"),
        (written(msgspec.structs.replace(GOOD, code={"a": b"", "a/b.py": b""})), "'a/b.py' lies in is a file"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(titan.ConfigError, match=r"^it.rescue: .*" + says):
        read_rescue(data, "it.rescue")


def test_nothing_is_rescued_of_a_run_that_has_not_begun() -> None:
    with pytest.raises(titan.BadMessage, match="has not begun"):
        rescue_of(Left("it", Engine()))
