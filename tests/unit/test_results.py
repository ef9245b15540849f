"""What several seeds say together."""

import json

import pytest

from titan_simulations import results


def test_figures_become_means_with_intervals_and_hashes_lists():
    runs = [
        {"nodes": 9, "lookups": value, "trace_hash": f"h{value}", "seed": value, "peak_rss_bytes": value}
        for value in (1, 2, 3)
    ]
    whole = results.combined(runs, command="titan-sim churn --seeds 1-3")
    assert whole["nodes"] == 9
    assert whole["lookups"] == 2 and whole["intervals"]["lookups"] == pytest.approx([2 - 2.484, 2 + 2.484], abs=0.01)
    assert whole["trace_hash"] == ["h1", "h2", "h3"] and whole["seed"] == [1, 2, 3]
    assert whole["peak_rss_bytes"] == 3
    assert "nodes" not in whole["intervals"]


def test_what_is_no_number_is_null_in_json(tmp_path):
    path = tmp_path / "new" / "result.json"
    results.write({"a": float("nan"), "b": [float("inf"), 1.5], 3: "x"}, path)
    assert json.loads(path.read_text()) == {"a": None, "b": [None, 1.5], "3": "x"}
