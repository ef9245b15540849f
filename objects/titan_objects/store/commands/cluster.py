"""What clients of a cluster say to its nodes: refused in the words of a Redis that is none, which clients know."""

from typing import TYPE_CHECKING

from titan_objects.store.resp import CommandError
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("cluster")

_NO_CLUSTER = b"ERR This instance has cluster support disabled"


@group.command("cluster", -2, since="3.0.0")
def cluster(e: "Engine", a: Args) -> bytes:
    """Would manage a cluster: there is none."""
    raise CommandError(_NO_CLUSTER)


@group.command("readonly", 1, "loading stale fast", since="3.0.0")
def readonly(e: "Engine", a: Args) -> bytes:
    """Would allow reads from a replica of a cluster: there is none."""
    raise CommandError(_NO_CLUSTER)


@group.command("readwrite", 1, "loading stale fast", since="3.0.0")
def readwrite(e: "Engine", a: Args) -> bytes:
    """Would end READONLY: there is no cluster."""
    raise CommandError(_NO_CLUSTER)


@group.command("asking", 1, "fast", since="3.0.0")
def asking(e: "Engine", a: Args) -> bytes:
    """Would announce a redirected request: there is no cluster."""
    raise CommandError(_NO_CLUSTER)
