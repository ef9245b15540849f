"""titan-sim: small runs of every scenario, with the files that they write."""

import csv
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from titan_simulations import cli, runner
from titan_simulations.churn import ChurnConfig
from titan_simulations.copies import CopiesConfig

SMALL = ChurnConfig(
    nodes=24,
    seconds=300.0,
    session="weibull:0.6:5m",
    objects=12,
    messages_per_second=1.0,
    lookups_per_second=1.0,
    settle_seconds=60.0,
    clean_share=0.2,
    fake_crypto=True,
)

FIELDS = [
    "nodes",
    "simulated_seconds",
    "cpu_seconds",
    "peak_rss_bytes",
    "trace_hash",
    "seed",
    "command",
    "versions",
    "config",
    "lookups",
    "lookups_found",
    "rpcs_per_lookup_median",
    "messages",
    "messages_answered",
    "objects",
    "objects_lost",
    "objects_lost_expected",
    "share_of_time_below_min",
    "repair_seconds_median",
    "routing_bytes_per_node_second",
    "upkeep_bytes_per_replica_second",
    "repair_bytes_per_node_second",
]


def test_nodes_come_and_go_while_messages_are_answered_and_copies_made_again():
    run, result = runner.churn(SMALL)
    assert result["departures"] >= 5 and result["arrivals"] + result["join_failures"] <= result["departures"]
    assert run.turnover.clean > 0
    assert result["messages"] > 200 and result["messages_answered_share"] > 0.97
    assert result["messages_wrong"] == 0
    assert result["copies_made"] > 0 and result["repair_seconds_median"] < 120
    assert 0 < result["share_of_time_below_min"] < 0.5
    assert sum(row.messages for row in run.series.rows) <= result["messages"] + result["messages_whose_sender_died"]
    assert len(run.series.rows) == 30
    assert set(FIELDS) <= set(result)


def test_figures_cover_the_time_of_the_clock_alone_and_so_does_each_row():
    config = msgspec.structs.replace(SMALL, seconds=95.0, session="weibull:0.6:2m", clean_share=0.0, seed=1)
    run, result = runner.churn(config)
    rows = run.series.rows
    assert rows[-1].seconds == 95 and rows[-2].seconds == 90
    copies = [row.copies_mean for row in rows]
    assert min(copies) <= result["copies_mean"] <= max(copies)
    lasted = [b - a for a, b in pairwise([0.0, *(row.seconds for row in rows)])]
    assert [result["traffic"][f"{each}_bytes"] for each in ("link", "repair")] == pytest.approx(
        [
            sum(row.link_bytes * row.nodes * seconds for row, seconds in zip(rows, lasted, strict=True)),
            sum(row.repair_bytes * row.nodes * seconds for row, seconds in zip(rows, lasted, strict=True)),
        ]
    )


def test_where_nothing_can_be_made_again_losses_are_expected_all_the_same():
    config = msgspec.structs.replace(SMALL, session="weibull:0.6:2m", min_copies=1, max_copies=1, clean_share=0.0)
    _, result = runner.churn(msgspec.structs.replace(config, seconds=120.0, objects=24, messages_per_second=0.0))
    assert result["repairs"] == 0 and result["objects_lost"] == result["copies_died"] > 0
    assert result["objects_lost"] / 2 < result["objects_lost_expected"] < 2 * result["objects_lost"]
    assert result["objects_lost_at_least_so_many_probability"] > 0.05


def test_services_are_kept_alive_too():
    config = msgspec.structs.replace(SMALL, kind="service", seconds=120.0, seed=3)
    _, result = runner.churn(config)
    assert result["messages"] > 80 and result["messages_answered_share"] > 0.97 and result["messages_wrong"] == 0


def trace() -> str:
    return str(runner.churn(msgspec.structs.replace(SMALL, seconds=90.0, settle_seconds=30.0))[1]["trace_hash"])


def test_the_same_seed_gives_the_same_trace_in_any_process():
    here = trace()
    program = "from tests.sim.test_churn import trace; print(trace())"
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["titan-sim", *arguments])
    outcome = CliRunner().invoke(cli.app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_the_command_writes_results_series_and_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    output = invoke(
        monkeypatch, "churn", "--nodes", "12", "--hours", "0.02", "--objects", "4", "--fake-crypto", "--no-sweep",
        "--session", "forever", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(FIELDS) <= set(result)
    assert result["command"].startswith("titan-sim churn --nodes 12") and str(tmp_path) not in result["command"]
    assert result["config"]["fake_crypto"] is True
    assert result["messages_answered"] == result["messages"]
    assert "messages answered" in output
    with (tmp_path / "run" / "series.csv").open() as file:
        assert float(next(csv.DictReader(file))["nodes"]) == 12
    for name in ("success", "latency", "copies", "traffic"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_look_ups_without_churn_find_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    invoke(
        monkeypatch, "lookups", "--nodes", "16", "--objects", "8", "--lookups", "100", "--fake-crypto",
        "--out", str(tmp_path),
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["lookups"] == result["lookups_found"] == result["lookups_found_live_holder"] == 100
    assert sum(result["rpcs_histogram"].values()) == 100


def test_more_copies_share_the_load(tmp_path: Path):
    config = CopiesConfig(nodes=24, copies=(1, 8), objects=1, lookups=20, messages=60, fake_crypto=True)
    one, eight = runner.copies_to(tmp_path, config, "")["points"]
    assert (one["copies"], eight["copies"]) == (1, 8) and eight["holders_mean"] >= 8
    assert one["load_max_share"] == 1 and eight["load_max_share"] < 0.5
    assert (tmp_path / "hops_against_copies.png").exists() and (tmp_path / "load_against_copies.png").exists()


def test_a_small_pool_measures_as_many_copies_as_leave_somebody_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    invoke(
        monkeypatch, "copies", "--nodes", "10", "--objects", "1", "--lookups", "5", "--messages", "5",
        "--fake-crypto", "--out", str(tmp_path),
    )  # fmt: skip
    points = json.loads((tmp_path / "copies.json").read_text())["points"]
    assert [point["copies"] for point in points] == [1, 2, 4, 8]


def test_look_ups_by_nobody_are_refused(tmp_path: Path):
    arguments = ["lookups", "--nodes", "8", "--copies", "8", "--fake-crypto", "--out", str(tmp_path)]
    called = subprocess.run(
        [sys.executable, "-m", "titan_simulations.cli", *arguments], capture_output=True, text=True, timeout=60
    )
    assert called.returncode == 2 and "--copies 8 of 8 nodes" in called.stderr


@pytest.mark.slow
def test_the_command_measures_up_to_64_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    invoke(
        monkeypatch, "copies", "--nodes", "160", "--objects", "1", "--lookups", "20", "--messages", "120",
        "--fake-crypto", "--out", str(tmp_path),
    )  # fmt: skip
    points = json.loads((tmp_path / "copies.json").read_text())["points"]
    assert [point["copies"] for point in points] == [1, 2, 4, 8, 16, 32, 64]
    assert all(point["holders_mean"] >= point["copies"] for point in points)
    assert points[0]["load_max_share"] == 1 and points[-1]["load_max_share"] < 0.25


def test_the_simulator_measures_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    invoke(
        monkeypatch, "scale", "--nodes", "8", "--objects", "2", "--minutes", "0.5", "--fake-crypto",
        "--out", str(tmp_path),
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["nodes_serving"] == 8 and result["cpu_seconds_per_simulated_minute"] > 0


def test_several_seeds_give_intervals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    invoke(
        monkeypatch, "churn", "--nodes", "10", "--hours", "0.02", "--objects", "3", "--fake-crypto", "--no-sweep",
        "--seeds", "1-2", "--out", str(tmp_path),
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["seed"] == [1, 2] and result["runs"] == 2
    assert len(set(result["trace_hash"])) == 2
    low, high = result["intervals"]["cpu_seconds"]
    assert low <= result["cpu_seconds"] <= high


@pytest.mark.parametrize(
    "command", ["churn", "groups", "adversary", "skademlia", "lookups", "copies", "scale", "consensus"]
)
def test_a_directory_that_cannot_be_written_is_found_before_the_run(command: str, tmp_path: Path):
    (tmp_path / "file").touch()
    called = subprocess.run(
        [sys.executable, "-m", "titan_simulations.cli", command, "--out", str(tmp_path / "file" / "run")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert called.returncode == 2
    assert called.stderr.startswith("titan-sim: --out ") and "Not a directory" in called.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("churn", "--hours"),
        ("churn", "--messages"),
        ("churn", "--lookups"),
        ("groups", "--hours"),
        ("groups", "--operations"),
        ("adversary", "--seconds"),
        ("scale", "--minutes"),
        ("scale", "--join-gap"),
    ],
)
@pytest.mark.parametrize("number", ["inf", "nan"])
def test_a_number_without_an_end_is_refused_before_the_run(command: str, option: str, number: str, tmp_path: Path):
    outcome = CliRunner().invoke(cli.app, [command, option, number, "--out", str(tmp_path / "run")])
    assert outcome.exit_code == 2, outcome.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--session", "weibull:1h"],
        ["--classes", "laptop"],
        ["--start", "late"],
        ["--seeds", "3-1"],
        ["--max-copies", "2"],
    ],
)
def test_what_cannot_be_run_says_how_to_write_it(arguments: list[str], tmp_path: Path):
    outcome = CliRunner().invoke(cli.app, ["churn", *arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.output
