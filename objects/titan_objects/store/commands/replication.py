"""Replication: following another server, and being followed."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer
from titan_objects.store.parser import ProtocolError, inline
from titan_objects.store.resp import OK, CommandError, array, bulk, bulks, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")

_NOT_HERE = b"ERR a store that a group keeps follows no server, and none follows it: its members are its copies"
_TOO_OLD = b"ERR this server sends snapshots without knowing their size first: follow it with `REPLCONF capa eof`"


@group.command("replicaof", 3, "admin noscript stale no-async-loading no-multi", since="5.0.0")
def replicaof(e: "Engine", a: Args) -> bytes:
    """Configures a server as replica of another, or promotes it to a master."""
    if not e.may_follow:
        raise CommandError(_NOT_HERE)
    if a[1].lower() == b"no" and a[2].lower() == b"one":
        e.replication.lead()
    else:
        port = integer(a[2], b"ERR Invalid master port")
        if not 0 < port < 65536:
            raise CommandError(b"ERR Invalid master port")
        host = a[1].decode("utf-8", "replace")
        leader = e.replication.leader
        if leader is not None and (leader.host, leader.port) == (host, port):
            return b"+OK Already connected to specified master\r\n"
        e.replication.follow(host, port)
    e.requests.append("follow")
    return OK


@group.command("slaveof", 3, "admin noscript stale no-async-loading no-multi")
def slaveof(e: "Engine", a: Args) -> bytes:
    """Sets a Redis server as a replica of another, or promotes it to being a master."""
    return replicaof(e, a)


@group.command("replconf", -1, "admin noscript loading stale allow-busy no-multi", since="3.0.0")
def replconf(e: "Engine", a: Args) -> bytes | None:
    """An internal command for configuring the replication stream."""
    if len(a) % 2 == 0:
        raise syntax_error()
    for at in range(1, len(a), 2):
        word, value = a[at].lower(), a[at + 1]
        if word == b"ack":
            e.replication.acknowledge(e.session, integer(value))
            return None
        if word == b"listening-port":
            e.session.replica_port = integer(value)
        elif word == b"capa":
            e.session.capabilities |= {value.lower()}
        elif word == b"rdb-only":
            if integer(value) not in (0, 1):
                raise CommandError(b"ERR value is out of range, value must between 0 and 1")
            e.session.snapshot_only = integer(value) == 1
        elif word == b"rdb-filter-only":
            e.session.snapshot_without = _left_out(value)
        elif word not in (b"ip-address", b"getack", b"fack"):
            raise CommandError(b"ERR Unrecognized REPLCONF option: %b" % a[at][:64])
    return OK


def _left_out(wanted: bytes) -> frozenset[bytes]:
    """What is not in a snapshot of these parts; only functions can be asked for alone, as in Redis 7.0."""
    try:
        parts = [word.lower() for word in inline(wanted)]
    except ProtocolError:
        raise CommandError(b"ERR Missing rdb-filter-only values") from None
    for part in parts:
        if part != b"functions":
            raise CommandError(b"ERR Unsupported rdb-filter-only option: %b" % part[:64])
    return frozenset((b"data",) if parts else (b"data", b"functions"))


def _check_may_follow(e: "Engine") -> None:
    if not e.may_follow:
        raise CommandError(_NOT_HERE)
    if e.replication.leader is not None:
        raise CommandError(b"ERR this server follows another, and is not followed itself: follow that one")
    if b"eof" not in e.session.capabilities:
        raise CommandError(_TOO_OLD)


@group.command("psync", -3, "admin noscript no-multi no-async-loading", since="2.8.0")
def psync(e: "Engine", a: Args) -> None:
    """An internal command used in replication."""
    offset = integer(a[2])
    _check_may_follow(e)
    # The stream is counted from 1 there.
    e.replication.take_up(e.session, a[1].decode("latin-1"), offset - 1)


@group.command("sync", 1, "admin noscript no-multi no-async-loading")
def sync(e: "Engine", a: Args) -> None:
    """An internal command used in replication."""
    _check_may_follow(e)
    e.replication.take_up_bare(e.session)


@group.command("role", 1, "noscript loading stale fast", since="2.8.12")
def role(e: "Engine", a: Args) -> bytes:
    """Returns the replication role."""
    leader = e.replication.leader
    if leader is not None:
        where = [bulk(leader.host.encode()), number(leader.port), bulk(leader.link.encode())]
        return array([bulk(b"slave"), *where, number(leader.offset)])
    rows = [
        bulks([host_of(each.session.address), b"%d" % each.session.replica_port, b"%d" % each.acknowledged])
        for each in e.replication.replicas.values()
        if each.state == "online"
    ]
    return array([bulk(b"master"), number(e.written), array(rows)])


def host_of(address: str) -> bytes:
    """The host of `host:port`."""
    return address.rpartition(":")[0].strip("[]").encode()


def wanted_copies(a: Args) -> tuple[int, int]:
    """What WAIT waits for: how many replicas, and how many milliseconds at most; 0: for ever. Raises CommandError."""
    wanted = integer(a[1])
    timeout_ms = integer(a[2], b"ERR timeout is not an integer or out of range")
    if timeout_ms < 0:
        raise CommandError(b"ERR timeout is negative")
    return wanted, timeout_ms


@group.command("wait", 3, "noscript", since="3.0.0")
def wait(e: "Engine", a: Args) -> bytes | None:
    """Blocks until the asynchronous replication of all preceding write commands is completed."""
    wanted, timeout_ms = wanted_copies(a)
    if e.replication.leader is not None:
        raise CommandError(b"ERR WAIT cannot be used with replica instances.")
    count = 0 if e.effects else e.replication.count(e.written)
    if count >= wanted:
        return number(count)
    reply = e.block([], e.now + timeout_ms if timeout_ms else 0, lambda key: None, number(count))
    if e.session.waiter is not None:
        e.replication.wait(e.session.waiter, wanted)
    return reply
