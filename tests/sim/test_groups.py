"""titan-sim groups: members crash and return with their disks, while objects are written and read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from titan_overlay.identity.ids import ObjectId
from titan_simulations import cli, results, runner
from titan_simulations.groups import GroupsConfig
from titan_simulations.operations import Book

SMALL = GroupsConfig(
    nodes=12,
    seconds=100.0,
    groups=2,
    sizes=(5, 7),
    session="exponential:3m",
    downtime="exponential:20s",
    gone_share=0.05,
    operations_per_second=1.0,
    clients=1,
    settle_seconds=5.0,
    fake_crypto=True,
)
TINY = msgspec.structs.replace(SMALL, nodes=8, seconds=45.0, groups=1, sizes=(5,), downtime="fixed:30s", gone_share=0.0)

FIELDS = [
    "nodes",
    "groups",
    "simulated_seconds",
    "cpu_seconds",
    "peak_rss_bytes",
    "trace_hash",
    "seed",
    "command",
    "versions",
    "config",
    "operations",
    "operations_answered",
    "availability",
    "availability_by_size",
    "unavailable_by_error",
    "longest_outage_seconds",
    "outage_seconds_median",
    "members_replaced",
    "repair_seconds_median",
    "groups_unrecoverable",
    "groups_unrecoverable_expected",
    "lost_writes",
    "departures",
    "returns",
]


def test_members_go_and_return_while_objects_are_written_and_read():
    run, result = runner.groups_of(SMALL)
    assert set(FIELDS) <= set(result)
    assert result["departures"] == result["returns"] + result["departures_for_good"] > 3
    assert result["operations"] > 80 and result["availability"] > 0.97
    assert set(result["availability_by_size"]) == {"5", "7"}
    assert result["members_replaced"] > 0 and 15 < result["repair_seconds_median"] < 60
    assert result["writes_acknowledged"] > 30
    assert result["lost_writes"] == result["writes_executed_twice"] == 0
    assert result["groups_unrecoverable"] == len(result["groups_silent"]) == 0
    assert 0 < result["groups_unrecoverable_expected"] < result["groups_that_lost_their_quorum_expected"] < 3
    assert sum(row.operations for row in run.rows) <= result["operations"]


def trace() -> str:
    """Of a run in which a member is replaced."""
    result = runner.groups_of(TINY)[1]
    assert result["members_replaced"] > 0
    return str(result["trace_hash"])


def test_the_same_seed_gives_the_same_trace_in_any_process():
    here = trace()
    program = "from tests.sim.test_groups import trace; print(trace())"
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_the_command_writes_results_series_and_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    arguments = [
        "groups", "--nodes", "6", "--hours", "0.01", "--groups", "1", "--sizes", "3", "--operations", "1",
        "--clients", "1", "--session", "forever", "--fake-crypto", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["titan-sim", *arguments])
    outcome = CliRunner().invoke(cli.app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "groups unrecoverable expected" in outcome.output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(FIELDS) <= set(result)
    assert result["availability"] == 1 and result["departures"] == 0 and result["groups_unrecoverable_expected"] == 0
    assert (tmp_path / "run" / "series.csv").read_text().count("\n") == 5
    for name in ("availability", "groups", "outages"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def book() -> Book:
    return Book("simulated/0", ObjectId(bytes(32)), 5)


def test_a_write_that_was_acknowledged_and_is_gone_is_counted():
    kept = book()
    assert all(kept.wrote(kept.next_number(), place) for place in range(3))
    assert kept.read_whole([1, 2, 3]) and not kept.lost
    assert not kept.read(0, [1, 2], kept.recent(0), 2)
    assert not kept.read_whole([1, 3, 2])
    assert kept.lost == {2, 3}


def test_a_read_that_is_behind_what_was_seen_before_is_wrong():
    kept = book()
    assert kept.read(0, [7, 8], {}, 0)
    assert not kept.read(0, [7], {}, kept.seen), "though nobody was told that the second is written"
    assert not kept.lost


def test_what_is_written_twice_or_by_nobody_is_found():
    kept = book()
    kept.next_number()
    assert kept.wrote(1, 0)
    assert not kept.wrote(2, 0), "two numbers at one place"
    assert not kept.read_whole([1, 9])
    kept.read_whole([1, 1])
    assert kept.twice == 1


def test_an_outage_lasts_from_the_first_request_in_vain_to_the_next_answer():
    kept = book()
    kept.failed(12.0)
    kept.failed(11.0)
    kept.succeeded(20.0)
    kept.succeeded(21.0)
    kept.failed(30.0)
    assert kept.outages(35.0) == [9.0, 5.0]


def test_an_answer_that_comes_while_an_earlier_request_still_waits_ends_the_outage():
    kept = book()
    kept.succeeded(6.0)
    kept.failed(0.0)  # it gave up after ten seconds
    kept.failed(7.0)
    kept.succeeded(46.0)
    assert kept.outages(50.0) == [6.0, 39.0]


class Runs:
    """What stands in for the processes that run a seed each: they write its result and end with the seed's status.

    None: the seed is still running.
    """

    def __init__(self, statuses: dict[int, int | None]) -> None:
        self.statuses = statuses
        self.pids: dict[int, int] = {}
        self._spawn = os.posix_spawn

    def spawn(self, path: str, command: list[str], environ: Any, **options: Any) -> int:
        seed = int(command[command.index("--seed") + 1])
        status = self.statuses[seed]
        if status in (0, cli.LOST):
            directory = Path(command[command.index("--out") + 1])
            results.write({"seed": seed, "lost_writes": status, "writes_executed_twice": 0}, directory / "result.json")
        does = "exec sleep 600" if status is None else f"exit {status}"
        self.pids[seed] = self._spawn("/bin/sh", ["sh", "-c", does], environ, **options)
        return self.pids[seed]


def several(monkeypatch: pytest.MonkeyPatch, out: Path, runs: Runs) -> Result:
    arguments = ["groups", "--seeds", "1-3", "--jobs", "2", "--out", str(out)]
    monkeypatch.setattr("os.posix_spawn", runs.spawn)
    monkeypatch.setattr(sys, "argv", ["titan-sim", *arguments])
    return CliRunner().invoke(cli.app, arguments)


def test_a_seed_that_loses_a_write_is_in_the_result_of_all_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert several(monkeypatch, tmp_path, Runs({1: 0, 2: cli.LOST, 3: 0})).exit_code == 1
    whole = json.loads((tmp_path / "result.json").read_text())
    assert whole["seed"] == [1, 2, 3] and whole["lost_writes"] == pytest.approx(1 / 3)


def test_when_a_seed_fails_the_others_end_and_no_earlier_result_stands_in_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    results.write({"seed": 1}, tmp_path / "seed-1" / "result.json")
    runs = Runs({1: 2, 2: None, 3: 0})
    assert several(monkeypatch, tmp_path, runs).exit_code == 2
    assert os.waitstatus_to_exitcode(os.waitpid(runs.pids[2], 0)[1]) == -signal.SIGTERM and 3 not in runs.pids
    assert not (tmp_path / "seed-1" / "result.json").exists()
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--session", "weibull:1h"], ["--downtime", "soon"], ["--sizes", "4"], ["--sizes", "five"], ["--nodes", "5"]],
)
def test_what_cannot_be_run_says_how_to_write_it(arguments: list[str], tmp_path: Path):
    outcome = CliRunner().invoke(cli.app, ["groups", *arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.output and "invalid literal" not in outcome.output
