"""Pictures of results, drawn with matplotlib into PNG files; nothing is shown on a screen."""

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from titan_simulations.statistics import majority_binomial, mean

BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9791f", "#3a8f4d", "#8a8f98"
COLOURS = (BLUE, ORANGE, GREEN, "#a23b72", "#6b4fa0", GREY)
SIZE = (7.0, 3.6)
DPI = 130

Rows = Sequence[dict[str, float]]


def churn(rows: Rows, result: dict[str, Any], out: Path) -> list[Path]:
    """All figures of a churn run: success, latency, copies and traffic over time."""
    config = result["config"]
    return [
        _success(rows, out / "success.png"),
        _latency(rows, out / "latency.png"),
        _copies(rows, config["min_copies"], config["max_copies"], out / "copies.png"),
        _traffic(rows, out / "traffic.png"),
    ]


def groups(rows: Rows, result: dict[str, Any], out: Path) -> list[Path]:
    """Figures of groups under churn: availability and the state of the groups over time, and how long outages were."""
    return [
        _shares(rows, [("operations answered", "answered", "operations", BLUE)], out / "availability.png"),
        _groups(rows, out / "groups.png"),
        _outages(result["outage_seconds"], out / "outages.png"),
    ]


def _groups(rows: Rows, path: Path) -> Path:
    figure, axes = _axes("minutes", "groups")
    minutes = _minutes(rows)
    axes.plot(minutes, _column(rows, "groups_incomplete"), color=BLUE, label="not all members are up")
    axes.plot(minutes, _column(rows, "groups_without_quorum"), color=ORANGE, label="no quorum is up")
    axes.set_ylim(bottom=0)
    return _save(figure, axes, path)


def _outages(seconds: Sequence[float], path: Path) -> Path:
    """How many outages were longer than so many seconds."""
    figure, axes = _axes("seconds", "outages of a group that were longer")
    longest_first = [*sorted(seconds, reverse=True), 0.0]
    axes.step(longest_first, range(len(longest_first)), color=ORANGE, label=f"{len(seconds)} outages")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return _save(figure, axes, path)


def _success(rows: Rows, path: Path) -> Path:
    return _shares(
        rows,
        [
            ("messages answered", "messages_answered", "messages", BLUE),
            ("look-ups that found a holder", "lookups_found", "lookups", ORANGE),
        ],
        path,
    )


def _shares(rows: Rows, curves: Sequence[tuple[str, str, str, str]], path: Path) -> Path:
    """For each label: what went well, as a share of what was asked, and a colour."""
    figure, axes = _axes("minutes", "share of a minute's requests")
    minutes = _minutes(rows)
    lowest = 0.99
    for label, good, all_, colour in curves:
        width = max(1, round(60 / _step(rows)))
        ratio = []
        for end in range(len(rows)):
            window = rows[max(0, end - width + 1) : end + 1]
            total = sum(row[all_] for row in window)
            ratio.append(sum(row[good] for row in window) / total if total else math.nan)
        axes.plot(minutes, ratio, label=label, color=colour)
        lowest = min([lowest, *(value for value in ratio if value == value)])
    axes.set_ylim(lowest - 0.002, 1.0005)
    return _save(figure, axes, path)


def _latency(rows: Rows, path: Path) -> Path:
    figure, axes = _axes("minutes", "seconds")
    minutes = _minutes(rows)
    axes.plot(minutes, _column(rows, "message_seconds_median"), color=BLUE, label="message, median")
    axes.plot(minutes, _column(rows, "message_seconds_p95"), color=BLUE, alpha=0.45, label="message, 95 %")
    axes.plot(minutes, _column(rows, "lookup_seconds_median"), color=ORANGE, label="look-up, median")
    axes.plot(minutes, _column(rows, "lookup_seconds_p95"), color=ORANGE, alpha=0.45, label="look-up, 95 %")
    axes.set_yscale("log")
    return _save(figure, axes, path)


def _copies(rows: Rows, low: int, high: int, path: Path) -> Path:
    figure, axes = _axes("minutes", "live counted copies of an object")
    minutes = _minutes(rows)
    axes.axhspan(low, high, color=GREEN, alpha=0.12, label=f"policy: {low} to {high}")
    axes.fill_between(
        minutes, _column(rows, "copies_p5"), _column(rows, "copies_p95"), color=BLUE, alpha=0.3, label="5 % to 95 %"
    )
    axes.plot(minutes, _column(rows, "copies_mean"), color=BLUE, label="mean")
    axes.plot(minutes, _column(rows, "copies_min"), color=ORANGE, linewidth=1, label="least of all objects")
    axes.plot(minutes, _column(rows, "copies_max"), color=GREY, linewidth=1, label="most of all objects")
    axes.set_ylim(0, max(high, *_column(rows, "copies_max")) + 0.5)
    return _save(figure, axes, path)


def _traffic(rows: Rows, path: Path) -> Path:
    figure, axes = _axes("minutes", "bytes sent per second and node")
    minutes = _minutes(rows)
    for key, label, colour in (
        ("routing_bytes", "routing (with handshakes)", BLUE),
        ("upkeep_bytes", "upkeep (advertisements, probes)", GREEN),
        ("repair_bytes", "repair (new copies)", ORANGE),
        ("lookup_bytes", "look-ups", GREY),
    ):
        axes.plot(minutes, _column(rows, key), label=label, color=colour)
    axes.set_ylim(bottom=0)
    return _save(figure, axes, path)


def hops_against_copies(points: Sequence[dict[str, Any]], out: Path) -> Path:
    """Requests until a holder is known, against the number of copies."""
    figure, axes = _axes("copies of the object", "requests until a holder is known")
    copies = [point["copies"] for point in points]
    axes.plot(copies, [point["rpcs_mean"] for point in points], "o-", color=BLUE, label="requests, mean")
    axes.plot(copies, [point["rpcs_p95"] for point in points], "o-", color=BLUE, alpha=0.4, label="requests, 95 %")
    axes.plot(copies, [point["hops_mean"] for point in points], "s-", color=ORANGE, label="hops, mean")
    _logarithmic(axes, copies)
    axes.set_ylim(bottom=0)
    return _save(figure, axes, out / "hops_against_copies.png")


def load_against_copies(points: Sequence[dict[str, Any]], out: Path) -> Path:
    """Messages that each holder of one object answers, against the number of copies."""
    figure, axes = _axes("copies of the object", "share of all messages at one holder")
    copies = [point["copies"] for point in points]
    axes.plot(copies, [point["load_max_share"] for point in points], "o-", color=ORANGE, label="busiest holder")
    axes.plot(copies, [point["load_mean_share"] for point in points], "o-", color=BLUE, label="mean")
    axes.plot(copies, [1 / each for each in copies], ":", color=GREY, label="1 / copies")
    _logarithmic(axes, copies)
    axes.set_yscale("log")
    return _save(figure, axes, out / "load_against_copies.png")


def rpcs(histogram: dict[int, int], out: Path) -> Path:
    """How many look-ups took how many requests."""
    figure, axes = _axes("requests", "look-ups")
    axes.bar(list(histogram), list(histogram.values()), color=BLUE, label="look-ups")
    return _save(figure, axes, out / "rpcs_per_lookup.png")


def adversary(points: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """For each attack: success of look-ups, of data and of voted services, and requests, against the share of liars."""
    written = []
    for attack in dict.fromkeys(point["attack"] for point in points):
        own = [point for point in points if point["attack"] == attack]
        name = attack.replace(":", ".")  # of a plug-in: as the directories of its runs are called
        lookups = _by_paths(own, lambda point: _share(point["lookups_right"], point["lookups"]))
        data = _by_paths(own, lambda point: _share(point["right"], point["sends"]))
        rpcs = _by_paths(own, lambda point: point["rpcs_per_lookup_median"])
        written += [
            _against_liars(lookups, "look-ups that find an honest holder", out / f"{name}_lookups.png"),
            _against_liars(data, "messages to data answered rightly", out / f"{name}_data.png"),
            _against_liars(rpcs, "requests of a look-up, median", out / f"{name}_requests.png", success=False),
            _votes(own, out / f"{name}_votes.png"),
        ]
    return written


Curves = dict[str, dict[float, list[float]]]
"""Label -> share of liars -> the value of each seed."""


def _by_paths(points: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> Curves:
    curves: Curves = {}
    for point in points:
        label = "as shipped" if point["paths"] == "shipped" else f"paths: {point['paths']}"
        curves.setdefault(label, {}).setdefault(point["share_malicious"], []).append(value(point))
    return curves


def _against_liars(curves: Curves, what: str, path: Path, *, success: bool = True) -> Path:
    """A line through the means of the seeds, in a band from the lowest to the highest."""
    figure, axes = _axes("share of liars", what)
    for (label, curve), colour in zip(sorted(curves.items()), cycle(COLOURS), strict=False):
        shares = sorted(curve)
        axes.plot(shares, [mean(curve[share]) for share in shares], "o-", color=colour, markersize=3, label=label)
        low, high = ([edge(curve[share]) for share in shares] for edge in (min, max))
        axes.fill_between(shares, low, high, color=colour, alpha=0.15)
    axes.set_ylim(*((-0.02, 1.02) if success else (0, None)))
    return _save(figure, axes, path)


def _votes(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Wrong answers of services against the share of liars, with and without votes, and what chance alone gives."""
    figure, axes = _axes("share of liars", "wrong answers of services")
    alone: dict[float, list[float]] = {}
    voted: dict[int, dict[float, list[float]]] = {}
    for point in points:
        share = point["share_malicious"]
        alone.setdefault(share, []).append(_share(point["services"]["wrong"], point["services"]["sends"]))
        for each in point["voted"]:
            voted.setdefault(each["votes"], {}).setdefault(share, []).append(_share(each["wrong"], each["sends"]))
    shares = sorted(alone)
    axes.plot(shares, [mean(alone[share]) for share in shares], "o-", color=GREY, markersize=3, label="no votes")
    for (votes, curve), colour in zip(sorted(voted.items()), cycle(COLOURS[:-1]), strict=False):
        axes.plot(
            shares, [mean(curve[share]) for share in shares], "o-", color=colour, markersize=3, label=f"{votes} votes"
        )
        fine = [shares[-1] * step / 60 for step in range(61)]
        bound = [majority_binomial(votes, share) for share in fine]
        axes.plot(fine, bound, ":", color=colour, label=f"binomial, {votes} votes")
    axes.set_ylim(-0.02, 1.02)
    return _save(figure, axes, path)


def skademlia(points: Sequence[dict[str, Any]], out: Path) -> Path:
    """Success of look-ups for a node: as S/Kademlia looks up, its closed form (dotted), and as a node does."""
    figure, axes = _axes("share of liars", "look-ups that find the node")
    kinds = dict.fromkeys((point["kind"], point["paths"]) for point in points)
    for (kind, paths), colour in zip(kinds, cycle(COLOURS), strict=False):
        own = [point for point in points if (point["kind"], point["paths"]) == (kind, paths)]
        shares = [point["share_malicious"] for point in own]
        label = "as Titan looks up" if kind == "ours" else f"S/Kademlia, d = {paths}"
        found = [_share(point["lookups_right"], point["lookups"]) for point in own]
        axes.plot(
            shares, found, "o" if own[0]["expected"] is not None else "o-", color=colour, markersize=4, label=label
        )
        if own[0]["expected"] is not None:
            axes.plot(shares, [point["expected"] for point in own], ":", color=colour)
    axes.set_ylim(-0.02, 1.02)
    return _save(figure, axes, out / "skademlia.png")


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _logarithmic(axes: Axes, copies: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(copies), [str(each) for each in copies])


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> Path:
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _column(rows: Rows, key: str) -> list[float]:
    return [row[key] for row in rows]


def _minutes(rows: Rows) -> list[float]:
    return [row["seconds"] / 60 for row in rows]


def _step(rows: Rows) -> float:
    return rows[0]["seconds"] if rows else 1.0
