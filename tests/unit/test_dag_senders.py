"""Who may say what to a queue and to a run: handlers are asked as their objects ask them, without a pool."""

from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, cast

import msgspec
import pytest

import titan_overlay as titan
from tests.unit.dag_world import definition
from titan_objects.dag import queue as queues
from titan_objects.dag.definition import revision
from titan_objects.dag.journal import Order, Success, Worker
from titan_objects.dag.messages import Act, Done, Lines, Spawned, Start, Started, Sync, Wake
from titan_objects.dag.queue import AskOpen, Close, Queue, Register, RunInfo, Runs, Submit, WorkerInfo, Workers, listed
from titan_objects.dag.run import Run
from titan_overlay.pool.context import Sender
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

VOICE = b"v" * 32


def key(name: str) -> bytes:
    return sha256(name.encode()).digest()


def sender(name: str) -> Sender:
    return Sender(cast(Any, key(name)), key(name))


def space(name: str) -> str:
    return f"~{key(name).hex()[:32]}"


@dataclass
class Asking:
    """What a handler sees of who asks, and what it orders."""

    sender: Sender
    name: str = f"{space('ann')}/dag/1"
    now: float = 1000.0
    object_id: bytes = VOICE
    random: Random = field(default_factory=lambda: Random(1))
    later: list[tuple[str, Any]] = field(default_factory=list)
    timers: list[float] = field(default_factory=list)

    def send_later(self, name: str, message: Any) -> None:
        self.later.append((name, message))

    def schedule(self, seconds: float, message: Any) -> None:
        self.timers.append(seconds)


def by(name: str, **more: Any) -> Any:
    return Asking(sender(name), **more)


def as_run() -> Any:
    return Asking(Sender(cast(Any, VOICE), VOICE))


RUN = f"{space('ann')}/dag/1"


def queue() -> Queue:
    made = Queue()
    made.runs, made.workers = {}, {}  # as an object of a pool has its own
    made.submit(Submit(RUN, "it", voice=VOICE), by("ann"))
    return made


def opened(made: Queue, since: int = 0) -> list[RunInfo]:
    return made.list_open(AskOpen([key("ann").hex()[:32]], since)).runs


def run(*tasks: dict[str, Any], **more: Any) -> Run:
    made = Run()
    started = made.start(Start(definition(*(tasks or ({"id": "a"},))), queue="dag", **more), by("ann"))
    assert started == Started("RUNNING", VOICE)
    return made


def lease(made: Run, who: str, name: str = "w") -> list[Order]:
    return made.sync(Sync(Worker(name, owner="nobody"), 1), by(who)).orders


def test_a_stranger_neither_closes_a_run_nor_submits_one_in_the_name_of_another() -> None:
    made = queue()
    for message in (Close(RUN, "SUCCEEDED"), Close(RUN, "RUNNING")):
        with pytest.raises(titan.Forbidden, match="who submitted it"):
            made.close(message, by("eve"))
    with pytest.raises(titan.Forbidden, match="named ~"):
        made.submit(Submit(RUN, "mine now", "SUCCEEDED", key("eve")), by("eve"))
    assert [(each.title, each.state) for each in opened(made)] == [("it", "RUNNING")]


def test_a_run_and_its_owner_say_how_it_is() -> None:
    made = queue()
    made.close(Close(RUN, "SUCCEEDED"), as_run())
    assert opened(made) == []
    made.close(Close(RUN, "RUNNING"), by("ann"))
    assert len(opened(made)) == 1


def test_a_worker_is_told_of_runs_that_it_may_work_for_and_has_not_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "RUNS_AT_ONCE", 2)
    made, owners = queue(), [key("ann").hex()[:32]]
    names = [RUN, *(f"{space('ann')}/{number}" for number in range(3))]
    for name in names[1:]:
        made.submit(Submit(name, ""), by("ann"))
        made.submit(Submit(f"{space('eve')}/{name[-1]}", ""), by("eve"))
    first = made.list_open(AskOpen(owners))
    rest = made.list_open(AskOpen(owners, first.version))
    assert [each.name for each in (*first.runs, *rest.runs)] == names
    assert rest.version == made.version
    assert opened(made, rest.version) == []
    made.close(Close(RUN, "FAILED"), as_run())
    made.close(Close(RUN, "RUNNING"), as_run())  # it runs again
    assert [each.name for each in opened(made, rest.version)] == [RUN]
    assert [each.name for each in opened(made, made.version + 100)] == names[1:3], "another queue, of the same name"


def test_a_run_begins_with_values_whose_keys_are_of_any_kind_and_the_same_is_the_same() -> None:
    def started(table: dict[Any, int]) -> Start:
        made = definition({"id": "a", "args": [table]}, params={"table": None})
        assert revision(made) == revision(made)
        return Start(made, {"table": table})

    made = Run()
    for _ in range(2):
        made.start(started({1: 2, "x": 3}), by("ann"))
    with pytest.raises(titan.Conflict):
        made.start(started({1: 2, "x": 4}), by("ann"))


class Pool:
    """As much of a pool as leads to one queue; answers have to fit into a frame."""

    def __init__(self, there: Queue) -> None:
        self.there = there

    async def read(self, name: str, message: Any) -> Any:
        of = self.there.list_runs if isinstance(message, Runs) else self.there.list_workers
        answer = of(message)
        if len(msgspec.msgpack.encode(answer)) > MAX_PAYLOAD_BYTES:
            raise titan.BadMessage("the reply does not fit")
        return answer


async def test_a_queue_names_all_its_runs_and_workers_however_many_there_are() -> None:
    made = queue()
    told = RunInfo(RUN, "t" * 200, key("ann").hex()[:32], 0.0, voice=VOICE)
    made.runs = {f"run {n}": msgspec.structs.replace(told, name=f"run {n}") for n in range(queues.RUNS_MAX)}
    for number in range(30):
        labels = {f"{n}".zfill(200): "\N{REPLACEMENT CHARACTER}" * 200 for n in range(64)}
        made.register(Register(WorkerInfo(f"w{number}", labels=labels)), by("eve"))
    made.register(Register(WorkerInfo("w")), by("bob"))
    pool = cast(Any, Pool(made))
    assert [each.name for each in await listed(pool, "dag", Runs)] == list(made.runs)
    assert [each.name for each in await listed(pool, "dag", Workers)] == list(made.workers)


def test_a_worker_leaves_by_its_own_word_alone() -> None:
    made = queue()
    made.register(Register(WorkerInfo("w")), by("bob"))
    made.register(Register(WorkerInfo("w"), leaving=True), by("eve"))
    assert list(made.workers) == [f"{key('bob').hex()[:32]}/w"]


def test_one_key_fills_neither_table_of_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "RUNS_OF_ONE_MAX", 3)
    monkeypatch.setattr(queues, "WORKERS_OF_ONE_MAX", 3)
    made = queue()
    for number in range(3):
        made.submit(Submit(f"{space('eve')}/{number}", ""), by("eve"))
        made.register(Register(WorkerInfo(f"w{number}")), by("eve"))
    with pytest.raises(titan.Overloaded, match="has 3 open runs"):
        made.submit(Submit(f"{space('eve')}/more", ""), by("eve"))
    with pytest.raises(titan.Overloaded, match="has 3 workers"):
        made.register(Register(WorkerInfo("more")), by("eve"))
    made.register(Register(WorkerInfo("w1", 9)), by("eve"))  # it is there already
    made.register(Register(WorkerInfo("w")), by("bob"))
    made.close(Close(f"{space('eve')}/1", "FAILED"), by("eve"))
    made.submit(Submit(f"{space('eve')}/more", ""), by("eve"))
    assert list(made.runs) == [RUN, *(f"{space('eve')}/{each}" for each in (0, 2, "more"))]


@pytest.mark.parametrize(
    "worker",
    [
        WorkerInfo("w" * 201),
        WorkerInfo("w", labels={str(each): "" for each in range(65)}),
        WorkerInfo("w", labels={"gpu": "x" * 201}),
        WorkerInfo("w", trusts=["key"] * 257),
    ],
)
def test_a_worker_does_not_fill_a_queue_with_what_it_says_of_itself(worker: WorkerInfo) -> None:
    with pytest.raises(titan.BadMessage, match="at most"):
        queue().register(Register(worker), by("eve"))


def test_nobody_begins_a_run_in_the_space_of_another() -> None:
    with pytest.raises(titan.Forbidden, match="in whose space"):
        Run().start(Start(definition({"id": "a"})), by("eve"))


@pytest.mark.parametrize("what", ["cancel", "suspend", "resume", "rerun", "approve", "reject"])
def test_a_stranger_decides_nothing_about_a_run(what: str) -> None:
    made = run({"id": "a", "call": "", "approval": {}})
    with pytest.raises(titan.Forbidden, match="who submitted"):
        made.act(Act(what, ["a"]), by("eve"))
    assert len(made.engine.journal) == 1


@pytest.mark.parametrize("what", ["approve", "reject"])
def test_a_decision_about_no_task_says_which_ones_wait_for_it(what: str) -> None:
    made = run({"id": "a"}, {"id": "b", "call": "", "approval": {}})
    with pytest.raises(titan.BadMessage, match=rf"{what} which task\? 'b' waits"):
        made.act(Act(what), by("ann"))
    made = run({"id": "a"})
    with pytest.raises(titan.BadMessage, match="nothing waits"):
        made.act(Act(what), by("ann"))


def test_a_stranger_reports_renews_and_gives_back_nothing_of_a_worker() -> None:
    made = run()
    (order,) = lease(made, "bob")
    lies = Sync(Worker("w"), 0, [Done(order.epoch, Success("lie"))], [order.epoch])
    assert made.sync(lies, by("eve")).lost == [order.epoch]
    made.sync(Sync(Worker("w"), 0, [Done(order.epoch, Success("truth"))]), by("bob"))
    assert made.engine.result == "truth"


def test_what_a_worker_does_not_name_is_given_again_at_once() -> None:
    made = run()
    lease(made, "bob")  # and its answer is lost
    (order,) = lease(made, "bob")
    assert made.sync(Sync(Worker("v"), 1), by("bob")).orders == [], "it is another's now"
    made.sync(Sync(Worker("w"), holds=[order.epoch]), by("bob"))
    made.sync(Sync(Worker("w"), done=[Done(order.epoch, Success(1))]), by("bob"))
    assert made.engine.state.value == "SUCCEEDED"
    assert made.engine.executions == 2


def test_what_comes_too_late_takes_nothing_away_and_is_given_nothing() -> None:
    made = run({"id": "a"}, {"id": "b"})
    (order,) = made.sync(Sync(Worker("w"), 1, turn=8), by("bob")).orders
    late = made.sync(Sync(Worker("w"), 1, turn=7), by("bob"))
    assert (late.orders, late.turn) == ([], 8)
    assert made.engine.holds(order.epoch)
    again = made.sync(Sync(Worker("w", cores=2.0), 2, turn=late.turn + 1), by("bob"))  # a program that began anew
    assert {each.key for each in again.orders} == {"a", "b"}


def test_a_run_remembers_turns_and_lines_of_those_alone_that_have_something() -> None:
    made = run({"id": "a", "map": {"over": list(range(300))}})
    for number in range(300):
        (order,) = lease(made, "bob", f"w{number}")
        said = Sync(Worker(f"w{number}"), holds=[order.epoch], lines=[(order.epoch, 0, "hello")])
        made.sync(said, by("bob"))
        made.sync(Sync(Worker(f"w{number}"), done=[Done(order.epoch, Success())]), by("bob"))
    assert len(made.lines) == 300
    rest = next(iter(made.snapshot()))
    assert rest.count(b"/w") < 100


def test_only_who_holds_a_task_writes_into_its_log_and_each_line_once() -> None:
    made = run({"id": "a"}, {"id": "b", "priority": -1})
    (order,) = lease(made, "bob")
    made.sync(Sync(Worker("w"), lines=[(order.epoch, 0, "lie"), (order.epoch + 1, 0, "lie")]), by("eve"))
    made.sync(Sync(Worker("w"), holds=[order.epoch], lines=[(order.epoch, 0, "one")]), by("bob"))
    last = Sync(Worker("w"), 0, [Done(order.epoch, Success())], lines=[(order.epoch, n, t) for n, t in enumerate("12")])
    for _ in range(2):  # its answer was lost, so it says it again
        made.sync(last, by("bob"))
    made.sync(Sync(Worker("w"), lines=[(order.epoch, 9, "after its end")]), by("bob"))
    assert [(each.number, each.key, each.text) for each in made.log(Lines())] == [(0, "a", "one"), (1, "a", "2")]


def test_a_member_that_comes_later_knows_all_that_the_others_know() -> None:
    made = run({"id": "a"}, {"id": "b"}, workers=[key("bob").hex()[:32]])
    (order,) = lease(made, "bob")
    made.sync(Sync(Worker("w"), holds=[order.epoch], lines=[(order.epoch, 0, "one")]), by("bob", now=1020.0))
    other = Run()
    for chunk in made.snapshot():
        other.restore(chunk)
    assert list(other.snapshot()) == list(made.snapshot())
    assert other.engine.wakes_at == made.engine.wakes_at == 1050.0
    for each in (made, other):
        each.sync(Sync(Worker("w"), lines=[(order.epoch, 0, "one"), (order.epoch, 1, "two")]), by("bob"))
        assert [line.text for line in each.log(Lines())] == ["one", "two"]
        start = Start(definition({"id": "a"}, {"id": "b"}), workers=[key("bob").hex()[:32]], queue="dag")
        assert each.start(start, by("ann")) == Started("RUNNING", VOICE)


def test_what_has_begun_is_begun_again_by_nobody_as_something_else() -> None:
    made = run()
    for message, who in ((Start(definition({"id": "b"}), queue="dag"), "ann"), (Start(definition({"id": "a"})), "ann")):
        with pytest.raises(titan.Conflict, match="differ"):
            made.start(message, by(who))
    assert list(made.engine.steps) == ["a"]


def test_only_workers_that_the_owner_answers_for_add_tasks() -> None:
    more = definition({"id": "b"}).tasks
    made = run()
    (order,) = lease(made, "eve")
    with pytest.raises(titan.Forbidden, match="may add none"):
        made.spawned(Spawned("w", order.epoch, more), by("eve"))
    for who, chosen in (("ann", []), ("bob", [key("bob").hex()[:32]])):
        made = run(workers=chosen)
        (order,) = lease(made, who)
        made.spawned(Spawned("w", order.epoch, more), by(who))
        assert "b" in made.engine.steps


def test_a_run_tells_its_queue_when_it_ends_and_when_it_is_open_again() -> None:
    made = run()
    (order,) = lease(made, "bob")
    ending, again = by("bob"), by("ann")
    made.sync(Sync(Worker("w"), 0, [Done(order.epoch, Success(1))]), ending)
    made.act(Act("rerun", ["a"]), again)
    assert ending.later == [("dag", Close(RUN, "SUCCEEDED"))]
    assert again.later == [("dag", Close(RUN, "RUNNING"))]


def test_a_wake_before_its_time_sets_no_timer() -> None:
    made = run({"id": "a", "timeout": {"queue": 50}})
    early, due = by("eve"), by("eve", now=1050.0)
    made.wake(Wake(), early)
    assert (early.timers, made.engine.state.value) == ([], "RUNNING")
    made.wake(Wake(), due)
    assert made.engine.state.value == "FAILED"


def test_a_run_that_waits_for_long_has_few_timers_however_often_it_wakes_meanwhile() -> None:
    """Of an object's, only so many are kept: a run that had as many could do nothing until they came."""
    poll = {"id": "poll", "delay": 40, "loop": {"to": "poll", "max": 1000}}
    pending: list[float] = []
    run, now = Run(), 1000.0

    def asking(name: str) -> Any:
        return by(name, now=now)

    def taken(asked: Any) -> None:
        pending.extend(now + each for each in asked.timers)

    asked = asking("ann")
    run.start(Start(definition({"id": "gate", "call": "", "approval": {}}, poll)), asked)
    taken(asked)
    for turn in range(400):
        now = min(pending)
        while min(pending) <= now:
            pending.remove(min(pending))
            run.wake(Wake(), asked := asking("anybody"))
            taken(asked)
        for order in run.sync(Sync(Worker("w"), 1, turn=2 * turn + 1), asked := asking("bob")).orders:
            taken(asked)
            run.sync(Sync(Worker("w"), done=[Done(order.epoch, Success())], turn=2 * turn + 2), asked := asking("bob"))
        taken(asked)
    assert run.engine.steps["poll"].rounds > 100
    assert len(pending) < 10
    again = Run()
    for chunk in run.snapshot():
        again.restore(chunk)
    again.wake(Wake(), asked := by("anybody", now=min(pending)))
    assert len(asked.timers) <= 1
