"""Replies in the Redis serialization protocol (RESP2 and RESP3), and the way back to Python values.

Handlers return encoded replies. What the two versions write differently (nulls, maps, sets, doubles, pushes) goes
through the session's `Resp2` or `Resp3`; everything else is a function or a constant here.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

Text = Any
"""Bytes or a bytearray; type checkers do not let the latter into `%b`."""

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
PONG = b"+PONG\r\n"
ZERO = b":0\r\n"
ONE = b":1\r\n"
EMPTY = b"*0\r\n"
EMPTY_BULK = b"$0\r\n\r\n"


BULK_HEADERS = [b"$%d" % size for size in range(1024)]
"""Of short strings, by their length in bytes: most are short, and writing a number takes longer than looking it up."""

join_lines = b"\r\n".join

REPLY_BYTES_MAX = 512 << 20
"""Of what a reply puts together from values: as much as one value may have."""


class CommandError(Exception):
    """A command was refused; the text goes to the client as it stands, its code (`ERR`, `WRONGTYPE`) first.

    Each is raised once: one that were kept and raised again would keep the frames, and so the commands, of all times.

    Attributes:
        counted: it is among the errors of INFO already, as that of a command that a script has called.
    """

    counted = False

    def __init__(self, text: str | bytes) -> None:
        self.text = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        super().__init__(self.text.decode("utf-8", "backslashreplace"))

    @property
    def reply(self) -> bytes:
        """As RESP; line breaks in the text become spaces."""
        return b"-%b\r\n" % self.text.replace(b"\r", b" ").replace(b"\n", b" ")


def wrong_type() -> CommandError:
    """The key holds a value of another type."""
    return CommandError(b"WRONGTYPE Operation against a key holding the wrong kind of value")


def syntax_error() -> CommandError:
    """Options that do not go together, or are not known."""
    return CommandError(b"ERR syntax error")


def bad_subcommand(words: list[bytes]) -> CommandError:
    """A call of a sub-command with options that it does not take."""
    return CommandError(
        b"ERR unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
        % (words[1][:128], words[0].upper())
    )


def limit_reply(size: int) -> None:
    """Raises CommandError: a reply would put together more than it may."""
    if size > REPLY_BYTES_MAX:
        raise CommandError(b"ERR the reply would have more than %d bytes: ask for less at once" % REPLY_BYTES_MAX)


def bulk(value: Text) -> bytes:
    """A binary-safe string."""
    try:
        return join_lines((BULK_HEADERS[len(value)], value, b""))
    except IndexError:
        return b"$%d\r\n%b\r\n" % (len(value), value)


def simple(text: bytes) -> bytes:
    """A short status line."""
    return b"+%b\r\n" % text


def integer(value: int) -> bytes:
    """A 64-bit number."""
    return b":%d\r\n" % value


def array(items: Sequence[bytes]) -> bytes:
    """An array of encoded replies."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def bulks(values: Sequence[Text]) -> bytes:
    """An array of strings; also how a command is written."""
    try:
        if len(values) == 3:  # most writes have three words, and their speed is that of the log
            a, b, c = values
            heads = BULK_HEADERS
            return join_lines((b"*3", heads[len(a)], a, heads[len(b)], b, heads[len(c)], c, b""))
        lines = [b"*%d" % len(values)]
        for value in values:
            lines += (BULK_HEADERS[len(value)], value)
    except IndexError:  # some are long
        lines = [b"*%d" % len(values)]
        for value in values:
            lines += (b"$%d" % len(value), value)
    lines.append(b"")
    return join_lines(lines)


def looked_up(values: Sequence[Text | None], null: bytes) -> bytes:
    """An array of strings, any of them asked for any number of times; None: there is none.

    Raises:
        CommandError: together they are too long.
    """
    limit_reply(sum(map(len, filter(None, values))))
    return array([null if value is None else bulk(value) for value in values])


def number(value: float) -> bytes:
    """A double as Redis 7.0 writes it: 17 significant digits."""
    if math.isinf(value):
        return b"inf" if value > 0 else b"-inf"
    if value == int(value) and abs(value) < 1e15:
        return b"%d" % int(value) if value or math.copysign(1, value) > 0 else b"-0"
    return b"%.17g" % value


class Resp2:
    """RESP2, which every client starts with."""

    version = 2
    null = b"$-1\r\n"
    null_array = b"*-1\r\n"

    def map(self, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Pairs of encoded replies: a flat array."""
        return array([item for pair in pairs for item in pair])

    def set(self, items: Sequence[bytes]) -> bytes:
        """Encoded replies without an order: an array."""
        return array(items)

    def double(self, value: float) -> bytes:
        """A double: a string."""
        return bulk(number(value))

    def written(self, text: bytes) -> bytes:
        """A double in digits already: a string."""
        return bulk(text)

    def boolean(self, value: bool) -> bytes:
        """Yes or no: 1 or 0."""
        return ONE if value else ZERO

    def push(self, items: Sequence[bytes]) -> bytes:
        """What no command asked for: an array like any other."""
        return array(items)

    def scored(self, pairs: Iterable[tuple[bytes, float]]) -> bytes:
        """Members with their scores: a flat array."""
        return array([item for member, score in pairs for item in (bulk(member), bulk(number(score)))])

    def big_number(self, digits: bytes) -> bytes:
        """An integer of any length: a string."""
        return bulk(digits)

    def verbatim(self, text: bytes, form: bytes = b"txt") -> bytes:
        """Text for people: a string."""
        return bulk(text)


class Resp3(Resp2):
    """RESP3, after `HELLO 3`."""

    version = 3
    null = b"_\r\n"
    null_array = b"_\r\n"

    def map(self, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Pairs of encoded replies."""
        items = list(pairs)
        return b"%%%d\r\n%b" % (len(items), b"".join([item for pair in items for item in pair]))

    def set(self, items: Sequence[bytes]) -> bytes:
        """Encoded replies without an order."""
        return b"~%d\r\n%b" % (len(items), b"".join(items))

    def double(self, value: float) -> bytes:
        """A double."""
        return b",%b\r\n" % number(value)

    def written(self, text: bytes) -> bytes:
        """A double in digits already."""
        return b",%b\r\n" % text

    def boolean(self, value: bool) -> bytes:
        """Yes or no."""
        return b"#t\r\n" if value else b"#f\r\n"

    def push(self, items: Sequence[bytes]) -> bytes:
        """What no command asked for."""
        return b">%d\r\n%b" % (len(items), b"".join(items))

    def scored(self, pairs: Iterable[tuple[bytes, float]]) -> bytes:
        """Members with their scores, in pairs."""
        return array([b"*2\r\n" + bulk(member) + self.double(score) for member, score in pairs])

    def big_number(self, digits: bytes) -> bytes:
        """An integer of any length."""
        return b"(%b\r\n" % digits

    def verbatim(self, text: bytes, form: bytes = b"txt") -> bytes:
        """Text for people, in a form that has a name of three letters."""
        return b"=%d\r\n%b:%b\r\n" % (len(text) + 4, form, text)


RESP2, RESP3 = Resp2(), Resp3()


class SetReply(list[Any]):
    """What RESP3 says has no order."""


def decode(reply: bytes) -> Any:
    """One encoded reply as a Python value: bytes, int, float, bool, None, list or dict; an error as `CommandError`.

    Raises:
        ValueError: it is not one whole reply.
    """
    value, end = _decode(reply, 0)
    if end != len(reply):
        raise ValueError(f"{len(reply) - end} bytes after the reply")
    return value


def decode_all(replies: bytes) -> list[Any]:
    """Many replies, one after the other. Raises as `decode`."""
    values, at = [], 0
    while at < len(replies):
        value, at = _decode(replies, at)
        values.append(value)
    return values


def _decode(data: bytes, at: int) -> tuple[Any, int]:
    end = data.find(b"\r\n", at)
    if end < 0:
        raise ValueError("a reply without an end")
    kind, line, at = data[at : at + 1], data[at + 1 : end], end + 2
    match kind:
        case b"+" | b"(":  # a script's big number need not be one
            return line, at
        case b"-":
            return CommandError(line), at
        case b":":
            return int(line), at
        case b",":
            return float(line), at
        case b"#":
            return line == b"t", at
        case b"_":
            return None, at
        case b"$" | b"=":
            size = int(line)
            if size < 0:
                return None, at
            return data[at + 4 * (kind == b"=") : at + size], at + size + 2
        case b"*" | b"~" | b">" | b"%":
            count = int(line)
            if count < 0:
                return None, at
            items: list[Any] = []
            for _ in range(2 * count if kind == b"%" else count):
                item, at = _decode(data, at)
                items.append(item)
            if kind == b"%":
                return dict(zip(items[::2], items[1::2], strict=True)), at
            return (SetReply(items) if kind == b"~" else items), at
        case _:
            raise ValueError(f"a reply cannot begin with {kind!r}")
