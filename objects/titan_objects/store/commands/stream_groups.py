"""Consumer groups of streams: who reads which entries, and what is pending."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.commands.streams import (
    ReadOptions,
    bound,
    entry,
    following,
    is_id,
    parse_id,
    reply_streams,
    stream,
    stream_keys,
)
from titan_objects.store.effects import claim
from titan_objects.store.resp import EMPTY, OK, ONE, ZERO, CommandError, array, bad_subcommand, bulk, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.streams import LAST_ID, ZERO_ID, Consumer, ConsumerGroup, Id, Stream, shown, sorted_pending
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("stream")

_READING = b" in XREADGROUP with GROUP option"
_GONE = b"UNBLOCKED the stream key no longer exists"


def _found(e: "Engine", key: bytes, name: bytes, where: bytes = b"") -> tuple[Stream, ConsumerGroup]:
    values = stream(e, key)
    group = values.groups.get(name) if values is not None else None
    if values is None or group is None:
        raise CommandError(b"NOGROUP No such key '%b' or consumer group '%b'%b" % (key, name, where))
    return values, group


def _consumer(e: "Engine", key: bytes, name: bytes, group: ConsumerGroup, who: bytes) -> Consumer:
    """The consumer, made (and logged) if it is new."""
    consumer = group.consumers.get(who)
    if consumer is None:
        consumer = group.consumers[who] = Consumer(who, e.now)
        e.rewrite(b"XGROUP", b"CREATECONSUMER", key, name, who)
        e.touch(key, b"xgroup-createconsumer", "t")
    consumer.seen = e.now
    return consumer


# ---- reading -----------------------------------------------------------------------------------------------------


@group.command("xreadgroup", -7, "write blocking movablekeys", movable=stream_keys, since="5.0.0")
def xreadgroup(e: "Engine", a: Args) -> bytes | None:
    """Returns new or historical messages from a stream for a consumer in a group. Blocks until there are some."""
    options = ReadOptions(e, a, grouped=True)
    if options.reader is None:
        raise CommandError(b"ERR Missing GROUP option for XREADGROUP")
    name, who = options.reader
    wanted: list[tuple[bytes, Id | None]] = []
    for key, word in zip(options.keys, options.ids, strict=True):
        _found(e, key, name, _READING)
        if word == b"$":
            raise CommandError(
                b"ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this "
                b"consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return "
                b"an empty result set."
            )
        wanted.append((key, None if word == b">" else parse_id(word, 0)))

    def read(changed: bytes | None) -> bytes | None:
        answers = []
        for key, after in wanted:
            if changed not in (None, key):
                continue
            if changed is not None and type(e.db.get(key)) is not Stream:
                raise CommandError(_GONE)
            values, group = _found(e, key, name, _READING)
            if after is not None:
                answers.append((key, _history(e, key, name, group, who, after, options.count)))
            elif values.last > group.last:
                if e.preserve is not None:
                    e.preserve(e.db, key)
                given = _give(e, key, name, who, options)
                if given:
                    answers.append((key, array(given)))
        return reply_streams(e, answers) if answers else None

    answer = read(None)
    if answer is not None or options.until is None:
        return e.reply.null_array if answer is None else answer
    return e.block(options.keys, options.until, read, e.reply.null_array, CommandError(_GONE).reply)


def _history(e: "Engine", key: bytes, name: bytes, group: ConsumerGroup, who: bytes, after: Id, count: int) -> bytes:
    values = stream(e, key)
    assert values is not None
    consumer = _consumer(e, key, name, group, who)
    if after == LAST_ID:
        return EMPTY
    ids = [id for id in sorted_pending(group, consumer) if id > after]
    ids = ids[:count] if count >= 0 else ids
    rows = []
    for id in ids:
        group.pending[id].since = e.now
        group.pending[id].count += 1
        fields = values.entries.get(id)
        rows.append(array([bulk(shown(id)), e.reply.null_array]) if fields is None else entry(id, fields))
    return array(rows)


def _give(e: "Engine", key: bytes, name: bytes, who: bytes, options: ReadOptions) -> list[bytes]:
    """Hands out entries that nobody has had."""
    values, group = _found(e, key, name)
    ids = values.between(following(group.last), LAST_ID, options.count)
    if not ids:
        return []
    consumer = _consumer(e, key, name, group, who)
    for id in ids:
        known = group.read is not None and not values.has_gap(id)
        group.read = (group.read or 0) + 1 if known else values.count_until(id)
    group.last = ids[-1]
    read = b"%d" % (-1 if group.read is None else group.read)
    for id in ids:
        if not options.no_ack:
            group.give(id, consumer, e.now, 1)
            e.rewrite(*claim(key, name, group, id))
    e.rewrite(b"XGROUP", b"SETID", key, name, shown(group.last), b"ENTRIESREAD", read)
    e.touch(key)
    return [entry(id, values.entries[id]) for id in ids]


@group.command("xack", -4, "write fast", keys=(1, 1, 1), since="5.0.0")
def xack(e: "Engine", a: Args) -> bytes:
    """Returns the number of messages that were successfully acknowledged by the consumer group member of a stream."""
    values = stream(e, a[1])
    group = values.groups.get(a[2]) if values is not None else None
    if group is None:
        return ZERO
    gone = sum([group.drop(id) for id in [parse_id(word, 0) for word in a[3:]]])
    if gone:
        e.touch(a[1])
    return number(gone)


# ---- claiming ----------------------------------------------------------------------------------------------------


@group.command("xclaim", -6, "write fast", keys=(1, 1, 1), since="5.0.0")
def xclaim(e: "Engine", a: Args) -> bytes:
    """Changes, or acquires, ownership of a message in a consumer group, as if it was delivered a consumer member."""
    key, name, who = a[1], a[2], a[3]
    values, group = _found(e, key, name)
    least = max(0, integer(a[4], b"ERR Invalid min-idle-time argument for XCLAIM"))
    at = 5
    ids = []
    while at < len(a) and is_id(a[at]):
        ids.append(parse_id(a[at], 0))
        at += 1
    since, count, force, just_id = e.now, None, False, False
    last = ZERO_ID
    while at < len(a):
        word = a[at].upper()
        if word in (b"FORCE", b"JUSTID"):
            force, just_id = force or word == b"FORCE", just_id or word == b"JUSTID"
            at += 1
            continue
        if word not in (b"IDLE", b"TIME", b"RETRYCOUNT", b"LASTID") or at + 1 == len(a):
            raise CommandError(b"ERR Unrecognized XCLAIM option '%b'" % a[at])
        given = a[at + 1]
        if word == b"IDLE":
            since = e.now - integer(given, b"ERR Invalid IDLE option argument for XCLAIM")
        elif word == b"TIME":
            since = integer(given, b"ERR Invalid TIME option argument for XCLAIM")
        elif word == b"RETRYCOUNT":
            count = integer(given, b"ERR Invalid RETRYCOUNT option argument for XCLAIM")
            if count < 0:
                raise CommandError(b"ERR Invalid RETRYCOUNT option argument for XCLAIM")
        else:
            last = parse_id(given, 0)
        at += 2
    if not 0 <= since <= e.now:
        since = e.now
    changed = last > group.last
    group.last = max(group.last, last)
    rows = []
    for id in ids:
        pending = group.pending.get(id)
        if id not in values.entries:
            if pending is not None:
                group.drop(id)
                e.rewrite(b"XACK", key, name, shown(id))
            continue
        if pending is None and not force:
            continue
        if pending is not None and least and e.now - pending.since < least:
            continue
        before = pending.count if pending is not None else 0
        consumer = _consumer(e, key, name, group, who)
        group.give(id, consumer, since, before + (not just_id) if count is None else count)
        e.rewrite(*claim(key, name, group, id))
        rows.append(bulk(shown(id)) if just_id else entry(id, values.entries[id]))
    if changed:
        e.rewrite(b"XGROUP", b"SETID", key, name, shown(group.last))
    if rows or changed:
        e.touch(key)
    return array(rows)


@group.command("xautoclaim", -6, "write fast", keys=(1, 1, 1), since="6.2.0")
def xautoclaim(e: "Engine", a: Args) -> bytes:
    """Changes, or acquires, ownership of messages in a consumer group, as if they were delivered to a member."""
    key, name, who = a[1], a[2], a[3]
    least = max(0, integer(a[4], b"ERR Invalid min-idle-time argument for XAUTOCLAIM"))
    start = bound(a[5], False)
    count, just_id = 100, False
    at = 6
    while at < len(a):
        word = a[at].upper()
        if word == b"COUNT":
            count = integer(option(a, at + 1), b"ERR COUNT must be > 0")
            if not 0 < count < 1 << 59:
                raise CommandError(b"ERR COUNT must be > 0")
            at += 2
        elif word == b"JUSTID":
            just_id = True
            at += 1
        else:
            raise syntax_error()
    values, group = _found(e, key, name)
    rows: list[bytes] = []
    deleted: list[bytes] = []
    looked = 0
    following_id = ZERO_ID
    consumer: Consumer | None = None
    for id in [each for each in sorted_pending(group) if each >= start]:
        if looked >= count * 10 or len(rows) + len(deleted) >= count:
            following_id = id
            break
        looked += 1
        if id not in values.entries:
            group.drop(id)
            e.rewrite(b"XACK", key, name, shown(id))
            deleted.append(bulk(shown(id)))
            continue
        pending = group.pending[id]
        if least and e.now - pending.since < least:
            continue
        consumer = consumer or _consumer(e, key, name, group, who)
        group.give(id, consumer, e.now, pending.count + (not just_id))
        e.rewrite(*claim(key, name, group, id))
        rows.append(bulk(shown(id)) if just_id else entry(id, values.entries[id]))
    if rows or deleted:
        e.touch(key)
    return array([bulk(shown(following_id)), array(rows), array(deleted)])


@group.command("xpending", -3, "readonly", keys=(1, 1, 1), since="5.0.0")
def xpending(e: "Engine", a: Args) -> bytes:
    """Returns the information and entries from a stream consumer group's pending entries list."""
    if len(a) == 3:
        return _pending_summary(e, a)
    if not 6 <= len(a) <= 9:
        raise syntax_error()
    at, least = 3, 0
    if a[3].upper() == b"IDLE":
        at, least = 5, integer(a[4])
        if len(a) < 8:
            raise syntax_error()
    count = integer(a[at + 2])
    low, high = bound(a[at], False), bound(a[at + 1], True)
    _, group = _found(e, a[1], a[2])
    consumer = None
    if len(a) > at + 3:
        consumer = group.consumers.get(a[at + 3])
        if consumer is None:
            return EMPTY
    rows: list[bytes] = []
    for id in sorted_pending(group, consumer):
        if len(rows) >= count:
            break
        pending = group.pending[id]
        idle = max(0, e.now - pending.since)
        if low <= id <= high and idle >= least:
            who = bulk(pending.consumer.name)
            rows.append(array([bulk(shown(id)), who, number(idle), number(pending.count)]))
    return array(rows)


def _pending_summary(e: "Engine", a: Args) -> bytes:
    _, group = _found(e, a[1], a[2])
    ids = sorted_pending(group)
    if not ids:
        return array([ZERO, e.reply.null, e.reply.null, e.reply.null_array])
    holders = sorted((name, consumer) for name, consumer in group.consumers.items() if consumer.pending)
    rows = [array([bulk(name), bulk(b"%d" % len(consumer.pending))]) for name, consumer in holders]
    return array([number(len(ids)), bulk(shown(ids[0])), bulk(shown(ids[-1])), array(rows)])


# ---- XGROUP ------------------------------------------------------------------------------------------------------


@group.command("xgroup", -2, since="5.0.0")
def xgroup(e: "Engine", a: Args) -> bytes:
    """A container for consumer groups commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try XGROUP HELP." % a[1])


def _existing(e: "Engine", key: bytes) -> Stream:
    values = stream(e, key)
    if values is None:
        raise CommandError(
            b"ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the "
            b"MKSTREAM option to create an empty stream automatically."
        )
    return values


def _of_group(e: "Engine", key: bytes, name: bytes) -> tuple[Stream, ConsumerGroup]:
    values = _existing(e, key)
    group = values.groups.get(name)
    if group is None:
        raise CommandError(b"NOGROUP No such consumer group '%b' for key name '%b'" % (name, key))
    return values, group


def _group_options(a: Args, creates: bool) -> tuple[bool, int | None]:
    """Of CREATE and SETID: whether a stream is made, and how many of its entries the group has read; None: unknown."""
    make, read, at = False, -1, 5
    while at < len(a):
        if creates and a[at].upper() == b"MKSTREAM":
            make = True
            at += 1
        elif a[at].upper() == b"ENTRIESREAD" and at + 1 < len(a):
            read = integer(a[at + 1])
            if read < -1:
                raise CommandError(b"ERR value for ENTRIESREAD must be positive or -1")
            at += 2
        else:
            raise bad_subcommand(a)
    if len(a) > (8 if creates else 7):
        raise bad_subcommand(a)
    return make, None if read == -1 else read


@group.command("xgroup|create", -5, "write denyoom", keys=(2, 2, 1), since="5.0.0")
def xgroup_create(e: "Engine", a: Args) -> bytes:
    """Creates a consumer group."""
    make, read = _group_options(a, creates=True)
    values = stream(e, a[2])
    if values is None:
        if not make:
            _existing(e, a[2])
        values = Stream()
    last = values.last if a[4] == b"$" else parse_id(a[4], 0)
    if a[3] in values.groups:
        raise CommandError(b"BUSYGROUP Consumer Group name already exists")
    e.db.data[a[2]] = values
    values.groups[a[3]] = ConsumerGroup(last, read)
    e.touch(a[2], b"xgroup-create", "t")
    return OK


@group.command("xgroup|setid", -5, "write", keys=(2, 2, 1), since="5.0.0")
def xgroup_setid(e: "Engine", a: Args) -> bytes:
    """Sets the last-delivered ID of a consumer group."""
    _, read = _group_options(a, creates=False)
    values, group = _of_group(e, a[2], a[3])
    last = {b"$": values.last, b"-": ZERO_ID, b"+": LAST_ID}.get(a[4]) or parse_id(a[4], 0)
    group.last, group.read = last, read
    e.touch(a[2], b"xgroup-setid", "t")
    return OK


@group.command("xgroup|destroy", 4, "write", keys=(2, 2, 1), since="5.0.0")
def xgroup_destroy(e: "Engine", a: Args) -> bytes:
    """Destroys a consumer group."""
    if _existing(e, a[2]).groups.pop(a[3], None) is None:
        return ZERO
    e.touch(a[2], b"xgroup-destroy", "t")
    return ONE


@group.command("xgroup|createconsumer", 5, "write denyoom", keys=(2, 2, 1), since="6.2.0")
def xgroup_createconsumer(e: "Engine", a: Args) -> bytes:
    """Creates a consumer in a consumer group."""
    _, group = _of_group(e, a[2], a[3])
    if a[4] in group.consumers:
        return ZERO
    _consumer(e, a[2], a[3], group, a[4])
    return ONE


@group.command("xgroup|delconsumer", 5, "write", keys=(2, 2, 1), since="5.0.0")
def xgroup_delconsumer(e: "Engine", a: Args) -> bytes:
    """Deletes a consumer from a consumer group."""
    _, group = _of_group(e, a[2], a[3])
    consumer = group.consumers.pop(a[4], None)
    if consumer is None:
        return ZERO
    pending = list(consumer.pending)
    for id in pending:
        group.drop(id)
    e.touch(a[2], b"xgroup-delconsumer", "t")
    return number(len(pending))


# ---- XINFO -------------------------------------------------------------------------------------------------------
