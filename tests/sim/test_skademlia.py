"""The check of the simulator: look-ups on a bare event heap, beside the closed form and beside whole nodes."""

import json
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from titan_overlay.ambient import Random
from titan_overlay.identity.ids import ID_BITS
from titan_simulations import cli
from titan_simulations.skademlia import SKademliaConfig, Tables, run

SMALL = SKademliaConfig(nodes=2000, malicious=(0.0, 0.2, 0.5), lookups=150)


def test_ideal_tables_hold_k_nodes_of_each_subtree():
    tables = Tables(500, 4, Random(1))
    for me in tables.contacts[:20]:
        table = tables.closest(me, me.id, 500)
        assert me not in table and len(set(table)) == len(table)
        depths = [ID_BITS - (each.long_id ^ me.long_id).bit_length() for each in table]
        for depth in range(max(depths) + 1):
            there = sum(
                ID_BITS - (each.long_id ^ me.long_id).bit_length() == depth for each in tables.contacts if each != me
            )
            assert depths.count(depth) == min(4, there)


def test_look_ups_over_disjoint_paths_succeed_as_often_as_the_closed_form_says():
    result = run(SMALL, lambda what, now: None, "")
    theirs = [point for point in result["points"] if point["kind"] == "s/kademlia"]
    assert len(theirs) == 12
    for point in theirs:
        expected = point["expected"]
        spread = math.sqrt(max(expected * (1 - expected), 0.01) / point["lookups"])
        assert abs(point["lookups_right"] / point["lookups"] - expected) < 4 * spread, point
    ours = [point for point in result["points"] if point["kind"] == "ours"]
    assert ours[0]["lookups_right"] == ours[0]["lookups"]
    for point in ours[1:]:
        alone = next(p for p in theirs if (p["share_malicious"], p["paths"]) == (point["share_malicious"], 1))
        assert point["lookups_right"] > alone["lookups_right"]


def test_the_same_seed_gives_the_same_points():
    tiny = SKademliaConfig(nodes=300, malicious=(0.3,), lookups=20)
    assert run(tiny, lambda what, now: None, "")["points"] == run(tiny, lambda what, now: None, "")["points"]


def test_the_command_writes_its_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    arguments = ["skademlia", "--nodes", "200", "--lookups", "5", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["titan-sim", *arguments])
    outcome = CliRunner().invoke(cli.app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads((tmp_path / "result.json").read_text())["points"]) == 7 * 5
    assert (tmp_path / "skademlia.png").read_bytes().startswith(b"\x89PNG")
