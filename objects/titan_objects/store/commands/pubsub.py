"""Publish and subscribe."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_objects.store.globs import matcher
from titan_objects.store.pubsub import Listeners, confirmation, counted, forget, listen
from titan_objects.store.resp import CommandError, array, bad_subcommand, bulks
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("pubsub")


def _sides(e: "Engine", kind: str) -> tuple[Listeners, dict[bytes, None]]:
    exchange, session = e.exchange, e.session
    if kind == "p":
        return exchange.patterns, session.patterns
    return (exchange.shards, session.shards) if kind == "s" else (exchange.channels, session.channels)


def _confirmed(e: "Engine", confirmations: bytes) -> bytes | None:
    """The reply; to a client that wants none they are not one, but messages."""
    if e.session.replies == "on":
        return confirmations
    e.push(e.session, confirmations)
    return None


def _subscribe(e: "Engine", a: Args, kind: str) -> bytes | None:
    session = e.session
    if session is e.internal:
        raise CommandError(b"ERR only a connection can subscribe: use a client, or `watch` the object")
    listeners, own = _sides(e, kind)
    parts = []
    for name in a[1:]:
        own[name] = None
        listen(listeners, name, session)
        count = len(session.shards) if kind == "s" else session.subscriptions
        parts.append(confirmation(session, kind.encode() + b"subscribe", name, count))
    session.look()
    return _confirmed(e, b"".join(parts))


def _unsubscribe(e: "Engine", a: Args, kind: str) -> bytes | None:
    session = e.session
    listeners, own = _sides(e, kind)
    parts = []
    names: Sequence[bytes | None] = a[1:] or list(own) or [None]
    for name in names:
        if name is not None:
            own.pop(name, None)
            forget(listeners, name, session)
        count = len(session.shards) if kind == "s" else session.subscriptions
        parts.append(confirmation(session, kind.encode() + b"unsubscribe", name, count))
    session.look()
    return _confirmed(e, b"".join(parts))


@group.command("subscribe", -2, "pubsub noscript loading stale", since="2.0.0")
def subscribe(e: "Engine", a: Args) -> bytes | None:
    """Listens for messages published to channels."""
    return _subscribe(e, a, "")


@group.command("unsubscribe", -1, "pubsub noscript loading stale", since="2.0.0")
def unsubscribe(e: "Engine", a: Args) -> bytes | None:
    """Stops listening to messages posted to channels."""
    return _unsubscribe(e, a, "")


@group.command("psubscribe", -2, "pubsub noscript loading stale", since="2.0.0")
def psubscribe(e: "Engine", a: Args) -> bytes | None:
    """Listens for messages published to channels that match one or more patterns."""
    return _subscribe(e, a, "p")


@group.command("punsubscribe", -1, "pubsub noscript loading stale", since="2.0.0")
def punsubscribe(e: "Engine", a: Args) -> bytes | None:
    """Stops listening to messages published to channels that match one or more patterns."""
    return _unsubscribe(e, a, "p")


@group.command("ssubscribe", -2, "pubsub noscript loading stale", since="7.0.0")
def ssubscribe(e: "Engine", a: Args) -> bytes | None:
    """Listens for messages published to shard channels."""
    return _subscribe(e, a, "s")


@group.command("sunsubscribe", -1, "pubsub noscript loading stale", since="7.0.0")
def sunsubscribe(e: "Engine", a: Args) -> bytes | None:
    """Stops listening to messages posted to shard channels."""
    return _unsubscribe(e, a, "s")


@group.command("publish", 3, "pubsub loading stale fast may-replicate", since="2.0.0")
def publish(e: "Engine", a: Args) -> bytes:
    """Posts a message to a channel."""
    return number(e.publish(a[1], a[2]))


@group.command("spublish", 3, "pubsub loading stale fast may-replicate", since="7.0.0")
def spublish(e: "Engine", a: Args) -> bytes:
    """Post a message to a shard channel."""
    return number(e.publish(a[1], a[2], shard=True))


@group.command("pubsub", -2, "pubsub loading stale", since="2.8.0")
def pubsub(e: "Engine", a: Args) -> bytes:
    """A container for Pub/Sub commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try PUBSUB HELP." % a[1])


def _names(listeners: Listeners, a: Args) -> bytes:
    if len(a) > 3:
        raise bad_subcommand(a)
    match = matcher(a[2] if len(a) > 2 else b"*")
    return bulks([name for name in listeners if match(name)])


@group.command("pubsub|channels", -2, "pubsub loading stale", since="2.8.0")
def pubsub_channels(e: "Engine", a: Args) -> bytes:
    """Returns the active channels."""
    return _names(e.exchange.channels, a)


@group.command("pubsub|shardchannels", -2, "pubsub loading stale", since="7.0.0")
def pubsub_shardchannels(e: "Engine", a: Args) -> bytes:
    """Returns the active shard channels."""
    return _names(e.exchange.shards, a)


@group.command("pubsub|numsub", -2, "pubsub loading stale", since="2.8.0")
def pubsub_numsub(e: "Engine", a: Args) -> bytes:
    """Returns a count of subscribers to channels."""
    return array(counted(e.exchange.channels, a[2:]))


@group.command("pubsub|shardnumsub", -2, "pubsub loading stale", since="7.0.0")
def pubsub_shardnumsub(e: "Engine", a: Args) -> bytes:
    """Returns the count of subscribers of shard channels."""
    return array(counted(e.exchange.shards, a[2:]))


@group.command("pubsub|numpat", 2, "pubsub loading stale", since="2.8.0")
def pubsub_numpat(e: "Engine", a: Args) -> bytes:
    """Returns a count of unique pattern subscriptions."""
    return number(len(e.exchange.patterns))
