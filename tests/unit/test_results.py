"""What several seeds say together."""

import json
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from benchmarks import simulations
from titan_simulations import many, results, tables


def test_figures_become_means_with_intervals_and_hashes_lists():
    runs = [
        {"nodes": 9, "lookups": value, "trace_hash": f"h{value}", "seed": value, "peak_rss_bytes": value}
        for value in (1, 2, 3)
    ]
    whole = results.combined(runs, command="titan-sim churn --seeds 1-3")
    assert whole["nodes"] == 9
    assert whole["lookups"] == 2 and whole["intervals"]["lookups"] == pytest.approx([0, 2 + 2.484], abs=0.01)
    assert whole["trace_hash"] == ["h1", "h2", "h3"] and whole["seed"] == [1, 2, 3]
    assert whole["peak_rss_bytes"] == 3
    assert not {"nodes", "peak_rss_bytes"} & set(whole["intervals"])


def test_a_table_in_a_narrow_log_cuts_no_figure_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    sends = {"sends": 300, "right": 300}
    point = {
        "share_malicious": 0.2, "attack": "equivocate", "seed": 1, "paths": "shipped", "lookups": 300,
        "lookups_right": 299, "rpcs_per_lookup_median": 24, **sends, "services": sends,
        "voted": [{"votes": votes, **sends} for votes in (3, 5, 7, 9)],
    }  # fmt: skip
    tables.show_points({"points": [point]}, Path("out"))
    assert "…" not in capsys.readouterr().out


RUN = {"trace_hash": "h", "config": {"fake_crypto": True}}


@pytest.mark.parametrize(
    ("lost", "shares", "cells", "brackets"),
    [
        (
            [0, 2],
            [0.99912, 1.0],
            ["1.00 [0.00, 2.00]", "99.956 % [99.912 %, 100.000 %]"],
            "the smallest and the largest",
        ),
        ([0, 0, 3], [0.99, 1.0, 1.0], ["1.00 [0.00, 5.30]", "99.667 % [98.232 %, 100.000 %]"], "95 % intervals"),
    ],
)
def test_a_table_shows_no_figure_that_cannot_be(lost: list[int], shares: list[float], cells: list[str], brackets: str):
    runs = [{**RUN, "objects_lost": a, "messages_answered_share": b} for a, b in zip(lost, shares, strict=True)]
    table = simulations.rows(results.combined(runs, command="titan-sim churn"), simulations.CHURN)
    assert f"| objects lost | {cells[0]} |" in table
    assert f"| messages answered | {cells[1]} |" in table
    assert f"in brackets {brackets})" in table


def test_of_a_result_that_does_not_say_what_its_intervals_are_none_are_shown():
    old = {**RUN, "command": "x", "objects_lost": 1.0, "intervals": {"objects_lost": [-11.71, 13.71]}}
    assert "| objects lost | 1.00 |" in simulations.rows(old, simulations.CHURN)


def test_what_is_no_number_is_null_in_json(tmp_path):
    path = tmp_path / "new" / "result.json"
    results.write({"a": float("nan"), "b": [float("inf"), 1.5], 3: "x"}, path)
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.5], "3": "x"}


def test_a_result_that_cannot_be_written_whole_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:3].encode(encoding))
        raise OSError(ENOSPC, "No space left on device")

    path = tmp_path / "result.json"
    results.write({"a": 1}, path)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        results.write({"a": 2}, path)
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_runs_that_are_cut_short_leave_no_result_of_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*arguments: Any, **options: Any) -> int:
        raise KeyboardInterrupt

    for directory in (tmp_path, tmp_path / "seed-1", tmp_path / "seed-2"):
        results.write({**RUN, "seed": 7}, directory / "result.json")
    monkeypatch.setattr("os.posix_spawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        many.each_seed([1, 2], 1, tmp_path)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "seed-1" / "result.json").exists()
    assert (tmp_path / "seed-2" / "result.json").exists(), "its turn had not come"


def test_a_result_of_several_seeds_is_made_anew_of_theirs(tmp_path: Path):
    runs = [{**RUN, "seed": seed, "objects_lost": lost, "repairs": None} for seed, lost in ((1, 0), (2, 2))]
    for run in runs:
        results.write(run, tmp_path / f"seed-{run['seed']}" / "result.json")
    results.write({**RUN, "seed": [1, 2], "command": "x", "objects_lost": 7}, tmp_path / "result.json")
    found = simulations.load(tmp_path / "result.json")
    assert found is not None
    assert (found["command"], found["objects_lost"], found["intervals"]["objects_lost"]) == ("x", 1, [0, 2])
    assert simulations.load(tmp_path / "none.json") is None
