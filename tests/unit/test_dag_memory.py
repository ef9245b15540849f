"""What runs remember from one to the next: results under their memo, and records of workers; and who may say so."""

from typing import Any

import pytest

import titan_overlay as titan
from tests.unit.dag_world import Desk, definition
from tests.unit.test_dag_senders import VOICE, Asking, as_run, by, key, run, sender, space
from titan_objects.dag import memory as memories
from titan_objects.dag.journal import Begin, Success, Worker
from titan_objects.dag.memory import Admit, Forget, Learn, Memory, Recall, data_in
from titan_objects.dag.messages import Done, Sync
from titan_objects.dag.run import JUDGED_AT_ONCE
from titan_objects.dag.verifying import TRUSTED, Judged

NAME = f"{space('ann')}/dag/memory"
ANN, BOB, EVE = (key(name).hex()[:32] for name in ("ann", "bob", "eve"))


def at_home(name: str) -> Any:
    """As the memory sees who asks."""
    return Asking(sender(name), NAME)


def memory() -> Memory:
    made = Memory()
    made.results, made.records, made.runs = {}, {}, []  # as an object of a pool has its own
    made.admit(Admit(VOICE), at_home("ann"))
    return made


def memo_of(task: dict[str, Any], *, workers: tuple[str, ...] = (), **more: Any) -> str:
    desk = Desk(definition({"id": "a", "cache_key": "auto", **task}, params={"n": 1, **more}, code="sha256:1"))
    again = Desk.__new__(Desk)
    again.engine, again.now = type(desk.engine)(), 0.0
    again.step(Begin(desk.engine.definition, {}, workers=workers))  # type: ignore[arg-type]
    (order,) = again.lease(count=1)
    return order.memo


def test_a_memo_is_made_of_what_is_done_and_of_whose_word_is_taken_for_it() -> None:
    same = memo_of({"args": ["${params.n}"]})
    assert same == memo_of({"id": "b", "args": [1], "priority": 5, "retry": {"max_attempts": 3}})
    others = [
        memo_of({"args": ["${params.n}"]}, n=2),
        memo_of({"args": [1], "call": "m:g"}),
        memo_of({"args": [1], "verify": {}}),
        memo_of({"args": [1], "verify": {"quorum": 3, "max_total": 9}}),
        memo_of({"args": [1]}, workers=(BOB,)),
        memo_of({"call": "", "run": "f 1"}),
    ]
    assert len({same, *others}) == len(others) + 1


def test_an_expression_of_ones_own_stands_in_the_place_of_code_and_inputs() -> None:
    mine = memo_of({"args": [1], "cache_key": ["v2", "${params.n}"]})
    assert mine == memo_of({"args": [7], "cache_key": ["v2", 1]})
    assert mine != memo_of({"args": [1], "cache_key": ["v3", 1]})
    assert mine != memo_of({"args": [1], "call": "m:g", "cache_key": ["v2", 1]})


def test_a_run_tells_its_owners_memory_what_it_believes_and_nothing_that_was_known() -> None:
    made = run({"id": "a", "cache_key": "auto"}, {"id": "b", "cache_key": "auto", "args": [1]}, records={})
    first, second = made.sync(Sync(Worker("w", cores=2.0), 2), by("bob")).orders
    ending = by("bob")
    made.sync(
        Sync(Worker("w"), 0, [Done(first.epoch, Success(1)), Done(second.epoch, Success(2, recalled=True))]), ending
    )
    assert (NAME, Learn({first.memo: Success(1)})) in ending.later
    assert [name for name, _ in ending.later].count(NAME) == 1


def test_records_of_workers_reach_the_memory_in_heaps_and_a_liar_at_once() -> None:
    made = run({"id": "m", "map": {"over": list(range(200))}, "verify": {"adaptive": True}}, records={})
    told: list[Learn] = []

    def turn(who: str, lies: bool = False) -> None:
        asking = by(who)
        orders = made.sync(Sync(Worker("w", cores=64.0), 64), asking).orders
        done = [Done(each.epoch, Success(1, who.encode() if lies else b"true")) for each in orders]
        made.sync(Sync(Worker("w"), 0, done), asking)
        told.extend(message for _, message in asking.later if isinstance(message, Learn))

    turn("bob")
    turn("cat")
    assert sum(each.valid for each in told[0].judged.values()) >= JUDGED_AT_ONCE
    turn("bob")
    turn("eve", lies=True)
    told.clear()
    turn("cat")
    assert told[0].judged[EVE] == Judged(0, broken=True)


def test_who_was_right_in_other_runs_is_believed_alone_from_the_beginning() -> None:
    made = {"id": "m", "map": {"over": list(range(100))}, "verify": {"adaptive": True}}
    known = {BOB: 100 * TRUSTED, EVE: TRUSTED}
    executions = {}
    for name, records in (("new", {}), ("known", known)):
        one = run(made, records=records)
        orders = one.sync(Sync(Worker("w", cores=100.0), 100), by("bob")).orders
        one.sync(Sync(Worker("w"), 0, [Done(each.epoch, Success(1)) for each in orders]), by("bob"))
        executions[name] = one.engine.steps["m"].done
    assert executions["new"] == 0
    assert executions["known"] > 80
    assert len(one.sync(Sync(Worker("w", cores=100.0), 100), by("eve")).orders) + executions["known"] == 100


def test_judgements_add_up_and_an_invalid_result_takes_all_trust_away() -> None:
    assert Judged(3).behind(4) == 7
    assert Judged(1, broken=True).behind(50) == 1
    assert Judged(9).then(Judged(0, broken=True)).then(Judged(2)) == Judged(2, broken=True)


def test_nobody_but_runs_of_its_owner_write_into_a_memory() -> None:
    made = memory()
    lie = Learn({"memo": Success("lie")}, {EVE: Judged(1000)})
    assert not made.learn(lie, by("eve"))
    assert not made.learn(lie, by("ann"))
    assert (made.results, made.records) == ({}, {})
    for message in (Admit(key("eve")), Forget(True, True)):
        with pytest.raises(titan.Forbidden, match="in whose space"):
            getattr(made, type(message).__name__.lower())(message, at_home("eve"))
    assert made.learn(Learn({"memo": Success(1)}, {BOB: Judged(5)}), as_run())
    assert made.recall(Recall("memo")) == Success(1)
    assert made.admit(Admit(VOICE), at_home("ann")) == {BOB: 5}
    made.learn(Learn(judged={BOB: Judged(0, broken=True)}), as_run())
    assert made.records == {}
    made.forget(Forget(True, False), at_home("ann"))
    assert made.recall(Recall("memo")) is None


def test_a_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memories, "RECORDS_MAX", 3)
    monkeypatch.setattr(memories, "RUNS_MAX", 2)
    monkeypatch.setattr(memories, "RESULTS_BYTES_MAX", 500)
    made = memory()
    made.learn(Learn({str(n): Success("x" * 100) for n in range(10)}), as_run())
    assert list(made.results) == ["6", "7", "8", "9"]
    made.learn(Learn({"9": Success("y")}), as_run())
    assert made.size == sum(memories._size(each) for each in made.results.values()) <= 500
    made.learn(Learn(judged={str(n): Judged(n) for n in range(1, 9)}), as_run())
    assert sorted(made.records.values()) == [6, 7, 8]
    for voice in (b"1", b"2"):
        made.admit(Admit(voice), at_home("ann"))
    assert not made.learn(Learn({"late": Success(1)}), as_run())


def test_names_of_data_are_found_however_deep() -> None:
    assert data_in({"a": [{"$data": "sha256:1"}], "b": "text", "c": ("sha256:2",)}) == ["sha256:1", "sha256:2"]
