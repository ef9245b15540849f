"""Runs that do tasks of other runs: who tells whom what, what is planned, and that no object holds it all."""

from random import Random
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from tests.unit.dag_world import definition, dump, states
from tests.unit.test_dag_senders import Asking, key, sender, space
from titan_objects.dag import children
from titan_objects.dag import run as run_module
from titan_objects.dag.children import planned
from titan_objects.dag.cli import _shown
from titan_objects.dag.client import starting
from titan_objects.dag.definition import Definition
from titan_objects.dag.definitions import Definitions, SetHead
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Begin, Child, Failure, Success, Tick, Worker
from titan_objects.dag.messages import Act, Done, Ended, Go, Halt, Look, Result, Results, Sync, TakeOver
from titan_objects.dag.plans import Plan
from titan_objects.dag.rescue import parts
from titan_objects.dag.run import Run
from titan_objects.dag.steps import DONE
from titan_objects.dag.values import there
from titan_objects.dag.views import RunView, TaskView
from titan_overlay.pool.context import Sender

Give = Any


class House:
    """Runs that tell one another things, and workers that do what they are given."""

    def __init__(self, plan: Plan) -> None:
        self.runs: dict[str, Run] = {}
        self.sent: list[tuple[str, Any]] = []
        self.now = 1000.0
        self.top = f"{space('ann')}/dag/1"
        self._name(plan, self.top)
        self._start(plan, None)

    def _name(self, plan: Plan, name: str) -> None:
        plan.me = Child(name, key(name))
        for task, plans in plan.children.items():
            for n, each in enumerate(plans):
                self._name(each, f"{name}-{task}-{n}")

    def _start(self, plan: Plan, parent: Child | None) -> None:
        for each in [each for plans in plan.children.values() for each in plans]:
            self._start(each, plan.run)
        name = plan.run.name
        self.runs[name] = Run()
        self.runs[name].start(starting(plan, [], "dag", parent, None), self.asking(name, "ann"))
        for part in parts(plan.found) if plan.found else ():
            self.tell(name, TakeOver(part), "ann")
        self.deliver(name)

    def asking(self, run: str, who: str) -> Any:
        whose = Sender(cast(Any, key(who)), key(who)) if who in self.runs else sender(who)
        self.context = Asking(whose, run, self.now, key(run))
        return self.context

    def deliver(self, name: str) -> None:
        """Brings what a run has said to others, and what these say then."""
        later, self.context.later = self.context.later, []
        for to, message in later:
            self.sent.append((to, message))
            if to in self.runs:
                self.tell(to, message, name)

    def tell(self, to: str, message: Any, who: str) -> Any:
        method = {TakeOver: "take_over"}.get(type(message), type(message).__name__.lower())
        answer = getattr(self.runs[to], method)(message, self.asking(to, who))
        self.deliver(to)
        return answer

    def work(self, give: Give, rounds: int = 50) -> None:
        for _ in range(rounds):
            for name, run in self.runs.items():
                if run.engine.definition is None or not run.engine.ready:
                    continue
                orders = self.tell(name, Sync(Worker("w", cores=9.0), 9), "bob").orders
                done = [Done(each.epoch, give(each)) for each in orders]
                self.tell(name, Sync(Worker("w"), 0, done), "bob")
            self.now += 1

    def state(self, *below: Any) -> str:
        return str(self.runs["-".join([self.top, *map(str, below)])].engine.state.value)


def as_told(order: Any) -> Success:
    """What a worker gives: a join puts lists behind one another, all else gives back what it was given."""
    if order.join:
        return Success([item for each in order.args for item in each])
    return Success(order.args[0] if order.args else order.inputs)


SUB = definition(
    {"id": "in", "args": ["${params.x}"]}, {"id": "out", "args": ["${in}"], "needs": ["in"]}, params={"x": 0}
)
USING = definition(
    {"id": "a", "args": [7]},
    {"id": "b", "call": "", "uses": "sub", "inputs": {"x": "${a}"}, "needs": ["a"]},
    {"id": "c", "args": ["${b}"], "needs": ["b"]},
)


def using() -> House:
    return House(Plan(USING, {}, {"b": [Plan(SUB)]}))


def test_a_definition_inside_another_is_a_run_that_is_told_when_to_begin_and_tells_how_it_ended() -> None:
    house = using()
    assert (house.state(), house.state("b", 0)) == ("RUNNING", "PENDING")
    house.work(as_told)
    assert (house.state(), house.state("b", 0)) == ("SUCCEEDED", "SUCCEEDED")
    assert house.runs[house.top].engine.result == 7
    view = house.runs[house.top].look(Look(tasks=True), house.asking(house.top, "ann"))
    assert (view.children, [each.child for each in view.tasks]) == (1, ["", f"{house.top}-b-0", ""])


def test_what_failed_in_it_goes_on_when_the_task_is_tried_again() -> None:
    house = using()
    house.work(lambda order: Failure("Bad") if order.key == "out" else as_told(order))
    assert (house.state(), house.state("b", 0)) == ("FAILED", "FAILED")
    ran: list[str] = []
    house.tell(house.top, Act("rerun"), "ann")
    house.work(lambda order: ran.append(order.key) or as_told(order))
    assert (house.state(), ran) == ("SUCCEEDED", ["out", "c"])


def test_run_again_with_all_behind_it_it_begins_anew_and_never_gives_an_epoch_twice() -> None:
    house = using()
    epochs: list[int] = []

    def give(order: Any) -> Success:
        if order.key in ("in", "out"):
            epochs.append(order.epoch)
        return as_told(order)

    house.work(give)
    house.tell(house.top, Act("rerun", ["a"]), "ann")
    house.work(give)
    assert house.state() == "SUCCEEDED"
    assert epochs == [1, 2, 3, 4]


def test_cancelling_suspending_and_resuming_reach_the_runs_below() -> None:
    house = using()
    house.work(as_told, rounds=1)
    assert house.state("b", 0) == "RUNNING"
    for what, state in (("suspend", "SUSPENDED"), ("resume", "RUNNING"), ("cancel", "CANCELLED")):
        house.tell(house.top, Act(what), "ann")
        assert (house.state(), house.state("b", 0)) == (state, state)


def test_what_is_cancelled_below_is_cancelled_above_and_not_tried_again() -> None:
    again = definition(
        {"id": "b", "call": "", "uses": "sub", "retry": {"max_attempts": 3}},
        {"id": "c", "args": ["${b}"], "needs": ["b"]},
    )
    for tasks in ([], ["in"]):
        house = House(Plan(again, {}, {"b": [Plan(SUB)]}))
        house.tell(f"{house.top}-b-0", Act("cancel", tasks), "ann")
        house.work(as_told)
        assert (house.state(), house.state("b", 0)) == ("CANCELLED", "CANCELLED")
        assert states(house.runs[house.top].engine) == {"b": "CANCELLED", "c": "CANCELLED"}
        house.tell(house.top, Act("rerun"), "ann")
        house.work(as_told)
        assert (house.state(), house.state("b", 0)) == ("SUCCEEDED", "SUCCEEDED")


@pytest.mark.parametrize("what", ["cancel", "suspend", "resume", "rerun"])
def test_a_run_below_that_has_not_begun_says_where_its_task_is_cancelled(what: str) -> None:
    house = using()
    with pytest.raises(titan.BadMessage, match=f"has not begun.* it does a task of {house.top}"):
        house.tell(f"{house.top}-b-0", Act(what), "ann")
    with pytest.raises(titan.Forbidden):
        house.tell(f"{house.top}-b-0", Act(what), "eve")


def test_nobody_but_its_parent_has_a_run_begin_and_nobody_but_its_child_says_that_it_has_ended() -> None:
    house = using()
    child = f"{house.top}-b-0"
    for who in ("eve", "ann", child):
        house.tell(child, Go(9, {}), who)
    assert house.state("b", 0) == "PENDING"
    house.work(as_told, rounds=1)
    (epoch,) = [message.epoch for _, message in house.sent if isinstance(message, Go)]
    for who in ("eve", "ann", house.top):
        house.tell(house.top, Ended(epoch, Success("lie")), who)
        house.tell(child, Halt(epoch), who if who != house.top else "eve")
    with pytest.raises(titan.Forbidden):
        house.tell(child, Act("cancel"), "eve")
    house.work(as_told)
    assert house.runs[house.top].engine.result == 7


def test_parameters_that_it_does_not_take_fail_the_task_and_not_the_run_that_is_told() -> None:
    wrong = definition({"id": "b", "call": "", "uses": "sub", "inputs": {"y": 1}})
    house = House(Plan(wrong, {}, {"b": [Plan(SUB)]}))
    house.work(as_told)
    step = house.runs[house.top].engine.steps["b"]
    assert (step.state, step.instances[0].error and step.instances[0].error.kind) == ("FAILED", "BadParameters")


def test_a_run_that_uses_what_was_not_prepared_is_refused() -> None:
    with pytest.raises(titan.BadMessage, match="submit it"):
        Run().engine.step(Begin(USING), 0.0)


def test_members_that_come_later_know_who_does_what() -> None:
    house = using()
    house.work(as_told, rounds=1)
    for name, run in house.runs.items():
        copy = Run()
        for chunk in run.snapshot():
            copy.restore(chunk)
        house.runs[name] = copy
    house.work(as_told)
    assert (house.state(), house.state("b", 0)) == ("SUCCEEDED", "SUCCEEDED")


# --- slices ---------------------------------------------------------------------------------------------------


class Door:
    """As much of a pool as planning asks."""

    id = key("ann").hex()[:32]


async def plan_of(made: Definition, **params: Any) -> Plan:
    return await planned(cast(Any, Door()), made, params)


async def test_a_long_map_is_done_by_several_runs_and_no_object_holds_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SLICE_ITEMS", 10)
    made = definition(
        {"id": "f", "args": ["$$5"]},
        {"id": "m", "map": {"over": "${params.n}"}, "needs": ["f"], "args": ["${item}", "${f}", "${params.k.0}"]},
        {"id": "r", "call": "", "reduce": "m:sum", "needs": ["m"]},
        params={"n": None, "k": ["deep"]},
    )
    plan = await plan_of(made, n=[*range(34), "$x"])
    assert (len(plan.children["m"]), plan.params) == (4, {"n": []})
    house = House(plan)
    told: list[Any] = []
    house.work(lambda order: told.append(order.args) or as_told(order))
    assert house.state() == "SUCCEEDED"
    assert all([item, "$5", "deep"] in told for item in (0, 33, "$x"))
    assert house.runs[house.top].engine.steps["r"].result == [*range(34), "$x"]
    sizes = [len(msgspec.msgpack.encode(run.engine.journal)) for run in house.runs.values()]
    assert max(len(run.engine.steps["m"].instances) for run in house.runs.values()) == 9
    assert max(sizes) < 6000


async def test_what_a_slice_is_handed_is_what_the_map_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SLICE_ITEMS", 2)
    made = definition(
        {"id": "f"},
        {
            "id": "m",
            "call": "",
            "run": "do ${item.a} ${f.b.c} $$x",
            "map": {"over": [{"a": "$$1"}] * 3},
            "needs": ["f"],
        },
    )
    plan = await plan_of(made)
    first = plan.children["m"][0]
    work = first.definition.tasks[0]
    assert work.run == ["do", "${item.a}", "${params.of-f.b.c}", "$$x"]
    assert first.params == {"items": [{"a": "$1"}] * 2}
    assert plan.definition.tasks[1].inputs == {"of-f": "${f}"}


@pytest.mark.parametrize(
    "task",
    [
        {"map": {"over": [1, 2]}},
        {"map": {"over": [1, 2, 3]}, "args": ["${index}"]},
        {"map": {"over": ["${params.n}", 2, 3]}},
        {"map": {"over": "${f}"}, "needs": ["f"]},
    ],
)
async def test_a_map_that_is_short_or_known_only_later_stays_whole(
    task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "SLICE_ITEMS", 2)
    assert not (await plan_of(definition({"id": "f"}, {"id": "m", **task}, params={"n": 1}))).children


def test_a_cut_is_bounded_by_items_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "SLICE_BYTES", 1000)
    assert [len(each) for each in children._cuts(["x" * 400] * 5)] == [2, 2, 1]
    monkeypatch.setattr(children, "SLICE_ITEMS", 2)
    assert [len(each) for each in children._cuts([1, 2, 3])] == [2, 1]


# --- revisions ------------------------------------------------------------------------------------------------


def test_only_its_owner_moves_the_head_and_each_move_is_remembered() -> None:
    made = Definitions()
    made.history = []
    place, one, two = f"{space('ann')}/dag/definitions/etl", f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    for data, why in ((one, "first"), (two, "faster"), (one, "too fast")):
        made.set_head(SetHead(data, why), Asking(sender("ann"), place))  # type: ignore[arg-type]
    with pytest.raises(titan.Forbidden, match="in whose space"):
        made.set_head(SetHead(two), Asking(sender("eve"), place))  # type: ignore[arg-type]
    with pytest.raises(titan.BadMessage, match="sha256"):
        made.set_head(SetHead("etl"), Asking(sender("ann"), place))  # type: ignore[arg-type]
    assert [(each.data, each.why) for each in made.history] == [(one, "first"), (two, "faster"), (one, "too fast")]
    assert {(each.who, each.when) for each in made.history} == {(key("ann").hex()[:32], 1000.0)}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), acts=st.lists(st.integers(0, 7), max_size=12))
def test_whatever_people_do_meanwhile_runs_below_keep_step_and_journals_are_their_state(
    seed: int, acts: list[int]
) -> None:
    house, random = using(), Random(seed)
    choices = [Act("suspend"), Act("resume"), Act("cancel"), Act("cancel", ["b"]), Act("rerun"), Act("rerun", ["a"])]

    def give(order: Any) -> Any:
        return as_told(order) if random.random() < 0.7 else Failure("Bad")

    for kind in acts:
        if kind < len(choices):
            house.tell(house.top, choices[kind], "ann")
        house.work(give, rounds=random.randint(0, 2))
        for run in (each for each in house.runs.values() if each.engine.definition):
            again = Engine.replay(run.engine.journal)
            again.step(Tick(), house.now)
            run.engine.step(Tick(), house.now)
            assert dump(again) == dump(run.engine)
    house.tell(house.top, Act("resume"), "ann")
    house.work(as_told)
    assert house.runs[house.top].engine.state in DONE
    told = any(isinstance(message, Go) for _, message in house.sent)
    assert house.runs[f"{house.top}-b-0"].engine.state in DONE or not told


def test_a_run_tells_of_its_tasks_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "TASKS_AT_ONCE", 3)
    house = House(Plan(definition({"id": "m", "map": {"over": [1, 2, 3, 4]}}, {"id": "z", "needs": ["m"]})))
    house.tell(house.top, Sync(Worker("w"), 1), "bob")

    def keys(*asked: Any) -> list[str]:
        return [each.key for each in house.runs[house.top].look(Look(*asked), house.asking(house.top, "ann")).tasks]

    assert (keys(True), keys(True, 3), keys(True, 5)) == (["m[0]", "m[1]", "m[2]"], ["m[3]", "z"], [])
    assert (keys(True, 0, ["RUNNING"]), keys(True, 1, ["READY", "PENDING"]), keys()) == (
        ["m[0]"],
        ["m[2]", "m[3]", "z"],
        [],
    )


# --- more than fits into a message ----------------------------------------------------------------------------


class Reader:
    """As much of a pool as reads of runs."""

    def __init__(self, runs: dict[str, Run]) -> None:
        self.runs = runs
        self.asked = 0

    async def read(self, name: str, message: Results) -> list[Any]:
        self.asked += 1
        return self.runs[name].list_results(message)


@pytest.mark.parametrize("slice_items", [1000, 5])
async def test_results_that_are_too_much_for_a_message_are_asked_for_in_pieces(
    slice_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "SLICE_ITEMS", slice_items)
    long = ["x" * 20_000 + str(n) for n in range(100)]
    made = definition(
        {"id": "m", "map": {"over": [each[-2:] for each in long]}},
        {"id": "r", "call": "", "reduce": "m:sum", "needs": ["m"], "cache_key": "auto"},
        {"id": "s", "call": "", "uses": "sub", "inputs": {"x": "${m}"}, "needs": ["m"]},
        result="m",
    )
    plan = await plan_of(msgspec.structs.replace(made, tasks=made.tasks[:2]))
    plan.definition = msgspec.structs.replace(plan.definition, tasks=[*plan.definition.tasks, made.tasks[2]])
    plan.children["s"] = [Plan(SUB)]
    house = House(plan)
    told: dict[str, Any] = {}

    def give(order: Any) -> Success:
        if order.key.startswith("m["):
            return Success(long[int(order.args[0].lstrip("x"))])
        told[order.key] = order.args
        assert len(msgspec.msgpack.encode(order.args)) < 1 << 20
        return as_told(order)

    house.work(give)
    assert house.state() == "SUCCEEDED"
    assert all(len(msgspec.msgpack.encode(message)) < 1 << 20 for _, message in house.sent)
    reader = Reader(house.runs)
    for value in (told["r"][0], told["in"][0], house.runs[house.top].result(Result())[1]):
        assert await there(cast(Any, reader), value) == long
    assert reader.asked > 3


def test_of_a_task_that_another_run_does_people_see_that_run_and_why_it_failed() -> None:
    task = TaskView("sub", "FAILED", error="RunFailed: x: Bad: no", child="~me/dag/1-1")
    shown = _shown(RunView("it", "FAILED", "me", tasks=[task]), {"FAILED": 1})
    assert shown.splitlines()[1].split(maxsplit=2)[2] == "~me/dag/1-1 RunFailed: x: Bad: no"
