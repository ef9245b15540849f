"""What there is to know about a stream: XINFO."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer
from titan_objects.store.commands.streams import entry, stream
from titan_objects.store.resp import CommandError, array, bad_subcommand, bulk
from titan_objects.store.resp import integer as number
from titan_objects.store.streams import ZERO_ID, Consumer, ConsumerGroup, Id, Stream, shown, sorted_pending
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("stream")

Pair = tuple[bytes, bytes]
"""A name and what it stands for, encoded."""


@group.command("xinfo", -2, since="5.0.0")
def xinfo(e: "Engine", a: Args) -> bytes:
    """A container for stream introspection commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try XINFO HELP." % a[1])


FULL_COUNT = 10
"""How many entries XINFO STREAM FULL shows unless it is told."""


def _known(e: "Engine", key: bytes) -> Stream:
    values = stream(e, key)
    if values is None:
        raise CommandError(b"ERR no such key")
    return values


def _or_null(e: "Engine", value: int | None) -> bytes:
    return e.reply.null if value is None else number(value)


def _lag(values: Stream, group: ConsumerGroup) -> int | None:
    if not values.added:
        return 0
    if group.read is not None and not values.has_gap(group.last):
        return values.added - group.read
    read = values.count_until(group.last)
    return None if read is None else values.added - read


@group.command("xinfo|stream", -3, "readonly", keys=(2, 2, 1), since="5.0.0")
def xinfo_stream(e: "Engine", a: Args) -> bytes:
    """Returns information about a stream."""
    values = _known(e, a[2])
    if len(a) == 3:
        return e.reply.map([*_head(values), *_ends(e, values)])
    if len(a) not in (4, 6) or a[3].upper() != b"FULL" or (len(a) == 6 and a[4].upper() != b"COUNT"):
        raise bad_subcommand(a)
    many = integer(a[5]) if len(a) == 6 else FULL_COUNT
    many = many if many >= 0 else FULL_COUNT
    return e.reply.map([*_head(values), *_contents(e, values, many or len(values), many or None)])


def _head(values: Stream) -> list[Pair]:
    return [
        (bulk(b"length"), number(len(values))),
        (bulk(b"radix-tree-keys"), number(-(-len(values) // 100))),
        (bulk(b"radix-tree-nodes"), number(-(-len(values) // 100) + 1)),
        (bulk(b"last-generated-id"), bulk(shown(values.last))),
        (bulk(b"max-deleted-entry-id"), bulk(shown(values.deleted))),
        (bulk(b"entries-added"), number(values.added)),
        (bulk(b"recorded-first-entry-id"), bulk(shown(values.ids[0] if values.ids else ZERO_ID))),
    ]


def _ends(e: "Engine", values: Stream) -> list[Pair]:
    def shown_entry(at: int) -> bytes:
        return entry(values.ids[at], values.entries[values.ids[at]]) if values.ids else e.reply.null

    return [
        (bulk(b"groups"), number(len(values.groups))),
        (bulk(b"first-entry"), shown_entry(0)),
        (bulk(b"last-entry"), shown_entry(-1)),
    ]


def _contents(e: "Engine", values: Stream, many: int, pending: int | None) -> list[Pair]:
    """Entries and groups, so many of the entries, and of what is pending with each group and each consumer."""

    def of_group(name: bytes, group: ConsumerGroup) -> bytes:
        return e.reply.map(
            [
                (bulk(b"name"), bulk(name)),
                (bulk(b"last-delivered-id"), bulk(shown(group.last))),
                (bulk(b"entries-read"), _or_null(e, group.read)),
                (bulk(b"lag"), _or_null(e, _lag(values, group))),
                (bulk(b"pel-count"), number(len(group.pending))),
                (bulk(b"pending"), array([given(group, id, True) for id in sorted_pending(group)[:pending]])),
                (bulk(b"consumers"), array([of_consumer(group, each) for _, each in sorted(group.consumers.items())])),
            ]
        )

    def of_consumer(group: ConsumerGroup, consumer: Consumer) -> bytes:
        return e.reply.map(
            [
                (bulk(b"name"), bulk(consumer.name)),
                (bulk(b"seen-time"), number(consumer.seen)),
                (bulk(b"pel-count"), number(len(consumer.pending))),
                (
                    bulk(b"pending"),
                    array([given(group, id, False) for id in sorted_pending(group, consumer)[:pending]]),
                ),
            ]
        )

    def given(group: ConsumerGroup, id: Id, named: bool) -> bytes:
        found = group.pending[id]
        who = [bulk(found.consumer.name)] if named else []
        return array([bulk(shown(id)), *who, number(found.since), number(found.count)])

    return [
        (bulk(b"entries"), array([entry(id, values.entries[id]) for id in values.ids[:many]])),
        (bulk(b"groups"), array([of_group(name, each) for name, each in sorted(values.groups.items())])),
    ]


@group.command("xinfo|groups", 3, "readonly", keys=(2, 2, 1), since="5.0.0")
def xinfo_groups(e: "Engine", a: Args) -> bytes:
    """Returns a list of the consumer groups of a stream."""
    values = _known(e, a[2])

    def rows() -> Iterator[bytes]:
        for name, group in sorted(values.groups.items()):
            yield e.reply.map(
                [
                    (bulk(b"name"), bulk(name)),
                    (bulk(b"consumers"), number(len(group.consumers))),
                    (bulk(b"pending"), number(len(group.pending))),
                    (bulk(b"last-delivered-id"), bulk(shown(group.last))),
                    (bulk(b"entries-read"), _or_null(e, group.read)),
                    (bulk(b"lag"), _or_null(e, _lag(values, group))),
                ]
            )

    return array(list(rows()))


@group.command("xinfo|consumers", 4, "readonly", keys=(2, 2, 1), since="5.0.0")
def xinfo_consumers(e: "Engine", a: Args) -> bytes:
    """Returns a list of the consumers in a consumer group."""
    values = _known(e, a[2])
    group = values.groups.get(a[3])
    if group is None:
        raise CommandError(b"NOGROUP No such consumer group '%b' for key name '%b'" % (a[3], a[2]))
    rows = [
        e.reply.map(
            [
                (bulk(b"name"), bulk(name)),
                (bulk(b"pending"), number(len(consumer.pending))),
                (bulk(b"idle"), number(max(0, e.now - consumer.seen))),
            ]
        )
        for name, consumer in sorted(group.consumers.items())
    ]
    return array(rows)
