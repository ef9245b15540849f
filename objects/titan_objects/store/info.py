"""The text of INFO, by section."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import titan_overlay as titan
from titan_objects.store.commands.connection import SERVER_VERSION
from titan_objects.store.commands.memory import figures
from titan_objects.store.commands.replication import host_of
from titan_objects.store.stats import human

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

Section = dict[str, Any]

TICKS_PER_SECOND = 100
"""How often it is looked what has expired."""


def _server(e: "Engine") -> Section:
    seconds = max(0, e.now - e.stats.started_ms) // 1000
    return {
        "redis_version": SERVER_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "titan_version": titan.__version__,
        "redis_mode": "standalone",
        "arch_bits": 64,
        "multiplexing_api": "asyncio",
        "tcp_port": e.config.get("port"),
        "server_time_usec": e.now * 1000,
        "uptime_in_seconds": seconds,
        "uptime_in_days": seconds // 86400,
        "hz": TICKS_PER_SECOND,
        "configured_hz": TICKS_PER_SECOND,
        "lru_clock": e.now // 1000 & 0xFFFFFF,
        "executable": "titan",
        "config_file": "",
        "io_threads_active": 0,
    }


def _clients(e: "Engine") -> Section:
    sessions = e.sessions.values()
    return {
        "connected_clients": len(sessions),
        "cluster_connections": 0,
        "maxclients": e.config.get("maxclients"),
        "blocked_clients": e.waiting.count,
        "pubsub_clients": sum(session.subscribed for session in sessions),
        "tracking_clients": len(e.tracking.clients),
        "watching_clients": sum(bool(session.watched) for session in sessions),
    }


def _memory(e: "Engine") -> Section:
    scripts = sum(map(len, e.scripts.sources.values()))
    functions = sum(len(each.source) for each in e.functions.libraries.values())
    known = figures(e)
    return {
        "used_memory": 0,  # tools take the first line that begins so; the shell around knows the figure
        "used_memory_human": human(0),
        "used_memory_rss": 0,
        "used_memory_overhead": known["overhead.total"],
        "used_memory_dataset": known["dataset.bytes"],
        "used_memory_dataset_perc": f"{known['dataset.percentage']:.2f}%",
        "used_memory_scripts_eval": scripts,
        "number_of_cached_scripts": len(e.scripts.sources),
        "number_of_functions": sum(len(each.functions) for each in e.functions.libraries.values()),
        "number_of_libraries": len(e.functions.libraries),
        "used_memory_functions": functions,
        "used_memory_scripts": scripts + functions,
        "used_memory_scripts_human": human(scripts + functions),
        "maxmemory": e.config.maxmemory,
        "maxmemory_human": human(e.config.maxmemory),
        "maxmemory_policy": e.config.get("maxmemory-policy"),
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": e.replication.backlog.size,
        "mem_clients_slaves": known["clients.slaves"],
        "mem_clients_normal": known["clients.normal"],
        "mem_allocator": "python",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    }


def _persistence(e: "Engine") -> Section:
    return {
        "loading": int(e.loading),
        "async_loading": 0,
        "rdb_changes_since_last_save": e.stats.changes,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": e.stats.last_rewrite_ms // 1000,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "aof_enabled": int(e.config.get("appendonly") == "yes"),
        "aof_rewrite_in_progress": int(e.stats.rewriting),
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": e.stats.last_rewrite,
        "aof_last_write_status": "err" if e.refuse_writes else "ok",
        "aof_current_size": e.stats.log_bytes,
        "aof_base_size": e.stats.log_base_bytes,
    }


def _stats(e: "Engine") -> Section:
    stats = e.stats
    return {
        "total_connections_received": stats.connections,
        "total_commands_processed": e.usages.calls,
        "instantaneous_ops_per_sec": round(stats.commands_rate.per_second),
        "total_net_input_bytes": stats.read_bytes,
        "total_net_output_bytes": stats.sent_bytes,
        "instantaneous_input_kbps": f"{stats.read_rate.per_second / 1024:.2f}",
        "instantaneous_output_kbps": f"{stats.sent_rate.per_second / 1024:.2f}",
        "rejected_connections": stats.rejected,
        "sync_full": stats.full_syncs,
        "sync_partial_ok": stats.partial_syncs,
        "expired_keys": stats.expired,
        "expired_subkeys": stats.expired_fields,
        "evicted_keys": stats.evicted,
        "evicted_clients": 0,
        "keyspace_hits": stats.hits,
        "keyspace_misses": stats.misses,
        "pubsub_channels": len(e.exchange.channels),
        "pubsub_patterns": len(e.exchange.patterns),
        "pubsubshard_channels": len(e.exchange.shards),
        "latest_fork_usec": 0,
        "total_forks": 0,
        "unexpected_error_replies": 0,
        "total_error_replies": stats.errors,
    }


def _replication(e: "Engine") -> Section:
    replication = e.replication
    leader = replication.leader
    shown: Section = {"role": "master" if leader is None else "slave"}
    if leader is not None:
        shown |= {
            "master_host": leader.host,
            "master_port": leader.port,
            "master_link_status": "up" if leader.link == "connected" else "down",
            "master_last_io_seconds_ago": (e.now - leader.heard_ms) // 1000 if leader.heard_ms else -1,
            "master_sync_in_progress": int(leader.link == "sync"),
            "slave_repl_offset": max(0, leader.offset),
            "slave_read_only": 1,
        }
    shown |= {"connected_slaves": len(replication.replicas), "master_failover_state": "no-failover"}
    for at, (session, replica) in enumerate(replication.replicas.items()):
        lag = max(0, e.now - replica.heard_ms) // 1000
        shown[f"slave{at}"] = (
            f"ip={host_of(session.address).decode()},port={session.replica_port},state={replica.state},"
            f"offset={replica.acknowledged},lag={lag}"
        )
    return shown | {
        "master_replid": replication.id if leader is None else leader.id,
        "master_replid2": "0" * 40,
        "master_repl_offset": e.written if leader is None else max(0, leader.offset),
        "second_repl_offset": -1,
        "repl_backlog_active": int(replication.backlog.size > 0 or bool(replication.replicas)),
        "repl_backlog_size": e.config.get("repl-backlog-size"),
        "repl_backlog_first_byte_offset": replication.backlog.begin + 1,
        "repl_backlog_histlen": replication.backlog.size,
    }


def _cpu(e: "Engine") -> Section:
    return {}


def _modules(e: "Engine") -> Section:
    return {}


def _commandstats(e: "Engine") -> Section:
    return {
        f"cmdstat_{name}": (
            f"calls={each.calls},usec={round(each.micros)},usec_per_call={each.micros / max(1, each.calls):.2f},"
            f"rejected_calls={each.rejected},failed_calls={each.failed}"
        )
        for name, each in e.usages
    }


def _errorstats(e: "Engine") -> Section:
    return {f"errorstat_{code}": f"count={count}" for code, count in sorted(e.stats.error_codes.items())}


def _latencystats(e: "Engine") -> Section:
    wanted = [float(each) for each in e.config.get("latency-tracking-info-percentiles").split()]
    shown: Section = {}
    for name, each in e.usages:
        if each.calls and wanted and e.config.get("latency-tracking") == "yes":
            found = zip(wanted, each.percentiles(wanted), strict=True)
            shown[f"latency_percentiles_usec_{name}"] = ",".join(f"p{at:g}={micros:.3f}" for at, micros in found)
    return shown


def _cluster(e: "Engine") -> Section:
    return {"cluster_enabled": 0}


def _keyspace(e: "Engine") -> Section:
    return {
        f"db{db.index}": f"keys={len(db.data)},expires={len(db.expires)},avg_ttl=0" for db in e.databases if db.data
    }


SECTIONS: dict[str, Callable[["Engine"], Section]] = {
    "server": _server,
    "clients": _clients,
    "memory": _memory,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "modules": _modules,
    "commandstats": _commandstats,
    "errorstats": _errorstats,
    "latencystats": _latencystats,
    "cluster": _cluster,
    "keyspace": _keyspace,
}

_DEFAULT = frozenset(SECTIONS) - {"commandstats", "latencystats"}
_SETS = {"default": _DEFAULT, "all": frozenset(SECTIONS), "everything": frozenset(SECTIONS)}


def report(e: "Engine", wanted: list[str]) -> str:
    """The sections asked for, by their names or by `default`, `all` and `everything`; none: the default ones."""
    chosen = frozenset[str]().union(*(_SETS.get(word, {word}) for word in wanted or ["default"]))
    around = e.surroundings()
    parts = []
    for name, section in SECTIONS.items():
        if name in chosen:
            lines = [f"{key}:{value}\r\n" for key, value in (section(e) | around.get(name, {})).items()]
            parts.append(f"# {name.capitalize() if name != 'cpu' else 'CPU'}\r\n{''.join(lines)}")
    return "\r\n".join(parts)
