"""Tables of what `titan-sim adversary` and `titan-sim skademlia` measured: the worst of all seeds, targets beside.

A point of a thousand nodes takes minutes, and a table has dozens: each result is kept in `benchmarks/results`, with the
commit at which it was measured, and a table is made of all that are there. To measure one anew replaces it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from titan_overlay.identity.poolrecord import PUZZLE_BITS_DEFAULT

Point = dict[str, Any]
Result = dict[str, Any]

KEPT = report.ROOT / "benchmarks" / "results"

NODES = 1000
"""Of the pools in the tables; figures that show many shares of liars are of smaller ones."""
TARGETS = {0.2: 0.999, 0.5: 0.99}
"""Share of liars -> share of look-ups that find an honest holder, and of messages to data that are answered rightly."""
TARGET_CHURN = 0.995
TARGET_RPCS = 40
TARGET_HIDDEN = 0.01

PICTURES: dict[str, tuple[str, dict[str, str]]] = {
    "adversary": (
        "adversary",
        {
            "all_lookups": "Look-ups that find an honest holder, against the share of liars",
            "all_data": "Messages to data that are answered rightly, against the share of liars",
            "all_requests": "Requests of a look-up, against the share of liars",
        },
    ),
    "votes": (
        "adversary-shares",
        {"forge_votes": "Wrong answers of services, against the share of liars, beside the binomial bound"},
    ),
    "skademlia": (
        "skademlia",
        {"skademlia": "Look-ups that succeed, against the share of liars, beside the closed form"},
    ),
}
"""By the marker of a table the run whose figures stand below it, and what they show."""


def keep(where: Path) -> None:
    """Takes over every `adversary*/result.json` below a directory, as measured at this commit, unless it is kept."""
    KEPT.mkdir(exist_ok=True)
    for path in sorted(where.glob("adversary*/result.json")):
        result, kept = json.loads(path.read_text(encoding="utf-8")), KEPT / f"{path.parent.name}.json"
        before = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if before | result != before:
            kept.write_text(json.dumps(result | report.provenance(), indent=1) + "\n", encoding="utf-8")


def tables(where: Path) -> dict[str, tuple[str, str]]:
    """By marker a table and its stamp, of what is kept, and of `skademlia/result.json` below a directory."""
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("adversary*.json"))]
    results = [each for each in kept if all(config["nodes"] == NODES for config in _listed(each["config"]))]
    points = [point for result in results for point in result["points"] if point["paths"] == "shipped"]
    still = [point for point in points if not point["session"]]
    moving = [point for point in points if point["session"]]
    found: dict[str, tuple[str, str]] = {}

    def add(marker: str, table: str, points: Sequence[Point]) -> None:
        found[marker] = (table, report.stamp_of(_results_with(results, points)))

    if any(point["share_malicious"] for point in still):
        add("adversary", _attacks(still, TARGETS) + _run_by(_results_with(results, still)), still)
    voted = [point for point in still if point["voted"]]
    if voted:
        add("votes", _votes(voted), voted)
    if moving:
        commands = _run_by(_results_with(results, moving))
        add("adversary-churn", _attacks(moving, {0.2: TARGET_CHURN}) + commands, moving)
    aimed = [point for point in still if point["attack"] == "eclipse" and point["objects_aimed_at"]]
    if aimed:
        add("eclipse", _eclipse(aimed), aimed)
    check = where / "skademlia" / "result.json"
    if check.exists():
        found["skademlia"] = (_skademlia(json.loads(check.read_text(encoding="utf-8"))), report.stamp())
    return found


def _attacks(points: Sequence[Point], targets: dict[float, float]) -> str:
    lines = [
        "| liars | attack | seeds | look-ups right | RPCs, median (95 %) | data right | wrong | unavailable |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    shares = sorted({point["share_malicious"] for point in points})
    for share in shares:
        if share in targets:
            goal = f"≥ {targets[share]:.1%}"
            lines.append(f"| {share:.0%} | *target* | | *{goal}* | *≤ {TARGET_RPCS}* | *{goal}* | *0* | |")
        for attack in dict.fromkeys(point["attack"] for point in points):
            own = [point for point in points if (point["attack"], point["share_malicious"]) == (attack, share)]
            if own:
                lines.append(
                    f"| {share:.0%} | {attack} | {len(own)} | {_worst(own, 'lookups_right', 'lookups')} "
                    f"| {_most(own, 'rpcs_per_lookup_median')} ({_most(own, 'rpcs_per_lookup_p95')}) "
                    f"| {_worst(own, 'right', 'sends')} | {sum(point['wrong'] for point in own)} "
                    f"| {sum(point['unavailable'] for point in own)} |"
                )
    return "\n".join(lines)


def _votes(points: Sequence[Point]) -> str:
    """Wrong answers beside what chance gives: of all seeds together, and of the one that comes nearest to it."""
    lines = [
        "| liars | attack | votes | seeds | liars among hosts | right | wrong | binomial bound | worst seed (bound) |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    kinds = dict.fromkeys((point["share_malicious"], point["attack"]) for point in points)
    for share, attack in sorted(kinds):
        own = [point for point in points if (point["share_malicious"], point["attack"]) == (share, attack)]
        for votes in sorted({each["votes"] for point in own for each in point["voted"]}):
            voted = [each for point in own for each in point["voted"] if each["votes"] == votes]
            sends = sum(each["sends"] for each in voted)
            if not sends or not share:
                continue
            worst = max(voted, key=lambda each: each["wrong_share"] / (each["binomial_bound"] or 1.0))
            lines.append(
                f"| {share:.0%} | {attack} | {votes} | {len(voted)} | {_mean(voted, 'liars_among_hosts')} "
                f"| {sum(each['right'] for each in voted) / sends:.2%} of {sends:,} "
                f"| {sum(each['wrong'] for each in voted) / sends:.2%} | {_mean(voted, 'binomial_bound', 2)} "
                f"| {worst['wrong_share']:.2%} ({worst['binomial_bound']:.2%}) |"
            )
    return "\n".join(lines)


def _eclipse(points: Sequence[Point]) -> str:
    """How often an object is hidden whose 20 closest ids are the attacker's, and what these ids cost."""
    lines = [
        f"| liars | objects | CPU time per object | with a puzzle of {PUZZLE_BITS_DEFAULT} bits "
        "| look-ups that miss it | target | held by liars alone | data right |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for share in sorted({point["share_malicious"] for point in points}):
        own = [point for point in points if point["share_malicious"] == share and point["objects_aimed_at"]]
        if own:
            hidden = [_hidden(point) for point in own]
            cost = max(point["grinding_cpu_seconds_per_object"] for point in own)
            lines.append(
                f"| {share:.0%} | {sum(point['objects_aimed_at'] for point in own)} | {cost:.1f} s "
                f"| {cost * 2**PUZZLE_BITS_DEFAULT:,.0f} s "
                f"| {max(hidden):.2%} | < {TARGET_HIDDEN:.0%} "
                f"| {sum(point['lookups_without_honest_holder'] for point in own)} look-ups "
                f"| {_worst(own, 'right', 'sends')} |"
            )
    return "\n".join(lines)


def _hidden(point: Point) -> float:
    """Of all look-ups of objects aimed at: an object that liars alone hold is as hidden as can be."""
    asked = point["lookups"] + point["lookups_without_honest_holder"]
    return 1 - point["lookups_right"] / asked if asked else 0.0


def _skademlia(result: Result) -> str:
    paths = list(dict.fromkeys(point["paths"] for point in result["points"] if point["kind"] != "ours"))
    lines = [
        "| liars | " + " | ".join(f"d = {each}, closed form" for each in paths) + " | as a node looks up, RPCs |",
        "|---:|" + "---:|" * (len(paths) + 1),
    ]
    for share in dict.fromkeys(point["share_malicious"] for point in result["points"]):
        row = [point for point in result["points"] if point["share_malicious"] == share]
        cells = [f"{_worst([each], 'lookups_right', 'lookups')}, {each['expected']:.1%}" for each in row[:-1]]
        ours = f"{_worst(row[-1:], 'lookups_right', 'lookups')}, {row[-1]['rpcs_per_lookup_mean']:.1f}"
        lines.append(f"| {share:.0%} | {' | '.join(cells)} | {ours} |")
    return "\n".join([*lines, "", f"`{result['command']}`"])


def _worst(points: Sequence[Point], part: str, whole: str) -> str:
    shares = [point[part] / point[whole] for point in points if point[whole]]
    return f"{min(shares):.2%}" if shares else "–"


def _most(points: Sequence[Point], key: str) -> str:
    values = [point[key] for point in points if point[key] is not None]
    return f"{max(values):.0f}" if values else "–"


def _mean(points: Sequence[Point], key: str, digits: int = 1) -> str:
    """Of points of different size, by messages."""
    sends = sum(point["sends"] for point in points)
    return f"{sum(point['sends'] * point[key] for point in points) / sends:.{digits}%}"


def _run_by(results: Sequence[Result]) -> str:
    """Commands and cryptography."""
    configs = [config for result in results for config in _listed(result["config"])]
    crypto = "fake" if any(config["fake_crypto"] for config in configs) else "real"
    seeds: dict[str, list[str]] = {}
    for result in results:
        command = re.sub(r" --seed \d+", "", result["command"])
        seeds.setdefault(command, []).append(str(result["seed"]))
    commands = "; ".join(
        f"`{command}` (seed{'s' if len(own) > 1 else ''} {', '.join(own)})" for command, own in seeds.items()
    )
    return f"\n\nThe worst of the seeds; wrong and unavailable are sums. {commands} ({crypto} signatures)"


def _results_with(results: Sequence[Result], points: Sequence[Point]) -> list[Result]:
    return [result for result in results if any(point in points for point in result["points"])]


def _listed(config: Any) -> list[Any]:
    return config if isinstance(config, list) else [config]
