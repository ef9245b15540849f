"""Graphs that are too large for one object: they are cut, sections tell one another, and it comes to the same."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.unit.dag_world import Desk, dags, definition, states
from tests.unit.test_dag_children import House
from titan_objects.dag import sections
from titan_objects.dag.checking import order, waits
from titan_objects.dag.definition import ELSEWHERE
from titan_objects.dag.journal import Failure, Passed, Success
from titan_objects.dag.messages import Act, Halt, Tell
from titan_objects.dag.plans import Plan
from titan_objects.dag.queue import Close
from titan_objects.dag.sections import cut
from titan_objects.dag.steps import DONE


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_TASKS", 2)


def own(plan: Plan) -> list[list[str]]:
    """The tasks of each section."""
    return [[task.id for task in each.definition.tasks if task.uses != ELSEWHERE] for each in plan.all[1:]]


CHAIN = definition(*({"id": f"t{n}", "needs": [f"t{n - 1}"] if n else []} for n in range(5)))


def test_chains_stay_together_and_each_section_knows_its_neighbours_alone() -> None:
    plan = cut(Plan(CHAIN))
    assert own(plan) == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    assert [list(each.inlets) for each in plan.all[1:]] == [[], ["t1"], ["t3"]]
    assert [list(each.outlets) for each in plan.all[1:]] == [["t1"], ["t3"], []]
    assert plan.definition.result == "section-3"


def test_results_go_from_section_to_section_and_the_last_one_is_the_runs() -> None:
    made = definition(
        {"id": "a", "args": ["${params.n}"]},
        {"id": "each", "map": {"over": "${a}"}, "needs": ["a"]},
        {"id": "b", "args": ["${each}"], "needs": ["each"]},
        {"id": "sum", "call": "", "reduce": "m:sum", "needs": ["each"]},
        {"id": "c", "args": ["${b.1}", "${sum}"], "needs": ["b", "sum"]},
        params={"n": None},
    )
    plan = cut(Plan(made, {"n": [3, 4]}))
    assert [each.params for each in plan.all[1:]] == [{"n": [3, 4]}, {}, {}]
    house = House(plan)
    house.work(lambda order: Success(sum(order.args[0]) if "sum" in order.call else list_or_sum(order.args)))
    assert (house.state(), house.runs[house.top].engine.result) == ("SUCCEEDED", 4 + 7)


def list_or_sum(args: list[Any]) -> Any:
    return args[0] if len(args) == 1 else sum(args)


def test_what_failed_elsewhere_skips_what_needs_it_and_is_the_reason_of_the_run() -> None:
    house = House(cut(Plan(CHAIN)))
    house.work(lambda order: Failure("Bad", "luck", False) if order.key == "t1" else Success())
    assert house.state() == "FAILED"
    assert [house.state(f"section-{n}", 0) for n in (1, 2, 3)] == ["FAILED", "FAILED", "SUCCEEDED"]
    assert states(house.runs[f"{house.top}-section-3-0"].engine) == {"t3": "SKIPPED", "t4": "SKIPPED"}
    _, _, why = house.runs[house.top].result(None)  # type: ignore[arg-type]
    assert "t1: Bad: luck" in why


def test_cancelling_and_suspending_reach_all_sections_and_none_runs_again_in_its_place() -> None:
    house = House(cut(Plan(CHAIN)))
    house.tell(house.top, Act("suspend"), "ann")
    assert {run.engine.state for run in house.runs.values()} == {"SUSPENDED"}
    house.tell(house.top, Act("resume"), "ann")
    house.tell(house.top, Act("cancel"), "ann")
    assert {run.engine.state for run in house.runs.values()} == {"CANCELLED"}
    for name in house.runs:
        with pytest.raises(titan.BadMessage, match="titan dag export"):
            house.tell(name, Act("rerun"), "ann")


def test_nobody_but_the_section_that_does_a_task_says_what_came_of_it() -> None:
    house = House(cut(Plan(CHAIN)))
    second = f"{house.top}-section-2-0"
    for who in ("eve", "ann", house.top, f"{house.top}-section-3-0"):
        house.tell(second, Tell(Passed("t1", "SUCCEEDED", Success("lie"))), who)
    house.tell(second, Tell(Passed("t2", "SUCCEEDED", Success("lie"))), f"{house.top}-section-1-0")
    assert states(house.runs[second].engine) == {"t1": "RUNNING", "t2": "PENDING", "t3": "PENDING"}


def test_what_is_said_to_a_section_before_it_has_begun_is_kept_for_it() -> None:
    plan = cut(Plan(CHAIN))
    house = House(plan)
    second = house.runs[f"{house.top}-section-2-0"]
    late = type(second)()
    late.start(msgspec.structs.replace(second.plan, queue=""), house.asking(f"{house.top}-section-2-0", "ann"))  # type: ignore[type-var]
    house.runs[f"{house.top}-section-2-0"] = late
    house.tell(f"{house.top}-section-2-0", Tell(Passed("t1", "SUCCEEDED")), f"{house.top}-section-1-0")
    copy = type(second)()
    for chunk in late.snapshot():
        copy.restore(chunk)
    house.runs[f"{house.top}-section-2-0"] = copy
    (go,) = [message for to, message in house.sent if to.endswith("section-2-0") and type(message).__name__ == "Go"]
    house.tell(f"{house.top}-section-2-0", go, house.top)
    assert states(copy.engine)["t2"] == "READY"


@pytest.mark.parametrize(
    "task",
    [
        {"id": "d", "needs": ["c"], "loop": {"to": "a", "max": 2}},
        {"id": "d", "needs": ["c"], "on_failure": "cancel"},
        {"id": "d", "call": "", "run": "serve", "type": "service", "service": {"port": 80}},
    ],
)
def test_what_reaches_beyond_its_neighbours_keeps_a_graph_whole_and_within_a_bound(
    task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = [{"id": "a"}, {"id": "b", "needs": ["a"]}, {"id": "c", "needs": ["b"]}]
    made = definition(*chain, task)
    assert cut(Plan(made)).definition is made
    monkeypatch.setattr(sections, "WHOLE_BYTES", 100)
    with pytest.raises(titan.BadMessage, match=r"task 'd' .* lies in one object: let a map"):
        cut(Plan(made))


def test_a_task_that_needs_too_many_for_one_object_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "WHOLE_BYTES", 2000)
    made = definition(*({"id": f"t{n}"} for n in range(100)), {"id": "all", "needs": [f"t{n}" for n in range(100)]})
    with pytest.raises(titan.BadMessage, match="need too many others"):
        cut(Plan(made))
    with pytest.raises(titan.BadMessage, match="no such task"):
        cut(Plan(definition(*({"id": f"t{n}", "needs": ["x"]} for n in range(3)))))


async def test_runs_that_do_a_task_of_a_section_are_its_own_and_those_never_begun_leave_the_queue() -> None:
    sub = Plan(definition({"id": "s"}))
    made = definition(*CHAIN_TASKS, {"id": "u", "call": "", "uses": "sub", "needs": ["t1"]})
    plan = cut(Plan(made, {}, {"u": [sub]}))
    assert [list(each.children) for each in plan.all[1:] if each is not sub] == [[], ["u"]]
    house = House(plan)
    house.work(lambda order: Failure("Bad", "", False))
    assert house.state() == "FAILED"
    name = next(each for each in house.runs if each.endswith("-u-0"))
    assert (name, Halt(0)) in house.sent
    assert ("dag", Close(name, "CANCELLED")) in house.sent


CHAIN_TASKS: list[dict[str, Any]] = [{"id": "t0"}, {"id": "t1", "needs": ["t0"]}]


def not_cut(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in each.items() if k != "loop" and v != "cancel"} for each in tasks]


@settings(max_examples=60, deadline=None)
@given(tasks=dags(), seed=st.integers(0, 2**32))
def test_in_sections_it_comes_to_the_same(tasks: list[dict[str, Any]], seed: int) -> None:
    made = definition(*not_cut(tasks))
    failing = {each.id for each in made.tasks if Random(f"{seed}/{each.id}").random() < 0.3}

    def give(order: Any) -> Any:
        name = order.key.partition("[")[0]
        return Failure("Bad", "luck", False) if name in failing else Success([order.key, order.args])

    desk = Desk(made)
    desk.run(give)
    house = House(cut(Plan(made)))
    house.work(give)
    assert house.state() == desk.engine.state
    found: dict[str, str] = {}
    for name, run in house.runs.items():
        if name != house.top:
            assert run.engine.state in DONE
            found |= {each: state for each, state in states(run.engine).items() if home(run.engine, each)}
    if len(house.runs) > 1:
        assert found == states(desk.engine)


def home(engine: Any, name: str) -> bool:
    return bool(engine.steps[name].task.uses != ELSEWHERE)


def test_a_hundred_thousand_tasks_are_cut_in_seconds_and_no_section_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_TASKS", 400)
    rows, width = 100, 100
    tasks = [
        {"id": f"t{row}-{column}", "needs": [f"t{row - 1}-{(column + n) % width}" for n in range(2)] if row else []}
        for row in range(rows)
        for column in range(width)
    ]
    plan = cut(Plan(definition(*tasks)))
    assert sorted(name for names in own(plan) for name in names) == sorted(each["id"] for each in tasks)
    assert max(len(each.definition.tasks) for each in plan.all) < 2 * 400
    assert [order(waits(each.definition.tasks)) for each in plan.all]
