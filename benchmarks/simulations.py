"""Brings the results of `titan-sim` into docs/benchmarks.md, and its figures into docs/figures/.

    titan-sim churn --seeds 1-3 --out out/churn
    titan-sim churn --seeds 1-3 --min-copies 5 --out out/churn-5
    titan-sim churn --seeds 1-3 --start fresh --out out/churn-fresh
    titan-sim lookups --out out/lookups
    titan-sim copies --out out/copies
    titan-sim scale --out out/scale
    titan-sim adversary ... --out out/adversary       (and more, each into a directory whose name begins so; their
                                                       results are kept in benchmarks/results)
    titan-sim skademlia --out out/skademlia
    titan-sim groups --fake-crypto --seed 1 --out out/groups
    titan-sim consensus --engine raft --seeds 200 --out out/consensus-raft      (and bft)
    python -m benchmarks.simulations --results out

What is missing in the directory is left as it stands in the page.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import adversary, report
from titan_simulations import results

FIGURES = report.ROOT / "docs" / "figures"
Result = dict[str, Any]
Form = Callable[[Any], str]


def number(digits: int = 0, unit: str = "", factor: float = 1.0) -> Form:
    """How a figure is written."""
    return lambda value: "–" if not isinstance(value, int | float) else f"{value * factor:,.{digits}f}{unit}"


PERCENT = number(3, " %", 100)
SECONDS = number(1, " s")
BYTES = number(1, " B/s")
MIB = number(0, " MiB", 2.0**-20)

CHURN: list[tuple[str, str, Form, str]] = [
    ("departures", "departures", number(), ""),
    ("messages", "messages", number(), ""),
    ("messages answered", "messages_answered_share", PERCENT, "≥ 99.9 %"),
    ("time to an answer, median", "message_seconds_median", number(2, " s"), ""),
    ("time to an answer, 99 %", "message_seconds_p99", number(2, " s"), ""),
    ("look-ups", "lookups", number(), ""),
    ("look-ups that found a holder", "lookups_found", number(), ""),
    ("RPCs per look-up, median", "rpcs_per_lookup_median", number(1), ""),
    ("share of object-time below `min_copies`", "share_of_time_below_min", PERCENT, "≤ 2 %"),
    ("repair, from the death to enough copies, median", "repair_seconds_median", SECONDS, ""),
    ("repair, 95 %", "repair_seconds_p95", SECONDS, ""),
    ("objects lost", "objects_lost", number(2), "see next"),
    ("objects lost in a world without memory (Markov), at these rates", "objects_lost_expected", number(3), ""),
    ("copies that died", "copies_died", number(), ""),
    ("routing, sent per node", "routing_bytes_per_node_second", BYTES, "≤ 150 B/s"),
    ("advertisements and probes, sent per replica", "upkeep_bytes_per_replica_second", BYTES, "≤ 25 B/s"),
    ("repair, sent per node", "repair_bytes_per_node_second", BYTES, ""),
    ("look-ups, sent per node", "lookup_bytes_per_node_second", BYTES, ""),
    ("CPU per simulated minute", "cpu_seconds_per_churn_minute", SECONDS, ""),
    ("peak memory", "peak_rss_bytes", MIB, ""),
]

GROUPS: list[tuple[str, str, Form, str]] = [
    ("nodes", "nodes", number(), ""),
    ("of them up, mean", "nodes_up_mean", number(), ""),
    ("groups", "groups", number(), ""),
    ("departures", "departures", number(), ""),
    ("returns", "returns", number(), ""),
    ("operations", "operations", number(), ""),
    ("operations answered", "availability", PERCENT, "≥ 99.9 %"),
    ("a write, median", "write_seconds_median", number(2, " s"), ""),
    ("a read, median", "read_seconds_median", number(2, " s"), ""),
    ("outages of a group", "outages", number(), ""),
    ("longest outage", "longest_outage_seconds", SECONDS, ""),
    ("members replaced", "members_replaced", number(), ""),
    ("repair, from the death to the vote of another, median", "repair_seconds_median", SECONDS, ""),
    ("groups without a quorum for a while", "groups_that_lost_their_quorum", number(2), "see next"),
    ("the same, expected (Markov), at these rates", "groups_that_lost_their_quorum_expected", number(4), ""),
    ("groups whose quorum is unrecoverable", "groups_unrecoverable", number(2), "see next"),
    ("the same, expected (Markov), at these rates", "groups_unrecoverable_expected", number(6), ""),
    ("acknowledged writes", "writes_acknowledged", number(), ""),
    ("of them lost", "lost_writes", number(), "0"),
    ("executed twice", "writes_executed_twice", number(), "0"),
    ("CPU per simulated minute", "cpu_seconds_per_churn_minute", SECONDS, ""),
    ("peak memory", "peak_rss_bytes", MIB, ""),
]

CONSENSUS: list[tuple[str, str, Form, str]] = [
    ("seeds", "seeds", number(), ""),
    ("requests that were answered", "operations", number(), ""),
    ("fewest in a seed", "operations_least", number(), "≥ 1,000"),
    ("changes of members", "epochs", number(), ""),
    ("violations", "violations", number(), "0"),
    ("undecided by the checker", "undecided", number(), "≤ 1 % of the seeds"),
    ("stalled after the faults had ended", "stalled", number(), "0"),
]

LOOKUPS: list[tuple[str, str, Form, str]] = [
    ("nodes", "nodes", number(), ""),
    ("look-ups", "lookups", number(), ""),
    ("found", "lookups_found", number(), "all"),
    ("RPCs, median", "rpcs_per_lookup_median", number(1), "≤ 7"),
    ("RPCs, mean", "rpcs_per_lookup_mean", number(2), "≤ 7.5"),
    ("RPCs, 95 %", "rpcs_per_lookup_p95", number(1), ""),
    ("hops, mean", "hops_per_lookup_mean", number(2), ""),
    ("time, median", "lookup_seconds_median", number(3, " s"), ""),
]

SCALE: list[tuple[str, str, Form, str]] = [
    ("nodes", "nodes", number(), ""),
    ("of them serving", "nodes_serving", number(), "all"),
    ("objects", "objects", number(), ""),
    ("CPU for one node to join", "join_cpu_seconds_per_node", number(3, " s"), ""),
    ("CPU per simulated minute", "cpu_seconds_per_simulated_minute", SECONDS, "≤ 15 s for 1,000 nodes"),
    ("memory per node", "bytes_per_node", number(0, " KiB", 2.0**-10), ""),
    ("peak memory", "peak_rss_bytes", MIB, "≤ 4 GiB for 10,000 nodes"),
]


def rows(result: Result, figures: list[tuple[str, str, Form, str]]) -> str:
    """A table of figures beside their targets; in brackets how far they spread, where there are several seeds."""
    intervals = result["intervals"] if "intervals_are" in result else {}
    lines = ["| figure | value | target |", "|---|---:|---:|"]
    for label, key, form, target in figures:
        if key in result:
            low, high = intervals.get(key) or (None, None)
            spread = "" if low is None else f" [{form(low)}, {form(high)}]"
            lines.append(f"| {label} | {form(result[key])}{spread} | {target} |")
    return "\n".join([*lines, "", run_by(result)])


def run_by(result: Result) -> str:
    """Command, seeds, traces and cryptography of a result."""
    traces = result["trace_hash"] if isinstance(result["trace_hash"], list) else [result["trace_hash"]]
    configs = result["config"] if isinstance(result["config"], list) else [result["config"]]
    crypto = "fake" if any(each["fake_crypto"] for each in configs) else "real"
    mean = f"; mean of the seeds, in brackets {result['intervals_are']}" if "intervals_are" in result else ""
    return f"`{result['command']}` ({crypto} signatures; traces {', '.join(each[:12] for each in traces)}{mean})"


def copies(result: Result) -> str:
    """Hops and load against copies."""
    lines = [
        "| copies | RPCs, mean | RPCs, 95 % | hops, mean | busiest holder | its load / mean load |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for p in result["points"]:
        lines.append(
            f"| {p['copies']} | {p['rpcs_mean']:.2f} | {p['rpcs_p95']:.0f} | {p['hops_mean']:.2f} "
            f"| {p['load_max_share']:.1%} | {p['load_max_over_mean']:.2f} |"
        )
    return "\n".join([*lines, "", run_by(result)])


def consensus(found: list[Result]) -> str:
    """What became of histories, of each engine."""
    engines = [{"raft": "Raft", "bft": "BFT"}[result["engine"]] for result in found]
    lines = [f"| figure | {' | '.join(engines)} | target |", "|---|" + "---:|" * len(found) + "---:|"]
    for label, key, form, target in CONSENSUS:
        lines.append(f"| {label} | {' | '.join(form(result[key]) for result in found)} | {target} |")
    return "\n".join([*lines, "", "; ".join(f"`{result['command']}`" for result in found)])


def load(path: Path) -> Result | None:
    """A result, or None where there is none. Of several seeds it is made anew of theirs, where these are there."""
    if not path.exists():
        return None
    whole: Result = json.loads(path.read_text(encoding="utf-8"))
    seeds = whole.get("seed")
    parts = [path.parent / f"seed-{seed}" / path.name for seed in seeds] if isinstance(seeds, list) else []
    if not parts or not all(part.exists() for part in parts):
        return whole
    each = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
    return results.combined(each, command=whole["command"])


def take_figures(source: Path, prefix: str) -> None:
    """Copies the PNG files of a run."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    for picture in sorted(source.glob("*.png")):
        shutil.copyfile(picture, FIGURES / f"{prefix}{picture.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("out"))
    where = parser.parse_args().results
    tables = (
        ("churn", "churn", CHURN),
        ("churn-5", "churn-5", CHURN),
        ("churn-fresh", "churn-fresh", CHURN),
        ("groups-under-churn", "groups", GROUPS),
        ("simulated-lookups", "lookups", LOOKUPS),
        ("simulator", "scale", SCALE),
        ("simulator-10000", "scale-10000", SCALE),
    )
    for marker, directory, figures in tables:
        result = load(where / directory / "result.json")
        if result is not None:
            report.write_table(marker, rows(result, figures))
    engines = [load(where / f"consensus-{engine}" / "result.json") for engine in ("raft", "bft")]
    histories = [each for each in engines if each is not None]
    if len(histories) == len(engines):
        report.write_table("consensus", consensus(histories))
    one = next(
        (where / "churn" / name for name in ("seed-1", ".") if (where / "churn" / name / "copies.png").exists()), None
    )
    if one is not None:
        take_figures(one, "churn_")
    if (where / "groups" / "availability.png").exists():
        take_figures(where / "groups", "groups_")
    swept = load(where / "copies" / "copies.json")
    if swept is not None:
        report.write_table("copies", copies(swept))
        take_figures(where / "copies", "")
    adversary.keep(where)
    for directory, pictures in adversary.PICTURES.values():
        for name in pictures:
            if (where / directory / f"{name}.png").exists():
                shutil.copyfile(where / directory / f"{name}.png", FIGURES / f"adversary_{name}.png")
    for marker, (table, stamped) in adversary.tables(where).items():
        _, pictures = adversary.PICTURES.get(marker, ("", {}))
        below = [
            f"![{what}](figures/adversary_{name}.png)"
            for name, what in pictures.items()
            if (FIGURES / f"adversary_{name}.png").exists()
        ]
        report.write_table(marker, "\n\n".join([table, *below]), stamped=stamped)


if __name__ == "__main__":
    main()
