"""titan-sim adversary: every attack does its harm where nothing stands in its way, and a point is what it says."""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from titan_overlay.config import NodeConfig
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.testing.pool import Machine
from titan_simulations import cli, points, runner
from titan_simulations.adversary import Adversary, AdversaryConfig
from titan_simulations.results import Result
from titan_simulations.world import Report

SMALL = AdversaryConfig(
    nodes=40, malicious=0.5, objects=8, services=6, votes=(), min_copies=4, lookups=60, sends=60, seconds=20.0,
    settle_seconds=20.0, fake_crypto=True,
)  # fmt: skip


class Unprotected(Adversary):
    """Honest nodes with small tables, whose look-ups go one way alone."""

    def __init__(self, config: AdversaryConfig, report: Report) -> None:
        super().__init__(config, report)
        self.world.machine = Machine(config=NodeConfig(k=3, alpha=1, paths=1))


def unprotected(attack: str, malicious: float = 0.5, seed: int = 1) -> Result:
    """What becomes of unprotected nodes."""
    config = msgspec.structs.replace(SMALL, attack=attack, malicious=malicious, seed=seed)

    async def main() -> Result:
        run = Unprotected(config, lambda what, now: None)
        measured = await run.run()
        result: Result = points.adversary_result(run, measured, command="", seconds_per_key=1e-4)["points"][0]
        return result

    return runner.simulate(main(), seed=seed, fake=True)


point = functools.cache(unprotected)


def honest() -> Result:
    return point("drop", 0.0)


def share(result: Result, part: str, whole: str) -> float:
    return float(result[part] / result[whole])


def test_without_liars_everything_is_found_and_right():
    result = honest()
    assert result["lookups_right"] == result["lookups"] == 60
    for kind in (result, result["services"]):
        assert kind["right"] == kind["sends"] == 60 and not kind["wrong"] and not kind["unavailable"]
    assert result["failures"] == {"lookups": {}, "data": {}, "services": {}}
    assert result["liars_among_holders"] == 0 and result["objects_unpublished"] == {}


def test_drop_makes_askers_wait():
    result = point("drop")
    assert 0.1 < result["liars_among_holders"] < 0.6  # they hold their share of what is handed to whoever answers
    assert result["lookup_seconds_median"] > 2 * honest()["lookup_seconds_median"]
    assert result["send_seconds_p95"] > 2 * honest()["send_seconds_p95"]


@pytest.mark.slow
def test_misrouting_hides_holders_but_wins_liars_no_copies():
    """It did, before publishers drew from their tables first and from the object's own region last."""
    result = point("misroute", 0.9, 8)  # of the first eleven seeds it hides some in three
    assert 0.5 < result["liars_among_holders"] <= 0.9
    assert result["lookups_right"] < result["lookups"]


@pytest.mark.slow
def test_forgers_answer_wrongly_and_waste_time():
    result = point("forge", 0.25)
    assert share(result["services"], "wrong", "sends") > 0.1
    assert result["wrong"] == 0  # data proves itself
    assert result["lookup_seconds_median"] > honest()["lookup_seconds_median"]


@pytest.mark.slow
def test_an_object_whose_closest_ids_are_ground_is_found_all_the_same():
    """Even by nodes without protection: copies are not where the ids are, and a region is wider than they crowd."""
    result = point("eclipse")
    assert result["objects_aimed_at"] == 1 and result["attack_counts"]["keys_ground"] == 20
    assert result["grinding_cpu_seconds_per_object"] == pytest.approx(result["attack_counts"]["keys_tried"] * 1e-4)
    assert result["lookups_without_honest_holder"] == 0
    assert result["lookups_right"] == result["lookups"] == 60
    assert result["right"] == result["sends"] == 60
    assert result["services"]["right"] == result["services"]["sends"]  # it is aimed at one object alone


async def around_the_object(overlay: Overlay, object_id: ObjectId, points: object) -> AsyncIterator[list[Contact]]:
    yield await overlay.find_nodes(object_id, 20)


@pytest.mark.slow
def test_it_would_be_hidden_if_copies_were_put_near_its_id(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("titan_overlay.pool.keeping.recruiter.Candidates", around_the_object)
    result = unprotected("eclipse")
    assert result["lookups_right"] < 0.5 * (result["lookups"] + result["lookups_without_honest_holder"])
    assert result["unavailable"] > 0 == result["wrong"]


@pytest.mark.slow
def test_who_equivocates_gives_some_askers_wrong_answers():
    result = point("equivocate", 0.4)
    assert 0.05 < share(result["services"], "wrong", "sends") < 0.5
    assert result["wrong"] == 0


@pytest.mark.slow
def test_a_flood_costs_the_honest_traffic():
    result = point("flood")
    assert result["attack_counts"]["deeds"] > 200
    assert result["bytes_received_per_node_second"] > 2 * honest()["bytes_received_per_node_second"]


@pytest.mark.slow
def test_all_is_every_attack_at_once():
    result = point("all", 0.4)
    assert result["wrong"] == 0
    assert result["attack_counts"]["deeds"] > 0 and result["attack_counts"]["keys_ground"] > 0


# --- runs -------------------------------------------------------------------------------------------------------

TINY = msgspec.structs.replace(
    SMALL, nodes=16, attack="all", objects=3, services=2, min_copies=3, lookups=10, sends=10, seconds=10.0, votes=(3,)
)


def trace() -> str:
    return str(runner.adversary(TINY)[1]["trace_hash"])


def test_the_same_seed_gives_the_same_trace_in_any_process():
    here = trace()
    there = subprocess.run(
        [sys.executable, "-c", "from tests.sim.test_adversary import trace; print(trace())"],
        env={**os.environ, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_all_settings_of_paths_begin_from_the_same_pool():
    _, result = runner.adversary(msgspec.structs.replace(TINY, paths=("shipped", "1", "shipped")))
    first, one, again = result["points"]
    assert [each["paths"] for each in result["points"]] == ["shipped", "1", "shipped"]
    assert first["trace_hash"] == again["trace_hash"] != one["trace_hash"]
    measuring = sum(each["cpu_seconds_of_measuring"] for each in result["points"])
    assert result["cpu_seconds"] >= first["cpu_seconds_of_pool"] + measuring


@pytest.mark.slow
def test_liars_come_and_go_like_others():
    config = msgspec.structs.replace(TINY, session="exponential:60s", seconds=60.0, votes=())
    run, result = runner.adversary(config)
    assert result["points"][0]["departures"] > 3
    live = [node.number for node in run.world.sim.nodes]
    assert len(live) > 16
    newcomers = [number for number in live if number >= 16]
    assert any(map(run.world.is_liar, newcomers)) and not all(map(run.world.is_liar, newcomers))


def test_who_dies_in_the_middle_of_a_request_is_no_failure_of_the_run():
    config = msgspec.structs.replace(
        SMALL, nodes=24, malicious=0.3, attack="all", session="weibull:0.6:20s", objects=6, lookups=400, sends=400,
        seconds=60.0, seed=3,
    )  # fmt: skip
    point = runner.adversary(config)[1]["points"][0]
    assert point["departures"] > 10
    assert 0 < point["lookups"] < 400 and 0 < point["sends"] < 400, "those of dead askers are not counted"
    assert point["sends"] == point["right"] + point["wrong"] + point["unavailable"]


# --- the command --------------------------------------------------------------------------------------------------


def invoke(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["titan-sim", *arguments])
    outcome = CliRunner().invoke(cli.app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.mark.slow
def test_a_grid_is_one_result_with_all_points_and_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    output = invoke(
        monkeypatch, "adversary", "--nodes", "10", "--malicious", "0,0.4", "--attack", "misroute", "--objects", "2",
        "--lookups", "5", "--seconds", "5", "--quick", "--fake-crypto", "--jobs", "2", "--out", str(tmp_path),
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert [(each["attack"], each["share_malicious"]) for each in result["points"]] == [
        ("misroute", 0),
        ("misroute", 0.4),
    ]
    for each in result["points"]:
        assert {"paths", "lookups", "lookups_right", "sends", "right", "wrong", "unavailable"} <= set(each)
        assert each["rpcs_per_lookup_median"] is not None and len(each["voted"]) == 2
    assert "40%" in output and str(tmp_path) not in result["command"]
    for name in ("lookups", "data", "requests", "votes"):
        assert (tmp_path / f"misroute_{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--malicious", "1.5"], "share"),
        (["--malicious", "half"], "half"),
        (["--churn", "weibull:1h"], "weibull"),
        (["--paths", "0"], "--paths"),
        (["--votes", "-3"], "--votes"),
        (["--votes", "5,32"], "32"),
        (["--seeds", "3-1"], "seeds"),
    ],
)
def test_what_cannot_be_run_says_how_to_write_it(arguments: list[str], says: str, tmp_path: Path):
    outcome = CliRunner().invoke(cli.app, ["adversary", *arguments, "--out", str(tmp_path)])
    assert outcome.exit_code == 2
    assert says in outcome.output and "Traceback" not in outcome.output


def test_an_unknown_attack_is_one_line_that_lists_the_known():
    called = subprocess.run(
        [sys.executable, "-m", "titan_simulations.cli", "adversary", "--attack", "melt"], capture_output=True, text=True
    )
    assert called.returncode == 2
    assert (
        called.stderr.startswith("titan-sim: no attack 'melt'; there are drop, misroute")
        and "Trace" not in called.stderr
    )


def test_a_disk_that_is_full_is_one_line(tmp_path: Path):
    few = ("--nodes=8", "--objects=1", "--services=1", "--votes=0", "--lookups=1", "--seconds=1", "--fake-crypto")
    called = subprocess.run(
        [sys.executable, "-m", "titan_simulations.cli", "adversary", *few, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert called.returncode == 1
    assert "titan-sim: --out cannot be written whole" in called.stderr and "Trace" not in called.stderr


@pytest.mark.parametrize(
    "comes",
    [
        "calls._Call._measured = lambda call, work: end()",  # in the middle of an object's handler
        "os.register_at_fork(after_in_parent=end)",
    ],
)
def test_a_run_ends_also_where_an_exception_would_be_lost(comes: str, tmp_path: Path):
    program = (
        "import os, signal; from titan_overlay.pool.hosting import calls; from titan_simulations import cli; "
        f"end = lambda: os.kill(os.getpid(), signal.SIGTERM); {comes}; cli.main()"
    )
    few = ("--nodes=8", "--objects=1", "--services=1", "--votes=0", "--lookups=9", "--fake-crypto", "--paths=1,2")
    command = [sys.executable, "-c", program, "adversary", *few, "--seed=3", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, "Trace" in ended.stderr) == (-signal.SIGTERM, False)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_all_processes_of_a_run_end_with_it(by: int, tmp_path: Path):
    few = ("--nodes=8", "--objects=1", "--services=1", "--votes=0", "--lookups=3000", "--fake-crypto", "--paths=1,2")
    command = [sys.executable, "-m", "titan_simulations.cli", "adversary", *few, "--seeds=3-4", "--jobs=2"]
    with subprocess.Popen([*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert any(" of 9000 requests" in line for line in running.stderr), "a copy of a run is measuring"
        running.send_signal(by)
        said = running.stderr.read()  # to its end, which comes with that of the last process
    assert "Trace" not in said and not list(tmp_path.glob("*/result.json"))
