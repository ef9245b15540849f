"""What runs with others below them have come to: sections are one graph again, the rest goes on where it was."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.unit.dag_world import Desk, dags, definition
from tests.unit.test_dag_children import SUB, USING, House, as_told
from tests.unit.test_dag_sections import CHAIN, home, not_cut
from titan_objects.dag import sections
from titan_objects.dag.definition import ELSEWHERE
from titan_objects.dag.journal import Failure, Success
from titan_objects.dag.plans import Plan
from titan_objects.dag.rescue import Left, Rescue, again, read_rescue, rescue_of, written
from titan_objects.dag.run import begin
from titan_objects.dag.sections import cut


def left(house: House, name: str) -> Left:
    run = house.runs[name]
    engine = run.engine
    if engine.definition is None:
        assert run.plan is not None
        engine.step(begin(run.plan, name, "ann"), house.now)
    children = {task: [left(house, each.name) for each in several] for task, several in engine.children.items()}
    return Left(name, engine, children)


def rescued(house: House) -> Rescue:
    return read_rescue(written(rescue_of(left(house, house.top))), "it.rescue")


def planned(found: Rescue) -> Plan:
    """As `resume` does."""
    below = {task: [planned(each) for each in several] for task, several in found.children.items()}
    return cut(Plan(found.definition, found.params, below, found.found))


def worked(plan: Plan, give: Any = as_told, rounds: int = 50) -> tuple[House, list[str]]:
    ran: list[str] = []
    house = House(plan)
    house.work(lambda order: ran.append(order.key) or give(order), rounds)
    return house, ran


def failing(*keys: str) -> Any:
    return lambda order: Failure("Bad", "", False) if order.key in keys else as_told(order)


def test_what_a_run_inside_another_has_come_to_comes_along() -> None:
    house, _ = worked(Plan(USING, {}, {"b": [Plan(SUB)]}), failing("out"))
    assert house.state() == "FAILED"
    house, ran = worked(planned(rescued(house)))
    assert (house.state(), house.runs[house.top].engine.result, ran) == ("SUCCEEDED", 7, ["out", "c"])


def test_where_its_result_is_known_it_does_not_begin_unless_it_is_to_run_again() -> None:
    house, _ = worked(Plan(USING, {}, {"b": [Plan(SUB)]}), failing("c"))
    found = rescued(house)
    other, ran = worked(planned(found))
    assert (other.state(), other.state("b", 0), ran) == ("SUCCEEDED", "PENDING", ["c"])
    other, ran = worked(planned(again(found, ["b"])))
    assert (other.state(), ran) == ("SUCCEEDED", ["in", "out", "c"])
    with pytest.raises(titan.BadMessage, match="no task 'x'"):
        again(found, ["x"])


def test_a_file_whose_runs_lie_too_deep_is_refused() -> None:
    found = Rescue(origin="0", definition=SUB)
    for depth in range(30):
        using = definition({"id": "u", "call": "", "uses": "it"})
        found = Rescue(origin=f"{depth}", definition=using, children={"u": [found]})
    with pytest.raises(titan.ConfigError, match="20 levels deep"):
        read_rescue(written(found), "it.rescue")


def test_sections_are_one_graph_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_TASKS", 2)
    house, _ = worked(cut(Plan(CHAIN)), failing("t3"))
    found = rescued(house)
    assert {each.id: each.needs for each in found.definition.tasks} == {each.id: each.needs for each in CHAIN.tasks}
    assert (found.definition.result, sorted(found.found.results), found.children) == ("t4", ["t0", "t1", "t2"], {})
    house, ran = worked(planned(found))
    assert (house.state(), ran) == ("SUCCEEDED", ["t3", "t4"])
    house, ran = worked(planned(again(found, ["t1"])))
    assert (house.state(), ran) == ("SUCCEEDED", ["t1", "t2", "t3", "t4"])
    monkeypatch.setattr(sections, "SECTION_TASKS", 9)
    house, ran = worked(planned(found))
    assert (len(house.runs), house.state(), ran) == (1, "SUCCEEDED", ["t3", "t4"])


def test_a_run_below_a_section_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SECTION_TASKS", 2)
    made = definition({"id": "z"}, *({"id": n, "needs": ["z"]} for n in "xy"), {"id": "b", "call": "", "uses": "sub"})
    house, _ = worked(cut(Plan(made, {}, {"b": [Plan(SUB)]})), failing("out", "y"))
    found = rescued(house)
    assert (list(found.children), list(found.children["b"][0].found.results)) == (["b"], ["in"])
    house, ran = worked(planned(found))
    assert (house.state(), sorted(ran)) == ("SUCCEEDED", ["out", "y"])


@settings(max_examples=40, deadline=None)
@given(tasks=dags(), seed=st.integers(0, 2**32), rounds=st.integers(0, 6))
def test_wherever_sections_are_left_another_run_ends_as_it_would_have(
    tasks: list[dict[str, Any]], seed: int, rounds: int
) -> None:
    made = definition(*not_cut(tasks))
    bad = {each.id for each in made.tasks if Random(f"{seed}/{each.id}").random() < 0.3}

    def give(order: Any) -> Any:
        return Failure("Bad", "", False) if order.key.partition("[")[0] in bad else Success([order.key, order.args])

    desk = Desk(made)
    desk.run(give)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sections, "SECTION_TASKS", 2)
        house, _ = worked(cut(Plan(made)), give, rounds)
        other, _ = worked(planned(rescued(house)), give)
    assert other.state() == desk.engine.state
    engines = [run.engine for run in other.runs.values()]
    for engine in engines[:-1] if len(engines) > 1 else engines:
        for name, step in engine.steps.items():
            if step.task.uses != ELSEWHERE and home(engine, name):
                assert (name, step.state) == (name, desk.engine.steps[name].state)
                assert step.result == desk.engine.steps[name].result
