"""Services in the engine of a run: what needs them waits until they are there, and they go on until the run ends."""

from typing import Any

import pytest

from tests.unit.dag_world import Desk, definition, dump, states
from titan_objects.dag.engine import Engine
from titan_objects.dag.journal import Cancel, Failure, Order, Report, Rerun, Success, Up
from titan_objects.dag.steps import State

WHERE = {"host": "h", "port": 80}


def desk(*tasks: dict[str, Any], **more: Any) -> Desk:
    service = {"id": "db", "call": "", "run": "serve", "type": "service", "service": {"port": 80}}
    return Desk(definition({**service, **more}, *tasks))


USER = {"id": "use", "needs": ["db"], "args": ["${db.port}"]}


def up(made: Desk, worker: str = "w") -> Order:
    (order,) = made.lease(worker, 1)
    assert (order.port, order.key) == (80, "db")
    made.step(Up(worker, order.epoch, WHERE))
    return order


def test_what_needs_a_service_waits_until_it_is_there_and_ends_it_with_the_run() -> None:
    made = desk(USER)
    assert made.lease("w")[0].key == "db"
    assert made.lease("v") == []
    made = desk(USER)
    service = up(made)
    (order,) = made.lease("w")
    assert (order.key, order.args) == ("use", [80])
    assert made.engine.holds(service.epoch)
    made.step(Report("w", order.epoch, Success(1)))
    assert made.engine.state is State.SUCCEEDED
    assert not made.engine.holds(service.epoch), "its worker hears that it is not its own any more"
    assert states(made.engine) == {"db": "SUCCEEDED", "use": "SUCCEEDED"}


def test_a_service_that_fails_is_started_again_elsewhere_while_those_who_need_it_go_on() -> None:
    made = desk(USER, retry={"max_attempts": 3, "initial": 1, "jitter": 0})
    first = up(made)
    (order,) = made.lease("w")
    made.step(Report("w", first.epoch, Success(0)))
    made.wait(1)
    second = up(made, "v")
    assert made.engine.steps["db"].instances[0].worker == "v"
    made.step(Report("v", second.epoch, Failure("Bad")))
    made.wait(2)
    up(made, "u")
    made.step(Report("w", order.epoch, Success(1)))
    assert made.engine.state is State.SUCCEEDED


@pytest.mark.parametrize("outcome", [Success(0), Failure("Bad")])
def test_a_service_that_fails_for_good_fails_the_run_but_stops_nobody_who_has_begun(outcome: Any) -> None:
    made = desk(USER)
    first = up(made)
    (order,) = made.lease("w")
    made.step(Report("w", first.epoch, outcome))
    assert made.step(Report("w", order.epoch, Success(1))).accepted
    assert (made.engine.state, states(made.engine)) == (State.FAILED, {"db": "FAILED", "use": "SUCCEEDED"})


def test_a_service_that_need_not_go_on_may_end_well_after_it_was_there() -> None:
    for was_up, state in ((True, State.SUCCEEDED), (False, State.FAILED)):
        made = desk({"id": "other"}, service={"port": 80, "restart": False})
        orders = {each.key: each for each in made.lease()}
        if was_up:
            made.step(Up("w", orders["db"].epoch, WHERE))
        made.step(Report("w", orders["db"].epoch, Success(0)))
        made.step(Report("w", orders["other"].epoch, Success(1)))
        assert made.engine.state is state


def test_the_worker_of_a_service_that_falls_silent_is_replaced() -> None:
    made = desk(USER)
    up(made)
    made.wait(31)
    up(made, "v")
    assert made.run() == ["use"]
    assert made.engine.state is State.SUCCEEDED


def test_a_service_takes_nothing_of_what_may_run_at_once_and_nobody_else_says_that_it_is_there() -> None:
    made = Desk(
        definition(
            {"id": "db", "call": "", "run": "serve", "type": "service", "service": {"port": 80}}, USER, max_parallel=1
        )
    )
    (order,) = made.lease("w")
    for worker, epoch in (("v", order.epoch), ("w", order.epoch + 1)):
        made.step(Up(worker, epoch, WHERE))
    assert states(made.engine)["db"] == "RUNNING"
    made.step(Up("w", order.epoch, WHERE))
    (user,) = made.lease("v")
    made.step(Up("v", user.epoch, WHERE))
    assert states(made.engine) == {"db": "SUCCEEDED", "use": "RUNNING"}


def test_a_run_of_services_alone_goes_on_until_it_is_cancelled() -> None:
    made = desk()
    order = up(made)
    assert made.engine.state is State.RUNNING
    made.step(Cancel("me"))
    assert made.engine.state is State.CANCELLED
    assert not made.engine.holds(order.epoch)


def test_a_service_is_started_again_where_something_that_needs_it_runs_again() -> None:
    made = desk(USER, {"id": "after", "needs": ["use"]})
    up(made)
    made.run(lambda order: Failure("Bad") if order.key == "after" else 1)
    assert made.engine.state is State.FAILED
    made.step(Rerun("me"))
    orders = {each.key: each for each in made.lease()}
    assert orders.keys() == {"db", "after"}
    made.step(Up("w", orders["db"].epoch, WHERE))
    made.step(Report("w", orders["after"].epoch, Success(1)))
    assert made.engine.state is State.SUCCEEDED
    assert dump(Engine.replay(made.engine.journal)) == dump(made.engine)
