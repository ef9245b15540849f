"""What a volunteer's machine gives is bounded."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from titan_overlay.cli.daemon import running_children_seconds
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.budget import Cpu, Shares


def test_cpu_within_the_budget_is_fine() -> None:
    budget = Cpu(0.5)
    assert not any(budget.sample(float(second), second * 0.4) for second in range(30))


def test_cpu_above_the_budget_is_refused_and_recovers() -> None:
    budget = Cpu(0.5)
    busy = [budget.sample(float(second), second * 0.9) for second in range(20)]
    assert "--max-cpu" in busy[-1]
    idle = [budget.sample(20.0 + second, 19 * 0.9) for second in range(20)]
    assert idle[-1] == ""


def test_a_short_burst_at_the_start_is_not_judged() -> None:
    budget = Cpu(0.5)
    assert budget.sample(0.0, 0.0) == ""
    assert budget.sample(1.0, 1.0) == ""


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs /proc")
def test_what_a_worker_process_computes_counts_while_it_still_does() -> None:
    before = running_children_seconds()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            until = time.monotonic() + 60
            while running_children_seconds() < before + 0.1:
                assert time.monotonic() < until, "a process that computes has used no CPU in a minute"
                time.sleep(0.02)
        finally:
            worker.kill()


# ---- shares ----------------------------------------------------------------------------------------------------


def one_of(subnet: str, number: int) -> Sender:
    """A key at an address of this subnet; empty: on this machine."""
    return Sender(NodeId(f"{subnet} {number}".encode()), b"", subnet=subnet)


ALICE, BOB, CAROL, DAVE = (one_of("", number) for number in range(4))
X, Y = b"x", b"y"


def spent(*uses: tuple[bytes, Sender, float]) -> Shares:
    shares = Shares()
    for object_id, sender, seconds in uses:
        shares.spend(object_id, sender, seconds)
    return shares


def test_nobody_is_refused_while_there_is_budget() -> None:
    shares = spent((X, ALICE, 100.0))
    shares.judge(False, 1.0)
    assert not shares.refuses(X, ALICE)


def test_who_used_most_is_refused_first_and_the_others_of_the_same_object_are_not() -> None:
    shares = spent((X, ALICE, 5.0), (X, BOB, 0.1), (Y, CAROL, 0.1))
    shares.judge(True, 1.0)
    assert shares.refuses(X, ALICE) and shares.refuses(Y, ALICE)
    assert not shares.refuses(X, BOB) and not shares.refuses(Y, CAROL)
    assert not shares.refuses(X, DAVE), "whoever comes now has used nothing"


def test_then_objects_that_used_most_and_in_the_end_everybody() -> None:
    shares = Shares(window=10.0)
    for second in range(1, 31):
        for number in range(100):
            shares.spend(X if number else Y, one_of("", 10 + number), 0.01)
        shares.judge(True, 1.0)
        assert shares.refuses(X, DAVE) == (second > 10)
        assert shares.refuses(Y, DAVE) == (second > 20)


def test_where_nobody_is_to_blame_all_are_refused() -> None:
    shares = Shares()
    shares.judge(True, 1.0)
    assert shares.refuses(X, ALICE)


def test_what_was_used_is_forgotten_and_what_is_remembered_is_bounded() -> None:
    shares = spent((X, ALICE, 5.0))
    for _ in range(200):
        shares.judge(False, 1.0)
    assert not shares._crowds and not shares._objects
    for number in range(10_000):
        shares.spend(X, one_of("", number), 1.0)
        shares.spend(X, one_of("crowd", number), 1.0)
    assert len(shares._crowds) == 4096 and sum(map(len, shares._crowds.values())) <= 2 * 4096


def test_a_crowd_of_keys_counts_as_one_and_is_refused_before_others() -> None:
    shares, crowd, honest = Shares(), [one_of("crowd", number) for number in range(300)], one_of("other", 0)
    for _ in range(9):
        for each in crowd:
            shares.spend(X, each, 0.002)
        shares.spend(Y, honest, 0.05)
        shares.judge(True, 1.0)
        assert all(shares.refuses(X, each) for each in crowd)
        assert not shares.refuses(Y, honest) and not shares.refuses(X, honest)


def test_of_a_crowd_those_who_used_most_are_refused_first_and_then_all_with_keys_that_are_new() -> None:
    shares, greedy, modest, new = Shares(), one_of("crowd", 0), one_of("crowd", 1), one_of("crowd", 2)
    for second in range(1, 20):
        shares.spend(X, greedy, 0.5)
        shares.spend(X, modest, 0.01)
        shares.spend(Y, CAROL, 0.01)
        shares.judge(True, 1.0)
        assert shares.refuses(Y, greedy)
        assert shares.refuses(Y, modest) == shares.refuses(Y, new) == (second > 10)
        assert not shares.refuses(Y, CAROL)


def test_a_crowd_of_more_keys_than_are_remembered_is_refused_as_a_whole() -> None:
    shares = Shares()
    for number in range(5000):
        shares.spend(X, one_of("crowd", number), 0.001)
    shares.spend(X, ALICE, 0.1)
    shares.judge(True, 1.0)
    assert all(shares.refuses(X, one_of("crowd", number)) for number in (0, 4999, 5000))
    assert not shares.refuses(X, ALICE)
