"""The commands of Redis Cluster, which answer as a server that is no part of one."""

from typing import TYPE_CHECKING

from titan_objects.store.resp import CommandError
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("cluster")

_NO_CLUSTER = CommandError(b"ERR This instance has cluster support disabled")


@group.command("cluster", -2, since="3.0.0")
def cluster(e: "Engine", a: Args) -> bytes:
    """A container for Redis Cluster commands: there is no cluster."""
    raise _NO_CLUSTER


@group.command("asking", 1, "fast", since="3.0.0")
def asking(e: "Engine", a: Args) -> bytes:
    """Signals that a cluster client is following an -ASK redirect."""
    raise _NO_CLUSTER


@group.command("readonly", 1, "loading stale fast", since="3.0.0")
def readonly(e: "Engine", a: Args) -> bytes:
    """Enables read-only queries for a connection to a Redis Cluster replica node."""
    raise _NO_CLUSTER


@group.command("readwrite", 1, "loading stale fast", since="3.0.0")
def readwrite(e: "Engine", a: Args) -> bytes:
    """Enables read-write queries for a connection to a Redis Cluster replica node."""
    raise _NO_CLUSTER
