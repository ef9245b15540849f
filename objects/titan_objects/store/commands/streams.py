"""Streams: adding, reading and trimming. What groups of consumers do is in `stream_groups`."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.resp import EMPTY, OK, ZERO, CommandError, array, bulk, bulks, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.streams import LAST_ID, ZERO_ID, Id, Stream, shown
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("stream")

BAD_ID = b"ERR Invalid stream ID specified as stream command argument"
PART_MAX = (1 << 64) - 1


def stream(e: "Engine", key: bytes) -> Stream | None:
    """The stream, or None. Raises WRONGTYPE."""
    return e.db.typed(key, Stream)  # type: ignore[no-any-return]


def parse_id(word: bytes, missing: int) -> Id:
    """`ms-number`, or `ms` with that number. Raises CommandError."""
    ms, dash, seq = word.partition(b"-")
    if not ms.isdigit() or (dash and not seq.isdigit()) or len(word) > 41:
        raise CommandError(BAD_ID)
    id = (int(ms), int(seq) if dash else missing)
    if max(id) > PART_MAX:
        raise CommandError(BAD_ID)
    return id


def is_id(word: bytes) -> bool:
    """Whether `parse_id` reads it."""
    try:
        parse_id(word, 0)
    except CommandError:
        return False
    return True


def bound(word: bytes, high: bool) -> Id:
    """An end of a range, `-`, `+` and `(` understood. Raises CommandError."""
    if word == b"-":
        return ZERO_ID
    if word == b"+":
        return LAST_ID
    if word[:1] != b"(":
        return parse_id(word, PART_MAX if high else 0)
    id = parse_id(word[1:], PART_MAX if high else 0)
    if high:
        if id == ZERO_ID:
            raise CommandError(b"ERR invalid end ID for the interval")
        return (id[0], id[1] - 1) if id[1] else (id[0] - 1, PART_MAX)
    if id == LAST_ID:
        raise CommandError(b"ERR invalid start ID for the interval")
    return following(id)


def following(id: Id) -> Id:
    """The next id."""
    return (id[0], id[1] + 1) if id[1] < PART_MAX else (id[0] + 1, 0)


def entry(id: Id, fields: list[bytes]) -> bytes:
    """An entry as clients see it."""
    return array([bulk(shown(id)), bulks(fields)])


class Trimming:
    """`MAXLEN` or `MINID` of XADD and XTRIM. `~` is answered exactly, which it allows."""

    def __init__(self) -> None:
        self.length: int | None = None
        self.least: Id | None = None
        self._about = False
        self._limit: int | None = None

    def take(self, a: Args, at: int) -> int:
        """Reads the option at that place; returns the place behind it: the same, if it is none of these."""
        word = a[at].upper()
        if word not in (b"MAXLEN", b"MINID", b"LIMIT") or at + 1 == len(a):
            return at
        if word == b"LIMIT":
            self._limit = integer(a[at + 1])
            if self._limit < 0:
                raise CommandError(b"ERR The LIMIT argument must be >= 0.")
            return at + 2
        if self.given:
            raise CommandError(b"ERR syntax error, MAXLEN and MINID options at the same time are not compatible")
        at += 1
        self._about = a[at] == b"~" and at + 1 < len(a)
        if self._about or (a[at] == b"=" and at + 1 < len(a)):
            at += 1
        if word == b"MAXLEN":
            self.length = integer(a[at])
            if self.length < 0:
                raise CommandError(b"ERR The MAXLEN argument must be >= 0.")
        else:
            self.least = parse_id(a[at], 0)
        return at + 1

    @property
    def given(self) -> bool:
        """Whether something is to be dropped."""
        return self.length is not None or self.least is not None

    def check(self) -> None:
        """Raises CommandError: the options do not go together."""
        if self._limit and not self.given:
            raise CommandError(b"ERR syntax error, LIMIT cannot be used without specifying a trimming strategy")
        if self._limit is not None and not self._about:
            raise CommandError(b"ERR syntax error, LIMIT cannot be used without the special ~ option")

    def words(self) -> Args:
        """As the log keeps it."""
        if self.length is not None:
            return [b"MAXLEN", b"=", b"%d" % self.length]
        return [b"MINID", b"=", shown(self.least)] if self.least is not None else []

    def apply(self, values: Stream) -> int:
        """Drops what is to be dropped; says how many."""
        if self.length is not None:
            return values.trim(len(values) - self.length)
        if self.least is not None:
            return values.trim(len(values) - len(values.between(self.least, LAST_ID)))
        return 0


@group.command("xadd", -5, "write denyoom fast", keys=(1, 1, 1), since="5.0.0")
def xadd(e: "Engine", a: Args) -> bytes:
    """Appends a new message to a stream. Creates the key if it doesn't exist."""
    key = a[1]
    trimming, make = Trimming(), True
    at = 2
    while at < len(a):
        if a[at].upper() == b"NOMKSTREAM":
            make = False
            at += 1
        elif (behind := trimming.take(a, at)) > at:
            at = behind
        else:
            break
    given, open_number = None, False
    if at < len(a) and a[at] != b"*":
        open_number = a[at].endswith(b"-*")
        given = parse_id(a[at][:-2] if open_number else a[at], 0)
    trimming.check()
    fields = a[at + 1 :]
    if not fields or len(fields) % 2:
        raise CommandError(b"ERR wrong number of arguments for 'xadd' command")
    if given == ZERO_ID and not open_number:
        raise CommandError(b"ERR The ID specified in XADD must be greater than 0-0")
    values = stream(e, key)
    if values is None:
        if not make:
            return e.reply.null
        values = Stream()
    id = _next_id(e, values, given, open_number)
    e.db.data[key] = values
    values.append(id, fields)
    trimmed = trimming.apply(values)
    e.rewrite(b"XADD", key, *trimming.words(), shown(id), *fields)
    e.touch(key, b"xadd", "t")
    if trimmed:
        e.touch(key, b"xtrim", "t")
    return bulk(shown(id))


def _next_id(e: "Engine", values: Stream, given: Id | None, open_number: bool) -> Id:
    if values.last == LAST_ID:
        raise CommandError(b"ERR The stream has exhausted the last possible ID, unable to add more items")
    if given is None:
        return (e.now, 0) if e.now > values.last[0] else following(values.last)
    if open_number:
        if given[0] == values.last[0]:
            given = (given[0], values.last[1] + 1)
        elif given[0] == 0:
            given = (0, 1)
    if given <= values.last or given[1] > PART_MAX:
        raise CommandError(b"ERR The ID specified in XADD is equal or smaller than the target stream top item")
    return given


@group.command("xlen", 2, "readonly fast", keys=(1, 1, 1), since="5.0.0")
def xlen(e: "Engine", a: Args) -> bytes:
    """Return the number of messages in a stream."""
    return number(len(stream(e, a[1]) or ()))


def _range(e: "Engine", a: Args, reverse: bool) -> bytes:
    low, high = (a[3], a[2]) if reverse else (a[2], a[3])
    ends = (bound(low, False), bound(high, True))
    count = -1
    for at in range(4, len(a), 2):
        if a[at].upper() != b"COUNT":
            raise syntax_error()
        count = max(0, integer(option(a, at + 1)))
    values = stream(e, a[1])
    if values is None:
        return EMPTY
    if count == 0:
        return e.reply.null_array
    return array([entry(id, values.entries[id]) for id in values.between(*ends, count, reverse)])


@group.command("xrange", -4, "readonly", keys=(1, 1, 1), since="5.0.0")
def xrange(e: "Engine", a: Args) -> bytes:
    """Returns the messages from a stream within a range of IDs."""
    return _range(e, a, False)


@group.command("xrevrange", -4, "readonly", keys=(1, 1, 1), since="5.0.0")
def xrevrange(e: "Engine", a: Args) -> bytes:
    """Returns the messages from a stream within a range of IDs in reverse order."""
    return _range(e, a, True)


@group.command("xdel", -3, "write fast", keys=(1, 1, 1), since="5.0.0")
def xdel(e: "Engine", a: Args) -> bytes:
    """Returns the number of messages after removing them from a stream."""
    values = stream(e, a[1])
    if values is None:
        return ZERO
    ids = [parse_id(word, 0) for word in a[2:]]
    gone = sum([values.delete(id) for id in ids])
    if gone:
        e.touch(a[1], b"xdel", "t")
    return number(gone)


@group.command("xtrim", -4, "write", keys=(1, 1, 1), since="5.0.0")
def xtrim(e: "Engine", a: Args) -> bytes:
    """Deletes messages from the beginning of a stream."""
    trimming = Trimming()
    at = 2
    while at < len(a):
        behind = trimming.take(a, at)
        if behind == at:
            raise syntax_error()
        at = behind
    trimming.check()
    if not trimming.given:
        raise CommandError(b"ERR syntax error, XTRIM must be called with a trimming strategy")
    values = stream(e, a[1])
    if values is None:
        return ZERO
    gone = trimming.apply(values)
    if gone:
        e.rewrite(b"XTRIM", a[1], *trimming.words())
        e.touch(a[1], b"xtrim", "t")
    return number(gone)


@group.command("xsetid", -3, "write denyoom fast", keys=(1, 1, 1), since="5.0.0")
def xsetid(e: "Engine", a: Args) -> bytes:
    """An internal command for replicating stream values."""
    id = parse_id(a[2], 0)
    added, deleted = None, None
    for at in range(3, len(a), 2):
        word = a[at].upper()
        if word == b"ENTRIESADDED":
            added = integer(option(a, at + 1))
            if added < 0:
                raise CommandError(b"ERR entries_added must be positive")
        elif word == b"MAXDELETEDID":
            deleted = parse_id(option(a, at + 1), 0)
            if deleted > id:
                raise CommandError(b"ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id")
        else:
            raise syntax_error()
    values = stream(e, a[1])
    if values is None:
        raise CommandError(b"ERR no such key")
    if values.ids and id < values.ids[-1]:
        raise CommandError(b"ERR The ID specified in XSETID is smaller than the target stream top item")
    if added is not None and added < len(values):
        raise CommandError(b"ERR The entries_added specified in XSETID is smaller than the target stream length")
    values.last = id
    values.added = values.added if added is None else added
    values.deleted = values.deleted if deleted is None else deleted
    e.touch(a[1], b"xsetid", "t")
    return OK


# ---- reading -----------------------------------------------------------------------------------------------------


class ReadOptions:
    """What XREAD and XREADGROUP share.

    Attributes:
        count: entries of each stream; below 0: all.
        until: when it is given up, in unix milliseconds (0: never); None: it does not wait.
        reader: group and consumer, of XREADGROUP.
    """

    def __init__(self, e: "Engine", a: Args, grouped: bool) -> None:
        self.count = -1
        self.until: int | None = None
        self.no_ack = False
        self.reader: tuple[bytes, bytes] | None = None
        at = 1
        while a[at].upper() != b"STREAMS" or at + 1 == len(a):
            word, rest = a[at].upper(), len(a) - at - 1
            if not grouped and ((word == b"GROUP" and rest >= 2) or word == b"NOACK"):
                raise CommandError(
                    b"ERR The %b option is only supported by XREADGROUP. You called XREAD instead." % word
                )
            if word == b"COUNT" and rest:
                self.count = integer(a[at + 1]) or -1
                at += 2
            elif word == b"BLOCK" and rest:
                ms = integer(a[at + 1], b"ERR timeout is not an integer or out of range")
                if ms < 0:
                    raise CommandError(b"ERR timeout is negative")
                self.until = e.now + ms if ms else 0
                at += 2
            elif word == b"GROUP" and rest >= 2:
                self.reader = (a[at + 1], a[at + 2])
                at += 3
            elif word == b"NOACK":
                self.no_ack = True
                at += 1
            else:
                raise syntax_error()
            if at >= len(a):
                raise syntax_error()
        words = a[at + 1 :]
        if len(words) % 2:
            raise CommandError(
                b"ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
            )
        half = len(words) // 2
        self.keys, self.ids = words[:half], words[half:]


def stream_keys(a: Args) -> list[bytes]:
    """The keys behind STREAMS. Raises ValueError: that word is missing."""
    words = a[[word.upper() for word in a].index(b"STREAMS") + 1 :]
    return words[: len(words) // 2]


def reply_streams(e: "Engine", found: list[tuple[bytes, bytes]]) -> bytes:
    """Encoded entries by key."""
    if e.reply.version == 3:
        return e.reply.map((bulk(key), entries) for key, entries in found)
    return array([array([bulk(key), entries]) for key, entries in found])


@group.command("xread", -4, "readonly blocking movablekeys", movable=stream_keys, since="5.0.0")
def xread(e: "Engine", a: Args) -> bytes | None:
    """Returns messages from multiple streams with IDs greater than the ones requested. Blocks until there are some."""
    options = ReadOptions(e, a, grouped=False)
    wanted: list[tuple[bytes, Id]] = []
    for key, word in zip(options.keys, options.ids, strict=True):
        values = stream(e, key)
        if word == b"$":
            wanted.append((key, values.last if values is not None else ZERO_ID))
        elif word == b">":
            raise CommandError(
                b"ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option."
            )
        else:
            wanted.append((key, parse_id(word, 0)))

    def read(changed: bytes | None) -> bytes | None:
        if changed is not None and type(e.db.get(changed)) is not Stream:
            return None
        found = []
        for key, after in wanted:
            values = stream(e, key) if changed in (None, key) else None
            if values is not None and after < LAST_ID:
                ids = values.between(following(after), LAST_ID, options.count)
                if ids:
                    found.append((key, array([entry(id, values.entries[id]) for id in ids])))
        return reply_streams(e, found) if found else None

    answer = read(None)
    if answer is not None or options.until is None:
        return e.reply.null_array if answer is None else answer
    return e.block(options.keys, options.until, read, e.reply.null_array)
