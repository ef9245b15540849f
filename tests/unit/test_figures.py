"""What the figures of titan-sim show."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titan_simulations import figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The figures that are saved, by name."""
    saved: dict[str, Axes] = {}

    def save(figure: Figure, axes: Axes, path: Path) -> Path:
        saved[path.stem] = axes
        return path

    monkeypatch.setattr(figures, "_save", save)
    return saved


def test_a_single_outage_is_seen_and_the_curve_begins_at_all_of_them(drawn: dict[str, Axes]):
    figures._outages([30.0], Path("outages.png"))
    (line,) = drawn["outages"].lines
    assert [list(map(float, each)) for each in (line.get_xdata(), line.get_ydata())] == [[30.0, 0.0], [0.0, 1.0]]


def point(share: float, votes: tuple[int, ...], attack: str = "drop") -> dict[str, Any]:
    answers = {"sends": 10, "right": 9, "wrong": 1}
    return {
        "attack": attack, "share_malicious": share, "paths": "shipped", "lookups": 10, "lookups_right": 10,
        "rpcs_per_lookup_median": 20, **answers, "services": answers,
        "voted": [{"votes": each, **answers} for each in votes],
    }  # fmt: skip


def test_every_number_of_votes_has_its_curve(drawn: dict[str, Axes]):
    votes = (1, 3, 5, 7, 9, 11)
    figures.adversary([point(share, votes) for share in (0.0, 0.2)], Path())
    labels = [line.get_label() for line in drawn["drop_votes"].lines]
    assert labels == ["no votes", *(f"{what}{each} votes" for each in votes for what in ("", "binomial, "))]


def test_the_figures_of_a_plug_in_are_called_as_any_file_system_takes_it(drawn: dict[str, Axes]):
    for each in figures.adversary([point(0.2, (1,), "my_attacks:Stall")], Path("out")):
        assert each.stem.startswith("my_attacks.Stall_")
