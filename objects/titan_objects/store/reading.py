"""Commands out of what a client sends: arrays of strings, and lines that were typed, wherever the chunks end.

hiredis reads them, quickly; but it takes any RESP, reserves memory for as many words as a header announces, does not
look at the two bytes behind a word, and does not tell where a command ends. So what it has read counts only if the
bytes are just that, which is proved by counting, or else by encoding it; and what begins with a command that is not
whole, or is none, is read piece by piece.
"""

import re
from collections.abc import Iterator

from titan_objects.store.effects import encode
from titan_objects.store.parser import ELEMENTS_MAX, ProtocolError, inline, make_reader, only_words
from titan_objects.store.resp import bulks
from titan_objects.store.table import Args

WORD_BYTES_MAX = 512 << 20
INLINE_MAX = 64 << 10
"""Bytes of a word, and of a line that has no end yet, as in Redis."""

STRICT_WORDS_MAX, STRICT_BYTES_MAX = 10, 16 << 10
"""Of a command and of a word of a client that nobody knows yet, as in Redis: enough for AUTH and HELLO."""

_join = b"".join
_CR, _LF, _STAR, _PERCENT = b"\r\n*%"
_OTHER_TYPES = _PLUS, _EQUAL, _PAREN, _TILDE, _GREATER, _BAR = b"+=(~>|"
"""As numbers: `in` finds them in a fifth of the time that it takes for bytes."""

_many_words = re.compile(rb"\*([1-9][0-9]{2,9})\r").findall
_many_of_other_types = [re.compile(rb"%b([1-9][0-9]{2,9})\r" % kind).findall for kind in (b"~", b">", rb"\|")]
_WORD_BYTES = 6
"""The least that a word takes: `$0`, and two ends of lines."""

_HEADER_BYTES = 32
_number = re.compile(rb"0|[1-9][0-9]{0,11}").fullmatch


class CommandReader:
    """Reads one client's commands.

    Attributes:
        whole: the last chunk was nothing but the commands that were read from it, as `encode` writes them.
        held: bytes of a command that has begun, and is not whole yet.
        error: why nothing more is read; empty: it is.
        strict: nothing is read that is longer than what strangers have to say. To be read by `read_each` only.
    """

    def __init__(self) -> None:
        self.whole = False
        self.held = 0
        self.error = b""
        self.strict = False
        self._quick = make_reader()
        self._words: Args = []
        self._count = 0
        """Of the words that the command at hand will have; 0: its header is not there yet."""
        self._taken = 0
        """Bytes of its header, and of those words."""
        self._pieces: list[bytes] = []
        """What follows them; of no use before there are `_needed` bytes of it."""
        self._needed = 0

    def read(self, data: bytes) -> list[Args]:
        """The commands that end in this chunk, each of one word at least."""
        self.whole = False
        if self.held or data[0] != _STAR:
            return self._read_slowly(data, [])
        odd = _TILDE in data or _GREATER in data or _BAR in data
        # Of one command alone, with less than ten words, one comparison and one search tell as much.
        if (odd or data[2:3] != b"\r" or data.find(b"*", 3) >= 0) and _reserves_much(data, odd):
            return self._read_slowly(data, [])
        reader = self._quick
        commands: list[Args] = []
        try:
            reader.feed(data)
            args = reader.gets()
            if args is not False:
                commands.append(args)  # type: ignore[arg-type]
                if reader.has_data():
                    commands.extend(iter(reader.gets, False))  # type: ignore[arg-type]
                    self.whole = not reader.has_data() and _is_nothing_but(data, commands, odd)
                else:
                    self.whole = type(args) is list and bool(args) and data == bulks(args)
                if self.whole:
                    return commands
        except (ProtocolError, TypeError):
            pass  # what is wrong is found again
        self._quick = make_reader()  # that one has read on
        if only_words(commands):
            encoded = encode(commands)
            if data.startswith(encoded):
                self.whole = len(encoded) == len(data)
                return self._read_slowly(data[len(encoded) :], commands)
        return self._read_slowly(data, [])

    def _read_slowly(self, data: bytes, commands: list[Args]) -> list[Args]:
        """Those commands, and what follows them, piece by piece."""
        commands.extend(self.read_each(data))
        return commands

    def read_each(self, data: bytes) -> Iterator[Args]:
        """As `read`, but each command before what follows it is looked at: it may change what is `strict`."""
        self._pieces.append(data)
        self.held += len(data)
        if self.held - self._taken < self._needed:
            return
        data = _join(self._pieces)
        at = 0
        fresh: list[Args] = []
        try:
            while at < len(data):
                is_line = not self._count and data[at] != _STAR
                after = self._read_line(data, at, fresh) if is_line else self._read_on(data, at, fresh)
                if not after:
                    break
                at = after
                if fresh:
                    yield fresh.pop()
        except ProtocolError as why:
            self.error = str(why).encode()
        rest = data[at:]
        self._pieces = [rest] if rest else []
        self.held = self._taken + len(rest)

    def _read_line(self, data: bytes, at: int, commands: list[Args]) -> int:
        """Reads a command that was typed; where its line ends, or 0: it has no end yet."""
        end = data.find(b"\n", at)
        if end < 0:
            if len(data) - at > INLINE_MAX:
                raise ProtocolError("too big inline request")
            return 0
        args = inline(data[at:end])
        if args:
            commands.append(args)
        return end + 1

    def _read_on(self, data: bytes, at: int, commands: list[Args]) -> int:
        """Reads a header of an array, or a word of it; where that ends, or 0: it is not whole."""
        end = data.find(b"\r\n", at, at + _HEADER_BYTES)
        if end < 0:
            if len(data) - at >= _HEADER_BYTES:
                raise ProtocolError("too big count string")
            self._needed = 0
            return 0
        header, words = data[at:end], self._words
        if not self._count:
            self._count = _word_count(header)  # of none it is passed over
            if self._count > STRICT_WORDS_MAX and self.strict:
                raise ProtocolError("unauthenticated multibulk length")
            stop = end + 2
        else:
            size = _word_bytes(header)
            if size > STRICT_BYTES_MAX and self.strict:
                raise ProtocolError("unauthenticated bulk length")
            stop = end + 2 + size + 2
            if stop > len(data):
                self._needed = stop - at
                return 0
            if data[stop - 2 : stop] != b"\r\n":
                raise ProtocolError("a word does not end where its length says")
            words.append(data[end + 2 : stop - 2])
        self._taken += stop - at
        self._needed = 0
        if len(words) == self._count:
            if words:
                commands.append(words)
            self._words, self._count, self._taken = [], 0, 0
        return stop


def _reserves_much(data: bytes, odd: bool) -> bool:
    """Whether hiredis would reserve more for words that are announced here than for as many as there can be, and those
    of one command more. `odd`: there may be other types of arrays.
    """
    found = _many_words(data)
    if odd:
        found += [each for find in _many_of_other_types for each in find(data)]
    if not found:
        return False
    counts = list(map(int, found))
    most = max(counts)
    return most > ELEMENTS_MAX or (sum(counts) - most) * _WORD_BYTES > len(data)


def _is_nothing_but(data: bytes, commands: list[Args], odd: bool) -> bool:
    """Whether these bytes, of which hiredis keeps none, are certainly just what `encode` makes of what it has read.

    No byte that begins another type stands anywhere but in words, and there are as many arrays as have been read: so it
    has begun none that is not whole. No word has an end of a line in it, and there are as many as headers and words
    have: so each word ends with one.
    """
    if (odd or _PERCENT in data) and any(type(args) is not list for args in commands):
        return False
    words: Args = []
    for args in commands:
        words += args
    text = _join(words)
    if _LF in text or _CR in text or not all(commands) or not data.endswith(b"\r\n"):
        return False
    if data.count(b"\r\n") != len(commands) + 2 * len(words):
        return False
    stars = data.count(_STAR)
    if stars != len(commands) and stars - text.count(_STAR) != len(commands):
        return False
    if odd or _PLUS in data or _EQUAL in data or _PAREN in data:
        return all(data.count(kind) == text.count(kind) for kind in _OTHER_TYPES)
    return True


def _word_count(header: bytes) -> int:
    """Of an array. Raises ProtocolError: it is none, or too long."""
    count = header[1:]
    if header[:1] != b"*" or (_number(count) is None and count != b"-1") or int(count) > ELEMENTS_MAX:
        raise ProtocolError("invalid multibulk length")
    return max(0, int(count))


def _word_bytes(header: bytes) -> int:
    """Of a string. Raises ProtocolError: it is none, or too long."""
    if header[:1] != b"$":
        raise ProtocolError(f"expected '$', got {header[:1].decode('latin-1')!r}")
    if _number(header[1:]) is None or int(header[1:]) > WORD_BYTES_MAX:
        raise ProtocolError("invalid bulk length")
    return int(header[1:])
