"""result.json of the adversary: one entry in `points` for each attack, share of liars, setting of paths, and seed."""

from collections.abc import Sequence
from typing import Any

from titan_simulations.adversary import Adversary, Measured, Sends
from titan_simulations.measure import cpu_seconds
from titan_simulations.results import Result, common
from titan_simulations.statistics import majority_binomial, mean, median, quantile


def adversary_result(run: Adversary, measured: Sequence[Measured], *, command: str, seconds_per_key: float) -> Result:
    """One run of one attack, share and seed.

    Args:
        seconds_per_key: CPU time to make one key with real cryptography: what grinding an id costs.
    """
    branches = measured if len(measured) > 1 else ()  # each in a process of its own
    return {
        **common(
            "adversary",
            config=run.config,
            command=command,
            seed=run.config.seed,
            trace_hash=" ".join(each.trace_hash for each in measured),
            simulated=measured[-1].simulated_seconds,
        ),
        "cpu_seconds": cpu_seconds() + sum(each.cpu_seconds for each in branches),
        "nodes": run.config.nodes,
        "points": [_point(run, each, seconds_per_key) for each in measured],
    }


def merged(results: Sequence[Result], *, command: str) -> Result:
    """Several runs as one result: all their points."""
    first = results[0]
    return {
        **first,
        "command": command,
        "seed": sorted({each["seed"] for each in results}),
        "config": [each["config"] for each in results],
        "trace_hash": [each["trace_hash"] for each in results],
        "cpu_seconds": sum(each["cpu_seconds"] for each in results),
        "peak_rss_bytes": max(each["peak_rss_bytes"] for each in results),
        "points": [point for each in results for point in each["points"]],
    }


def _point(run: Adversary, measured: Measured, seconds_per_key: float) -> Result:
    config, world = run.config, run.world
    tried = measured.attack_counts.get("keys_tried")
    published = [*run.data, *run.services, *(each for voted in run.voted.values() for each in voted)]
    hosts = [number for each in published for number in world.tracked(each).holders]
    return {
        "attack": config.attack,
        "share_malicious": config.malicious,
        "paths": measured.paths,
        "seed": config.seed,
        "session": config.session,
        "lookups": measured.lookups,
        "lookups_right": measured.lookups_right,
        "lookups_without_honest_holder": measured.lookups_without_honest_holder,
        "rpcs_per_lookup_median": median(measured.rpcs),
        "rpcs_per_lookup_mean": mean(measured.rpcs),
        "rpcs_per_lookup_p95": quantile(measured.rpcs, 0.95),
        "rpcs_per_lookup_p99": quantile(measured.rpcs, 0.99),
        "rpcs_per_lookup_max": max(measured.rpcs, default=0),
        "lookup_seconds_median": median(measured.lookup_seconds),
        "lookup_seconds_p95": quantile(measured.lookup_seconds, 0.95),
        **_sends(measured.data),
        "services": _sends(measured.services),
        "voted": [_voted(votes, sends) for votes, sends in measured.voted.items()],
        "failures": {
            "lookups": measured.lookup_failures,
            "data": measured.data.failures,
            "services": measured.services.failures,
            **{f"votes of {votes}": sends.failures for votes, sends in measured.voted.items()},
        },
        "objects_unpublished": dict(world.unpublished),
        "objects_with_liars_only": sum(not world.honest_holders(each.object_id) for each in run.data),
        "liars_among_holders": sum(map(world.is_liar, hosts)) / max(1, len(hosts)),
        "departures": measured.departures,
        "bytes_sent_per_node_second": measured.bytes_sent_per_node_second,
        "bytes_received_per_node_second": measured.bytes_received_per_node_second,
        "attack_counts": measured.attack_counts,
        "grinding_cpu_seconds": None if tried is None else tried * seconds_per_key,
        "grinding_cpu_seconds_per_object": None
        if tried is None
        else tried * seconds_per_key / max(1, len(world.gang.aimed)),
        "objects_aimed_at": len(world.gang.aimed),
        "trace_hash": measured.trace_hash,
        "simulated_seconds": measured.simulated_seconds,
        "cpu_seconds_of_pool": run.cpu_of_pool,
        "cpu_seconds_of_measuring": measured.cpu_seconds,
    }


def _sends(sends: Sends) -> dict[str, Any]:
    return {
        "sends": sends.sends,
        "right": sends.right,
        "wrong": sends.wrong,
        "unavailable": sends.unavailable,
        "send_seconds_median": median(sends.seconds),
        "send_seconds_p95": quantile(sends.seconds, 0.95),
    }


def _voted(votes: int, sends: Sends) -> dict[str, Any]:
    return {
        "votes": votes,
        **_sends(sends),
        "wrong_share": sends.wrong / max(1, sends.sends),
        "liars_among_hosts": sends.liars_among_hosts,
        "binomial_bound": majority_binomial(votes, sends.liars_among_hosts),
        "bound_of_these_hosts": sends.bound,
    }
