"""result.json: what every run writes, and what several seeds say together."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from titan_overlay.testing.pool import SimulatedPool
from titan_simulations import markov
from titan_simulations.churn import Churn
from titan_simulations.measure import cpu_seconds, peak_rss_bytes, versions
from titan_simulations.series import routing, upkeep
from titan_simulations.statistics import RUNS_FOR_AN_INTERVAL, mean, median, quantile, spread

Result = dict[str, Any]


def common(kind: str, *, config: msgspec.Struct, command: str, seed: int, trace_hash: str, simulated: float) -> Result:
    """The fields of every result."""
    return {
        "kind": kind,
        "command": command,
        "seed": seed,
        "config": msgspec.to_builtins(config),
        "versions": versions(),
        "trace_hash": trace_hash,
        "simulated_seconds": simulated,
        "cpu_seconds": cpu_seconds(),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def common_of(sim: SimulatedPool, kind: str, config: msgspec.Struct, seed: int, command: str) -> Result:
    """The same of a run in one pool, up to now."""
    return common(kind, config=config, command=command, seed=seed, trace_hash=sim.trace_hash, simulated=sim.now)


def churn_result(run: Churn, *, command: str, cpu_of_clock: float) -> Result:
    """The figures of a finished run.

    Traffic is bytes sent (payload and headers) since the clock started; what is received is the same again.
    `objects_lost_expected` is the Markov model's, for the measured mean repair time and the rates at which copies died,
    measured over time; where nothing was made again, without repair.
    """
    config, log, kept, traffic, turnover = run.config, run.log, run.kept, run.traffic, run.turnover
    sim = run.world.sim
    object_seconds = config.objects * config.seconds
    held_seconds = kept.replica_seconds + kept.passing_seconds
    death_rate = kept.deaths / kept.replica_seconds if kept.replica_seconds else 0.0
    repair_mean = mean(kept.repair_seconds)
    expected = markov.expected_losses(
        config.objects, config.min_copies, kept.death_rates, repair_mean if kept.repair_seconds else math.inf
    )
    return {
        **common_of(sim, "churn", config, config.seed, command),
        "nodes": config.nodes,
        "churn_seconds": config.seconds,
        "cpu_seconds_per_churn_minute": cpu_of_clock / (config.seconds / 60),
        "departures": turnover.departures,
        "departures_clean": turnover.clean,
        "arrivals": turnover.arrivals,
        "join_failures": turnover.join_failures,
        "lookups": log.lookups,
        "lookups_found": log.found,
        "lookups_found_live_holder": log.found_live,
        "rpcs_per_lookup_median": median(log.rpcs),
        "rpcs_per_lookup_mean": mean(log.rpcs),
        "rpcs_per_lookup_p95": quantile(log.rpcs, 0.95),
        "lookup_seconds_median": median(log.lookup_seconds),
        "lookup_seconds_p95": quantile(log.lookup_seconds, 0.95),
        "messages": log.messages,
        "messages_answered": log.answered,
        "messages_answered_share": log.answered / log.messages if log.messages else math.nan,
        "messages_wrong": log.wrong,
        "messages_to_lost_objects": log.to_lost,
        "messages_whose_sender_died": log.abandoned,
        "message_failures": dict(sorted(log.failures.items())),
        "message_seconds_median": median(log.message_seconds),
        "message_seconds_p95": quantile(log.message_seconds, 0.95),
        "message_seconds_p99": quantile(log.message_seconds, 0.99),
        "objects": config.objects,
        "objects_lost": kept.lost,
        "objects_lost_expected": expected,
        "objects_lost_at_least_so_many_probability": markov.poisson_at_least(kept.lost, expected),
        "copies_mean": kept.replica_seconds / object_seconds,
        "copies_died": kept.deaths,
        "copies_made": kept.copies_made,
        "copies_dropped": kept.copies_dropped,
        "copy_lifetime_seconds_mean": 1 / death_rate if death_rate else math.inf,
        "share_of_time_below_min": kept.below_seconds / object_seconds,
        "repairs": len(kept.repair_seconds),
        "repair_seconds_median": median(kept.repair_seconds),
        "repair_seconds_mean": repair_mean,
        "repair_seconds_p95": quantile(kept.repair_seconds, 0.95),
        "routing_bytes_per_node_second": routing(traffic) / turnover.node_seconds,
        "lookup_bytes_per_node_second": traffic.get("lookup_bytes_sent", 0) / turnover.node_seconds,
        "upkeep_bytes_per_replica_second": upkeep(traffic) / held_seconds if held_seconds else math.nan,
        "advertise_bytes_per_replica_second": traffic.get("advertise_bytes_sent", 0) / (held_seconds or math.nan),
        "probe_bytes_per_replica_second": (traffic.get("probe_bytes_sent", 0) + traffic.get("other_bytes_sent", 0))
        / (held_seconds or math.nan),
        "repair_bytes_per_node_second": traffic["repair_bytes"] / turnover.node_seconds,
        "link_bytes_per_node_second": traffic["link_bytes"] / turnover.node_seconds,
        "udp_bytes_per_node_second": traffic["udp_bytes"] / turnover.node_seconds,
        "traffic": traffic,
    }


def combined(results: Sequence[Result], *, command: str) -> Result:
    """Several seeds as one result: means of the figures, and how far they spread under `intervals`.

    What `intervals` are is under `intervals_are`. What is equal in all runs stays; `trace_hash`, `seed` and the like
    become lists; `peak_rss_bytes` is the largest, and so has none.
    """
    whole: Result = {}
    intervals: dict[str, list[float]] = {}
    for key, first in results[0].items():
        values = [each.get(key) for each in results]
        if all(value == first for value in values):
            whole[key] = first
        elif all(isinstance(value, int | float) for value in values) and key not in ("seed", "config"):
            numbers = [float(value) for value in values if value is not None]
            if key == "peak_rss_bytes":
                whole[key] = max(numbers)
                continue
            whole[key] = mean(numbers)
            if len(numbers) == len(values):
                # Counts, times, bytes and shares: no figure of a result can be below 0.
                intervals[key] = list(spread(numbers, 0.0, 1.0 if _is_share(key) else math.inf))
        else:
            whole[key] = values
    are = "95 % intervals" if len(results) >= RUNS_FOR_AN_INTERVAL else "the smallest and the largest"
    return {**whole, "command": command, "runs": len(results), "intervals": intervals, "intervals_are": are}


def _is_share(key: str) -> bool:
    """Whether a figure with this name lies between 0 and 1."""
    return key == "availability" or key.startswith("share_") or key.endswith(("_share", "_probability"))


def write(result: Result, path: Path) -> None:
    """As JSON; what is no number (a median of nothing) is null. What stood there is replaced at once, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.write_text(json.dumps(_plain(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float():
            return float(f"{value:.8g}") if math.isfinite(value) else None
        case _:
            return value
