"""The engine of a run: order, leases, retries, cycles, what people want, and that its journal is its state."""

import re
from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.unit.dag_world import Desk, World, dags, definition, dump, states
from titan_objects.dag import engine as engine_module
from titan_objects.dag.checking import upstream
from titan_objects.dag.definition import Retry, Task
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import (
    Begin,
    Cancel,
    Decide,
    Entry,
    Failure,
    Lease,
    Order,
    Release,
    Renew,
    Report,
    Rerun,
    Resume,
    Spawn,
    Success,
    Suspend,
    Tick,
    Up,
    Worker,
)
from titan_objects.dag.leases import LOST_MAX, pause
from titan_objects.dag.steps import DONE, State
from titan_objects.dag.views import view

DIAMOND = definition(
    {"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["a"]}, {"id": "d", "needs": ["b", "c"]}
)


def test_a_diamond_runs_in_its_order_and_gives_the_result_of_its_last_task() -> None:
    desk = Desk(DIAMOND)
    assert desk.run() == ["a", "b", "c", "d"]
    assert desk.engine.state is State.SUCCEEDED
    assert desk.engine.result == "d"


def test_results_and_parameters_get_where_they_are_referred_to() -> None:
    desk = Desk(
        definition(
            {"id": "a", "args": ["${params.n}", "$$5"], "inputs": {"x": ["${params.n}"]}},
            {"id": "b", "needs": ["a"], "args": ["${a.rows.1}"]},
            {"id": "c", "needs": ["a"], "call": "", "run": "echo 'one word' ${a.name}"},
            params={"n": None},
        ),
        n=7,
    )
    (order,) = desk.lease()
    assert (order.args, order.inputs) == ([7, "$5"], {"x": [7]})
    desk.step(Report("w", order.epoch, Success({"rows": [1, 2], "name": "it"})))
    called, command = desk.lease()
    assert (called.args, command.run) == ([2], ["echo", "one word", "it"])


def test_what_must_be_given_and_what_is_unknown() -> None:
    made = definition({"id": "a"}, params={"n": None})
    with pytest.raises(titan.BadMessage, match="'n' of 'it' must be given"):
        Desk(made)
    with pytest.raises(titan.BadMessage, match="no parameter 'm'"):
        Desk(made, n=1, m=2)


@pytest.mark.parametrize(
    ("task", "fails", "expected"),
    [
        ({"needs": ["a", "b"]}, "", "SUCCEEDED"),
        ({"needs": ["a", "b"]}, "a", "SKIPPED"),
        ({"needs": ["a", "b"], "trigger_rule": "all_done"}, "ab", "SUCCEEDED"),
        ({"needs": ["a", "b"], "trigger_rule": "one_failed"}, "", "SKIPPED"),
        ({"needs": ["a", "b"], "trigger_rule": "one_failed"}, "b", "SUCCEEDED"),
        ({"needs": ["a", "b"], "trigger_rule": "one_success"}, "b", "SUCCEEDED"),
        ({"needs": ["a", "b"], "trigger_rule": "all_failed"}, "b", "SKIPPED"),
        ({"needs": ["a", "b"], "trigger_rule": "none_failed"}, "", "SUCCEEDED"),
        ({"depends": "a && !b"}, "b", "SUCCEEDED"),
        ({"depends": "a.Failed || b.Failed"}, "b", "SUCCEEDED"),
        ({"needs": ["a"], "when": "a == 'a' && params.n > 2"}, "", "SUCCEEDED"),
        ({"needs": ["a"], "when": "a != 'a'"}, "", "SKIPPED"),
    ],
)
def test_a_task_runs_if_what_it_depends_on_ended_as_it_should(task: dict[str, Any], fails: str, expected: str) -> None:
    desk = Desk(definition({"id": "a"}, {"id": "b"}, {"id": "x", **task}, params={"n": 3}))
    desk.run(lambda order: Failure("Bad") if order.key in fails else order.key)
    assert states(desk.engine)["x"] == expected
    assert desk.engine.state is (State.FAILED if fails else State.SUCCEEDED)


def test_a_failure_that_does_not_count_lets_the_others_run() -> None:
    desk = Desk(definition({"id": "a", "on_failure": "ignore"}, {"id": "b", "needs": ["a"]}))
    assert desk.run(lambda order: Failure("Bad") if order.key == "a" else 1) == ["a", "b"]
    assert desk.engine.state is State.SUCCEEDED


def test_a_failure_may_end_all() -> None:
    desk = Desk(
        definition({"id": "a", "on_failure": "cancel", "priority": 1}, {"id": "b"}, {"id": "c", "needs": ["b"]})
    )
    desk.run(lambda order: Failure("Bad"))
    assert states(desk.engine) == {"a": "FAILED", "b": "CANCELLED", "c": "CANCELLED"}
    assert desk.engine.state is State.FAILED


# --- maps -----------------------------------------------------------------------------------------------------


def test_a_map_has_an_instance_for_each_item_and_a_reduce_takes_all_results() -> None:
    desk = Desk(
        definition(
            {"id": "list"},
            {"id": "each", "needs": ["list"], "map": {"over": "${list}", "max_parallel": 2}},
            {"id": "sum", "call": "", "reduce": "m:sum", "needs": ["each"]},
        )
    )
    (order,) = desk.lease()
    desk.step(Report("w", order.epoch, Success([10, 20, 30])))
    first = desk.lease()
    assert [(each.key, each.args) for each in first] == [("each[0]", [10]), ("each[1]", [20])]
    desk.step(Report("w", first[1].epoch, Success(21)))
    (third,) = desk.lease()
    assert third.key == "each[2]"
    desk.step(Report("w", first[0].epoch, Success(11)))
    desk.step(Report("w", third.epoch, Success(31)))
    (last,) = desk.lease()
    assert last.args == [[11, 21, 31]]


def test_a_map_over_nothing_has_succeeded_and_over_no_list_has_failed() -> None:
    made = definition({"id": "a", "map": {"over": "${params.n}"}}, {"id": "b", "needs": ["a"]}, params={"n": None})
    assert Desk(made, n=[]).run() == ["b"]
    desk = Desk(made, n="text")
    assert (desk.run(), desk.engine.state) == ([], State.FAILED)


# --- leases ---------------------------------------------------------------------------------------------------


def test_a_worker_that_falls_silent_loses_its_task_and_is_not_believed_any_more() -> None:
    desk = Desk(definition({"id": "a", "timeout": {"heartbeat": 10}}))
    (order,) = desk.lease("first")
    assert desk.lease("second") == []
    desk.wait(10)
    (again,) = desk.lease("second")
    assert again.epoch > order.epoch
    assert desk.step(Report("first", order.epoch, Success(1))).accepted is False
    assert desk.step(Renew("first", (order.epoch,))).lost == [order.epoch]
    assert desk.step(Report("second", again.epoch, Success(2))).accepted is True
    assert desk.engine.result == 2


def test_a_task_is_never_run_twice_because_it_is_long() -> None:
    desk = Desk(definition({"id": "a", "timeout": {"heartbeat": 10}}))
    (order,) = desk.lease("first")
    for _ in range(100):
        assert desk.step(Renew("first", (order.epoch,)), after=9).lost == []
        assert desk.lease("second") == []
    assert desk.step(Report("first", order.epoch, Success(1))).accepted


def test_nobody_reports_under_the_lease_of_another() -> None:
    desk = Desk(DIAMOND)
    (order,) = desk.lease("first")
    assert desk.step(Report("second", order.epoch, Success(1))).accepted is False
    assert states(desk.engine)["a"] == "RUNNING"


def test_what_a_worker_gives_back_others_have_at_once() -> None:
    desk = Desk(definition({"id": "a"}, {"id": "b"}))
    desk.lease("first")
    desk.step(Release("first"))
    assert [each.key for each in desk.lease("second")] == ["a", "b"]


def test_a_task_that_takes_its_workers_down_ends_some_day() -> None:
    desk = Desk(definition({"id": "a", "timeout": {"heartbeat": 1}}))
    for _ in range(LOST_MAX):
        assert desk.lease()
        desk.wait(1)
    assert (desk.lease(), desk.engine.state) == ([], State.FAILED)


# --- retries and time -----------------------------------------------------------------------------------------


def test_a_failed_attempt_is_tried_again_after_a_while() -> None:
    retry = {"max_attempts": 3, "initial": 10, "backoff": 2, "jitter": 0}
    desk = Desk(definition({"id": "a", "retry": retry}))
    assert desk.run(lambda order: Failure("Bad")) == ["a"]
    for wait in (10, 20):
        desk.wait(wait - 1)
        assert desk.lease() == []
        desk.wait(1)
        assert desk.run(lambda order: Failure("Bad")) == ["a"]
    assert desk.engine.state is State.FAILED


@pytest.mark.parametrize("failure", [Failure("ValueError"), Failure("Bad", retryable=False)])
def test_some_failures_are_not_tried_again(failure: Failure) -> None:
    desk = Desk(definition({"id": "a", "retry": {"max_attempts": 3, "non_retryable": ["ValueError"]}}))
    desk.run(lambda order: failure)
    assert desk.engine.state is State.FAILED


def test_pauses_grow_up_to_the_longest_and_are_drawn_around_their_length() -> None:
    retry = Retry(initial=1.0, backoff=3.0, max_interval=10.0, jitter=0.5)
    assert [pause(retry, attempt, 0.5) for attempt in (1, 2, 3, 1000)] == [1, 3, 9, 10]
    assert (pause(retry, 1, 0.0), pause(retry, 1, 1.0)) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("timeout", "waits", "state"),
    [({"queue": 5}, 5, "FAILED"), ({"run": 5}, 5, "FAILED"), ({"total": 5}, 5, "FAILED"), ({"run": 5}, 4, "RUNNING")],
)
def test_what_takes_too_long_has_failed(timeout: dict[str, float], waits: float, state: str) -> None:
    desk = Desk(definition({"id": "a", "timeout": timeout}))
    if "queue" not in timeout:
        desk.lease()
    desk.wait(waits)
    assert states(desk.engine)["a"] == state


def test_a_delay_is_waited_for() -> None:
    desk = Desk(definition({"id": "a", "delay": "1m"}))
    assert desk.lease() == []
    assert desk.engine.wakes_at == 60
    desk.wait(60)
    assert desk.run() == ["a"]


# --- cycles, people, spawned tasks ----------------------------------------------------------------------------


def test_a_cycle_runs_while_its_condition_holds_and_within_its_bound() -> None:
    loop = {"to": "try", "when": "judge < 3", "max": 10}
    made = definition({"id": "try"}, {"id": "judge", "needs": ["try"], "loop": loop}, {"id": "end", "needs": ["judge"]})
    scores = iter(range(100))
    assert Desk(made).run(lambda order: next(scores) if order.key == "judge" else 0) == ["try", "judge"] * 4 + ["end"]
    assert Desk(made).run(lambda order: 0) == ["try", "judge"] * 10 + ["end"]


def test_who_needs_something_inside_a_cycle_waits_for_its_last_round() -> None:
    loop = {"to": "a", "max": 3}
    made = definition({"id": "a"}, {"id": "x", "needs": ["a"]}, {"id": "b", "needs": ["a"], "loop": loop})
    assert Desk(made).run() == ["a", "b"] * 3 + ["x"]


def test_cancelling_cascades_to_what_hangs_on_it_and_fences_what_runs() -> None:
    desk = Desk(definition(*[msgspec.to_builtins(each) for each in DIAMOND.tasks], {"id": "e"}))
    orders = desk.lease()
    desk.step(Cancel("me", ("a",)))
    assert states(desk.engine) == dict.fromkeys("abcd", "CANCELLED") | {"e": "RUNNING"}
    assert [desk.step(Report("w", each.epoch, Success(1))).accepted for each in orders] == [False, True]
    assert desk.engine.state is State.CANCELLED


def test_one_instance_of_a_map_is_cancelled_and_the_next_one_has_its_turn() -> None:
    over = {"over": [1, 2, 3, 4], "max_parallel": 2}
    desk = Desk(definition({"id": "m", "map": over}, {"id": "r", "needs": ["m"]}))
    first, second = desk.lease()
    desk.step(Cancel("me", ("m[0]", "m[3]")))
    assert [each.state.value for each in desk.engine.steps["m"].instances] == [
        "CANCELLED", "RUNNING", "READY", "CANCELLED",
    ]  # fmt: skip
    assert [desk.step(Report("w", each.epoch, Success(1))).accepted for each in (first, second)] == [False, True]
    assert desk.run() == ["m[2]"]
    assert states(desk.engine) == {"m": "CANCELLED", "r": "CANCELLED"}
    desk.step(Rerun("me"))
    assert desk.run() == ["m[0]", "m[3]", "r"]
    assert desk.engine.state is State.SUCCEEDED
    with pytest.raises(titan.BadMessage, match="4 instances"):
        desk.step(Cancel("me", ("m[4]",)))


def test_a_suspended_run_begins_nothing_new() -> None:
    desk = Desk(DIAMOND)
    (order,) = desk.lease()
    desk.step(Suspend("me"))
    assert desk.step(Report("w", order.epoch, Success(1))).accepted
    assert desk.lease() == []
    assert states(desk.engine)["b"] == "SUSPENDED"
    desk.step(Resume("me"))
    assert desk.run() == ["b", "c", "d"]


def test_no_task_of_a_suspended_run_has_waited_too_long_for_a_worker() -> None:
    desk = Desk(definition({"id": "a", "timeout": {"queue": 10}}, {"id": "b", "timeout": {"queue": 10}, "delay": 25}))
    desk.wait(6)
    desk.step(Suspend("me"))
    desk.wait(100)
    assert view(desk.engine, tasks=False).counts == {"SUSPENDED": 2}
    desk.step(Resume("me"))
    desk.wait(9)
    assert view(desk.engine, tasks=False).counts == {"READY": 2}
    assert dump(Engine.replay(desk.engine.journal)) == dump(desk.engine)
    desk.wait(1)
    assert states(desk.engine) == {"a": "FAILED", "b": "FAILED"}
    desk.step(Rerun("me"))
    desk.step(Suspend("me"), 2)
    desk.step(Resume("me"))
    desk.wait(9)
    assert states(desk.engine)["a"] == "READY"
    desk.wait(1)
    assert states(desk.engine)["a"] == "FAILED"


def test_while_a_run_is_suspended_time_goes_on_for_all_that_does_not_wait_for_a_worker() -> None:
    desk = Desk(
        definition(
            {"id": "total", "timeout": {"total": 10}},
            {"id": "long", "timeout": {"run": 10}},
            {"id": "asked", "call": "", "approval": {"expires": 10}},
            {"id": "late", "delay": 10},
        )
    )
    assert [each.key for each in desk.lease()] == ["total", "long"]
    desk.step(Suspend("me"))
    desk.wait(10)
    assert view(desk.engine, tasks=False).counts == {"FAILED": 3, "SUSPENDED": 1}
    desk.step(Resume("me"))
    assert [each.key for each in desk.lease()] == ["late"]


def test_a_result_to_compare_with_is_waited_for_no_longer_than_for_any_worker() -> None:
    desk = Desk(definition({"id": "a", "verify": {}, "timeout": {"queue": 10, "heartbeat": 1000}}))
    (order,) = desk.lease(Worker("w", owner="w"))
    desk.wait(15)
    assert states(desk.engine) == {"a": "RUNNING"}
    assert desk.step(Report("w", order.epoch, Success(1))).accepted
    desk.wait(4)
    assert states(desk.engine) == {"a": "RUNNING"}
    desk.wait(1)
    assert states(desk.engine) == {"a": "FAILED"}
    assert dump(Engine.replay(desk.engine.journal)) == dump(desk.engine)


def test_what_failed_runs_again_with_all_behind_it() -> None:
    desk = Desk(DIAMOND)
    desk.run(lambda order: Failure("Bad") if order.key == "b" else 1)
    assert (desk.engine.state, states(desk.engine)["d"]) == (State.FAILED, "SKIPPED")
    desk.step(Rerun("me"))
    assert desk.run() == ["b", "d"]
    assert desk.engine.state is State.SUCCEEDED


def test_one_instance_of_a_map_runs_again_alone() -> None:
    desk = Desk(definition({"id": "m", "map": {"over": [1, 2, 3]}}, {"id": "r", "needs": ["m"], "args": ["${m}"]}))
    desk.run()
    desk.step(Rerun("me", ("m[1]",)))
    assert desk.run(lambda order: "new") == ["m[1]", "r"]
    assert desk.engine.steps["m"].result == ["m[0]", "new", "m[2]"]
    with pytest.raises(titan.BadMessage, match="3 instances"):
        desk.step(Rerun("me", ("m[3]",)))


@pytest.mark.parametrize("key", ["m[x]", "m[-1]", "m[1", "m[]", "m[1]x", "a[0]", "m[\u0661]"])
@pytest.mark.parametrize("act", [Rerun, Cancel])
def test_a_name_that_means_no_task_is_refused_and_never_taken_for_the_whole_map(act: Any, key: str) -> None:
    desk = Desk(definition({"id": "m", "map": {"over": [1, 2, 3]}}, {"id": "a"}))
    orders = desk.lease()
    with pytest.raises(titan.BadMessage, match=re.escape(repr(key))):
        desk.step(act("me", (key,)))
    assert all(desk.step(Report("w", each.epoch, Success(1))).accepted for each in orders)


def test_no_more_instances_run_again_at_once_than_ran_at_once_before() -> None:
    desk = Desk(definition({"id": "m", "map": {"over": list(range(6)), "max_parallel": 2}}))
    desk.run(lambda order: Failure("Bad") if order.key != "m[2]" else 1)
    desk.step(Rerun("me"))
    first, second = desk.lease()
    assert (first.key, second.key) == ("m[0]", "m[1]")
    desk.step(Rerun("me", ("m[2]",)))
    assert desk.lease() == []
    assert desk.step(Report("w", first.epoch, Success(1))).accepted
    assert desk.run() == ["m[2]", "m[3]", "m[4]", "m[5]"]
    assert desk.step(Report("w", second.epoch, Success(1))).accepted
    assert desk.engine.state is State.SUCCEEDED


def test_an_instance_that_is_named_twice_runs_again_once() -> None:
    desk = Desk(definition({"id": "m", "map": {"over": [1, 2, 3]}}))
    desk.run()
    desk.step(Rerun("me", ("m[1]", "m[1]", "m[01]")))
    assert desk.engine.ready == 1
    assert desk.run() == ["m[1]"]


def test_a_task_that_waits_for_approval_goes_on_or_not() -> None:
    made = definition({"id": "ask", "call": "", "approval": {"expires": "1h"}}, {"id": "go", "needs": ["ask"]})
    desk = Desk(made)
    assert states(desk.engine)["ask"] == "AWAITING_APPROVAL"
    with pytest.raises(titan.BadMessage, match="nobody's approval"):
        desk.step(Decide("go", True))
    desk.step(Decide("ask", True, "me", "it is time"), after=60)
    assert desk.run() == ["go"]
    shown = view(desk.engine, tasks=True).tasks
    assert [(each.decided, each.decided_at) for each in shown] == [("approved by me: it is time", 60.0), ("", 0.0)]
    rejected, expired = Desk(made), Desk(made)
    rejected.step(Decide("ask", False, "me", "too dear"))
    expired.wait(3600)
    for each in (rejected, expired):
        assert (states(each.engine), each.engine.state) == ({"ask": "FAILED", "go": "SKIPPED"}, State.FAILED)


def test_a_running_task_spawns_others() -> None:
    desk = Desk(definition({"id": "a"}))
    (order,) = desk.lease()
    more = definition({"id": "b", "needs": ["a"]}, {"id": "c"}, {"id": "a"}).tasks[:2]
    desk.step(Spawn("w", order.epoch, tuple(more)))
    with pytest.raises(titan.BadMessage, match="there twice"):
        desk.step(Spawn("w", order.epoch, tuple(more)))
    with pytest.raises(titan.BadMessage, match="under its lease"):
        desk.step(Spawn("thief", order.epoch, ()))
    desk.step(Report("w", order.epoch, Success(1)))
    assert sorted(desk.run()) == ["b", "c"]


# --- which comes next -----------------------------------------------------------------------------------------


def test_the_longest_way_to_the_end_goes_first_and_priority_before_it() -> None:
    chain = [{"id": "a", "estimate": 1}, {"id": "a2", "needs": ["a"], "estimate": 60}]
    others = [{"id": "b", "estimate": 50}, {"id": "c", "estimate": 2, "priority": 1}]
    assert Desk(definition(*others, *chain)).run() == ["c", "a", "a2", "b"]


def test_fairness_keys_take_turns_whoever_has_more() -> None:
    many = [{"id": f"a{n}", "fairness_key": "a"} for n in range(20)]
    few = [{"id": f"b{n}", "fairness_key": "b"} for n in range(5)]
    ran = "".join(each[0] for each in Desk(definition(*many, *few)).run())
    assert Counter(ran[:10]) == {"a": 5, "b": 5}


def test_who_likes_this_worker_best_takes_no_turn_of_another_fairness_key() -> None:
    near = [{"id": f"a{n}", "fairness_key": "a", "needs": ["p"], "affinity": "p"} for n in range(20)]
    others = [{"id": f"b{n}", "fairness_key": "b", "needs": ["p"]} for n in range(5)]
    ran = "".join(each[0] for each in Desk(definition({"id": "p"}, *near, *others)).run())
    assert Counter(ran[1:11]) == {"a": 5, "b": 5}


def test_requirements_are_strict_and_preferences_are_not() -> None:
    made = definition(
        {"id": "gpu", "requires": {"labels": {"gpu": "1"}}},
        {"id": "big", "requires": {"memory": "2G", "cores": 4}},
        {"id": "liked", "prefer": {"disk": "ssd"}},
    )
    desk = Desk(made)
    small = Worker("small", {"cpu": "1"}, cores=1.0, memory=1 << 30)
    assert [each.key for each in desk.lease(small)] == ["liked"]
    assert desk.lease(small) == []
    assert [each.key for each in desk.lease(Worker("large", {"gpu": "0"}, 4.0, 2 << 30))] == ["big"]
    assert [each.key for each in desk.lease(Worker("gpu", {"gpu": "1"}))] == ["gpu"]


def test_no_worker_is_given_more_than_it_has_cores_for() -> None:
    desk = Desk(definition(*({"id": f"t{n}", "requires": {"cores": 2}} for n in range(9))))
    assert len(desk.lease(Worker("w", cores=5.0))) == 2


def test_a_task_runs_next_to_the_one_that_it_likes() -> None:
    desk = Desk(
        definition(
            *({"id": f"p{n}"} for n in range(4)),
            *({"id": f"c{n}", "needs": [f"p{n}"], "affinity": f"p{n}"} for n in range(4)),
        )
    )
    first = {f"w{n}": desk.lease(f"w{n}", 1)[0] for n in range(4)}
    for name, order in first.items():
        desk.step(Report(name, order.epoch, Success(1)))
    for name in ("w3", "w1", "w0", "w2"):
        (order,) = desk.lease(name, 1)
        assert order.key[1:] == first[name].key[1:]


def test_a_task_runs_where_large_data_lies_that_it_needs() -> None:
    desk = Desk(definition({"id": "a"}, {"id": "b", "needs": ["a"]}, *({"id": f"z{n}"} for n in range(3))))
    (order,) = desk.lease("far", 1)
    desk.step(Report("far", order.epoch, Success({"$data": f"sha256:{'0' * 64}"})))
    assert [desk.lease(name, 1)[0].key for name in ("near", "far")] == ["z0", "b"]
    (held,) = desk.lease("near", 1)
    assert held.key == "z1"


# --- results that are compared --------------------------------------------------------------------------------


def test_a_task_that_one_worker_may_not_have_waits_for_another() -> None:
    desk = Desk(definition({"id": "a", "verify": {}}))
    (order,) = desk.lease("first")
    assert desk.lease("first") == []  # of one owner, one result
    assert desk.engine.ready == 1
    (second,) = desk.lease("second")
    for name, epoch in (("first", order.epoch), ("second", second.epoch)):
        desk.step(Report(name, epoch, Success(1, b"1")))
    assert desk.engine.state is State.SUCCEEDED


def test_results_may_agree_by_an_expression_of_ones_own() -> None:
    large = {"$data": f"sha256:{'0' * 64}"}
    for text, one, other, agree in (
        ("a.best == b.best", {"best": 1, "took": 5}, {"best": 1, "took": 6}, True),
        ("a.best == b.best", {"best": 1}, {"best": 2}, False),
        ("a == b || (a > 3 && b > 3)", 4, 5, True),
        ("a.best == b.best", large, {"best": None}, False),
    ):
        desk = Desk(definition({"id": "a", "verify": {"comparator": text}}))
        for name, value in (("first", one), ("second", other)):
            (order,) = desk.lease(name)
            desk.step(Report(name, order.epoch, Success(value, name.encode())))
        assert (desk.engine.state is State.SUCCEEDED) == agree, text


def test_a_worker_that_lies_about_its_labels_gets_the_task_and_is_outvoted() -> None:
    desk = Desk(definition({"id": "a", "requires": {"labels": {"gpu": "1"}}, "verify": {"quorum": 2}}))
    assert desk.lease("none") == []
    for name, value in (("liar", "no gpu"), ("first", "image"), ("second", "image")):
        (order,) = desk.lease(Worker(name, {"gpu": "1"}))
        desk.step(Report(name, order.epoch, Success(value, value.encode())))
    assert desk.engine.result == "image"


def test_what_others_have_begun_is_compared_before_more_is_begun() -> None:
    desk = Desk(definition({"id": "m", "map": {"over": list(range(200))}, "verify": {}}))
    (order,) = desk.lease("first", 1)
    assert [each.key for each in desk.lease("second", 2)] == [order.key, "m[1]"]
    assert len(desk.lease("first", 150)) == 150  # what it may not have does not keep it from the rest


def test_liars_are_found_out_and_who_was_right_is_believed_alone() -> None:
    made = {"id": "m", "map": {"over": list(range(1000))}, "verify": {"adaptive": True, "max_total": 30}}
    engine, random = Engine(keep_journal=False), Random(1)
    engine.step(Begin(definition(made)), 0.0)
    workers = [Worker(f"w{n}") for n in range(10)]
    for _ in range(3000):
        worker = random.choice(workers)
        for order in engine.step(Lease(worker), 0.0, random.random).orders:
            text = f"lie {random.random()}" if worker in workers[:2] else "true"
            engine.step(Report(worker.name, order.epoch, Success(text, text.encode())), 0.0, random.random)
    assert engine.state is State.SUCCEEDED
    assert set(engine.steps["m"].result) == {"true"}
    assert engine.executions < 1.8 * 1000


# --- what holds whatever happens ------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    tasks=dags(services=True),
    seed=st.integers(0, 2**32),
    death=st.sampled_from([0.0, 0.2]),
    failing=st.sampled_from([0.0, 0.3]),
)
def test_a_run_ends_and_its_journal_is_its_state(
    tasks: list[dict[str, Any]], seed: int, death: float, failing: float
) -> None:
    engine = Engine()
    world = World(engine, seed, workers=3, death=death, failing=failing)
    world.step(Begin(definition(*tasks)))

    def nothing_runs_before_its_needs(order: Order) -> None:
        step = engine.steps[re.sub(r"\[.*", "", order.key)]
        if "needs" in tasks[int(step.task.id[1:])]:
            assert all(
                engine.steps[each].state is State.SUCCEEDED
                or engine.steps[each].up
                or (engine.steps[each].state is State.FAILED and engine.steps[each].task.on_failure == "ignore")
                for each in upstream(step.task)
            )

    world.run(check=nothing_runs_before_its_needs)
    assert all(step.state in DONE for step in engine.steps.values())
    looping = any("loop" in each for each in tasks)
    succeeded = Counter(key for key, good in world.ended if good)
    assert looping or all(count == 1 for count in succeeded.values()), "each effect is committed once"
    written = msgspec.msgpack.decode(msgspec.msgpack.encode(engine.journal), type=list[Entry])
    again = Engine.replay(written)
    again.step(Tick(), world.now)  # what came to nothing is not in the journal, but for the time that passed
    assert dump(again) == dump(engine)
    assert again.journal == engine.journal


@settings(max_examples=40, deadline=None)
@given(tasks=dags(services=True), seed=st.integers(0, 2**32), events=st.lists(st.integers(0, 11), max_size=25))
def test_whatever_people_do_meanwhile_the_journal_is_the_state(
    tasks: list[dict[str, Any]], seed: int, events: list[int]
) -> None:
    engine = Engine()
    world = World(engine, seed, workers=2)
    world.step(Begin(definition(*tasks)))
    held: list[tuple[str, Order]] = []
    for kind in events:
        name = f"t{seed % len(tasks)}"
        choices: list[Any] = [
            Tick(), Cancel("me", (name,)), Suspend(), Resume(), Rerun(), Rerun("me", (name,)), Release("w0"),
            Lease(Worker("w0"), 2), Lease(Worker("w1"), 2), Renew("w0", tuple(order.epoch for _, order in held)),
            *(act("me", (each.key,)) for act in (Cancel, Rerun) for each in engine.steps[name].instances[-1:]),
        ]  # fmt: skip
        kind = min(kind, len(choices) - 1)
        world.now += world.random.random() * 4
        orders = world.step(choices[kind]).orders
        held += [(choices[kind].worker.name, each) for each in orders]
        if held and world.random.random() < 0.5:
            worker, order = held.pop()
            if order.port:
                world.step(Up(worker, order.epoch, order.key))
            else:
                world.step(Report(worker, order.epoch, Success(order.key)))
        assert engine.ready >= 0
        for step in engine.steps.values():
            assert step.task.map is None or step.active <= step.task.map.max_parallel
        again = Engine.replay(engine.journal)
        again.take_leases(engine.leases_kept())
        again.step(Tick(), world.now)
        assert dump(again) == dump(engine)
        assert again.leases_kept() == engine.leases_kept()
    world.step(Resume())
    world.run()


def test_a_run_that_was_taken_goes_on_under_a_version_that_refuses_its_definition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    careless = definition({"id": "a", "map": {"over": [1, 2]}, "cache_key": "one for all"})
    with pytest.raises(titan.BadMessage, match="cache_key"):
        Desk(careless)
    with monkeypatch.context() as earlier:
        earlier.setattr(engine_module, "check", lambda definition: None)
        desk = Desk(careless)
    again = Engine.replay(desk.engine.journal)
    assert dump(again) == dump(desk.engine) and view(again, tasks=False).counts == {"READY": 2}


def test_that_workers_are_heard_for_a_day_makes_the_journal_no_longer() -> None:
    desk = Desk(definition({"id": "long", "timeout": {"heartbeat": 30}}, {"id": "short", "timeout": {"heartbeat": 5}}))
    orders = [desk.lease("a", 1)[0], desk.lease("b", 1)[0]]
    epochs = tuple(each.epoch for each in orders if each.key == "long")
    written = len(desk.engine.journal)
    for beat in range(24 * 360):
        said = desk.step(Renew("a", epochs, {epochs[0]: beat / 8640}), after=10)
        assert said.lost == []
    assert len(desk.engine.journal) == written + 1, "of the other nothing was heard"
    assert desk.engine.wakes_at == desk.now + 30
    again = Engine.replay(desk.engine.journal)
    again.take_leases(desk.engine.leases_kept())
    again.step(Tick(), desk.now)
    assert dump(again) == dump(desk.engine)
    desk.wait(30)
    assert [each.key for each in desk.lease("c")] == ["short", "long"]
    assert dump(Engine.replay(desk.engine.journal)) == dump(desk.engine)


def test_a_chain_of_a_thousand_that_is_skipped_does_not_overflow() -> None:
    chain = [{"id": f"t{n}", "needs": [f"t{n - 1}"] if n else []} for n in range(3000)]
    desk = Desk(definition(*chain))
    desk.run(lambda order: Failure("Bad"))
    assert Counter(states(desk.engine).values()) == {"FAILED": 1, "SKIPPED": 2999}


@pytest.mark.parametrize("key", ["auto", ["v1", "${a}"]])
def test_what_is_told_under_a_cache_key_may_have_keys_of_any_kind(key: Any) -> None:
    memos = []
    for told in ({1: 2, "x": [{b"k": 1}]}, {"x": [{b"k": 1}], 1: 2}, {1: 3, "x": [{b"k": 1}]}):
        desk = Desk(definition({"id": "a"}, {"id": "b", "needs": ["a"], "args": ["${a}"], "cache_key": key}))
        (first,) = desk.step(Lease(Worker("w"))).orders
        desk.step(Report("w", first.epoch, Success(told)))
        memos += [order.memo for order in desk.step(Lease(Worker("w"))).orders]
    assert memos[0] == memos[1] != memos[2]


def test_a_run_begins_once() -> None:
    with pytest.raises(titan.BadMessage):
        Engine().step(Tick(), 0.0)
    desk = Desk(DIAMOND)
    with pytest.raises(titan.BadMessage):
        desk.step(Begin(DIAMOND))
    assert isinstance(DIAMOND.tasks[0], Task)
