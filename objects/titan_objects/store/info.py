"""The text of INFO, by section."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import titan_overlay as titan
from titan_objects.store.commands.connection import SERVER_VERSION
from titan_objects.store.commands.replication import host_of

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

Section = dict[str, Any]


def _server(e: "Engine") -> Section:
    seconds = max(0, e.now - e.stats.started_ms) // 1000
    return {
        "redis_version": SERVER_VERSION,
        "titan_version": titan.__version__,
        "redis_mode": "standalone",
        "arch_bits": 64,
        "multiplexing_api": "asyncio",
        "tcp_port": e.config.get("port"),
        "server_time_usec": e.now * 1000,
        "uptime_in_seconds": seconds,
        "uptime_in_days": seconds // 86400,
        "executable": "titan",
        "config_file": "",
    }


def _clients(e: "Engine") -> Section:
    sessions = e.sessions.values()
    return {
        "connected_clients": len(sessions),
        "maxclients": e.config.get("maxclients"),
        "blocked_clients": e.waiting.count,
        "pubsub_clients": sum(session.subscribed for session in sessions),
        "tracking_clients": len(e.tracking.clients),
        "watching_clients": sum(bool(session.watched) for session in sessions),
    }


def _memory(e: "Engine") -> Section:
    return {
        "maxmemory": e.config.maxmemory,
        "maxmemory_policy": e.config.get("maxmemory-policy"),
        "mem_allocator": "python",
    }


def _persistence(e: "Engine") -> Section:
    return {
        "loading": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": e.stats.last_rewrite_ms // 1000,
        "rdb_last_bgsave_status": "ok",
        "aof_enabled": int(e.config.get("appendonly") == "yes"),
        "aof_rewrite_in_progress": int(e.stats.rewriting),
        "aof_last_bgrewrite_status": e.stats.last_rewrite,
        "aof_last_write_status": "err" if e.refuse_writes else "ok",
        "aof_current_size": e.stats.log_bytes,
        "aof_base_size": e.stats.log_base_bytes,
    }


def _stats(e: "Engine") -> Section:
    stats = e.stats
    return {
        "total_connections_received": stats.connections,
        "total_commands_processed": stats.commands,
        "total_net_input_bytes": stats.read_bytes,
        "total_net_output_bytes": stats.sent_bytes,
        "rejected_connections": stats.rejected,
        "sync_full": stats.full_syncs,
        "sync_partial_ok": stats.partial_syncs,
        "expired_keys": stats.expired,
        "expired_subkeys": stats.expired_fields,
        "evicted_keys": stats.evicted,
        "keyspace_hits": stats.hits,
        "keyspace_misses": stats.misses,
        "pubsub_channels": len(e.exchange.channels),
        "pubsub_patterns": len(e.exchange.patterns),
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
    shown["connected_slaves"] = len(replication.replicas)
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
    "cluster": _cluster,
    "keyspace": _keyspace,
}


def report(e: "Engine", wanted: list[str]) -> str:
    """The sections asked for; none, `default`, `all` or `everything`: all of them."""
    everything = not wanted or {"default", "all", "everything"} & set(wanted)
    around = e.surroundings()
    parts = []
    for name, section in SECTIONS.items():
        if everything or name in wanted:
            lines = [f"{key}:{value}\r\n" for key, value in (section(e) | around.get(name, {})).items()]
            parts.append(f"# {name.capitalize() if name != 'cpu' else 'CPU'}\r\n{''.join(lines)}")
    return "\r\n".join(parts)
