"""Publish and subscribe: who listens to which channels, shard channels and patterns."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from titan_objects.store.globs import matcher
from titan_objects.store.resp import bulk, integer

if TYPE_CHECKING:
    from titan_objects.store.session import Session

Listeners = dict[bytes, dict["Session", None]]


class Exchange:
    """Brings messages to subscribers, in the order in which they came to listen."""

    def __init__(self) -> None:
        self.channels: Listeners = {}
        self.patterns: Listeners = {}
        self.shards: Listeners = {}

    def deliveries(self, channel: bytes, message: bytes, shard: bool = False) -> Iterator[tuple["Session", bytes]]:
        """Who is to be sent what."""
        heard = (self.shards if shard else self.channels).get(channel)
        if heard:
            items = [b"$8\r\nsmessage\r\n" if shard else b"$7\r\nmessage\r\n", bulk(channel), bulk(message)]
            for session in heard:
                yield session, session.resp.push(items)
        if shard or not self.patterns:
            return
        for pattern, sessions in self.patterns.items():
            if matcher(pattern)(channel):
                items = [b"$8\r\npmessage\r\n", bulk(pattern), bulk(channel), bulk(message)]
                for session in sessions:
                    yield session, session.resp.push(items)

    def leave(self, session: "Session") -> None:
        """Forgets a client."""
        for listeners, names in (
            (self.channels, session.channels),
            (self.patterns, session.patterns),
            (self.shards, session.shards),
        ):
            for name in names:
                forget(listeners, name, session)
            names.clear()


def listen(listeners: Listeners, name: bytes, session: "Session") -> None:
    """Adds a listener."""
    listeners.setdefault(name, {})[session] = None


def forget(listeners: Listeners, name: bytes, session: "Session") -> None:
    """Removes a listener, and the channel with the last one."""
    sessions = listeners.get(name)
    if sessions is not None:
        sessions.pop(session, None)
        if not sessions:
            del listeners[name]


def confirmation(session: "Session", kind: bytes, name: bytes | None, count: int) -> bytes:
    """What answers (un)subscribing to one channel."""
    return session.resp.push([bulk(kind), session.resp.null if name is None else bulk(name), integer(count)])


def counted(listeners: Listeners, names: Iterable[bytes]) -> list[bytes]:
    """How many listen to each, as encoded pairs."""
    return [item for name in names for item in (bulk(name), integer(len(listeners.get(name, ()))))]
