"""Commands out of what a client sends: only arrays of strings, each whole, wherever the chunks end.

hiredis reads them, quickly; but it takes any RESP, reserves memory for as many words as a header announces, does not
look at the two bytes behind a word, and does not tell where a command ends. So what it has read counts only if the
bytes are just that, which is proved by counting, or else by encoding it; and what begins with a command that is not
whole, or is none, is read word by word.
"""

import re
from itertools import chain

from titan_objects.store.effects import encode
from titan_objects.store.parser import ELEMENTS_MAX, ProtocolError, make_reader, only_words
from titan_objects.store.table import Args

WORD_BYTES_MAX = 512 << 20
"""As in Redis."""

_join = b"".join
_CR, _LF, _STAR, _PERCENT, _EQUAL, _TILDE, _GREATER, _BAR = b"\r\n*%=~>|"
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
        typed: of that chunk, what follows those commands and begins no array: a line, typed perhaps.
        held: bytes of a command that has begun, and is not whole yet.
        error: why nothing more is read; empty: it is.
    """

    def __init__(self) -> None:
        self.whole = False
        self.typed = b""
        self.held = 0
        self.error = b""
        self._quick = make_reader()
        self._words: Args = []
        self._count = 0
        """Of the words that the command at hand will have; 0: its header is not there yet."""
        self._pieces: list[bytes] = []
        """What follows those words; of no use before there are `_needed` bytes of it."""
        self._size = self._needed = 0

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
                if _is_nothing_but(data, commands, odd):
                    self.whole = True
                    return commands
        except ProtocolError:
            pass  # what is wrong is found again
        self._quick = make_reader()  # that one has read on
        if only_words(commands):
            encoded = encode(commands)
            if data.startswith(encoded):
                self.whole = len(encoded) == len(data)
                return self._read_slowly(data[len(encoded) :], commands)
        return self._read_slowly(data, [])

    def _read_slowly(self, data: bytes, commands: list[Args]) -> list[Args]:
        """Those commands, and what follows them."""
        try:
            while data:
                if not self.held and data[0] != _STAR:
                    self.typed = data
                    break
                data = self._read_on(data, commands)
        except ProtocolError as why:
            self.error = str(why).encode()
        return commands

    def _read_on(self, data: bytes, commands: list[Args]) -> bytes:
        """Reads one command, or goes on with it; what follows it."""
        self._pieces.append(data)
        self._size += len(data)
        self.held += len(data)
        if self._size < self._needed:
            return b""
        data = _join(self._pieces)
        at = 0
        words = self._words
        while not self._count or len(words) < self._count:
            end = data.find(b"\r\n", at, at + _HEADER_BYTES)
            if end < 0:
                if len(data) - at >= _HEADER_BYTES:
                    raise ProtocolError("too big count string")
                self._keep(data[at:], 0)
                return b""
            if not self._count:
                self._count = _word_count(data[at:end])
                at = end + 2
                if not self._count:
                    break  # it has no words, and is passed over
                continue
            stop = end + 2 + _word_bytes(data[at:end]) + 2
            if stop > len(data):
                self._keep(data[at:], stop - at)
                return b""
            if data[stop - 2 : stop] != b"\r\n":
                raise ProtocolError("a word does not end where its length says")
            words.append(data[end + 2 : stop - 2])
            at = stop
        if words:
            commands.append(words)
        self._words, self._count = [], 0
        self._keep(b"", 0)
        self.held = 0
        return data[at:]

    def _keep(self, rest: bytes, needed: int) -> None:
        self._pieces = [rest] if rest else []
        self._size, self._needed = len(rest), needed


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
    """Whether these bytes are certainly just what `encode` makes of the commands that hiredis has read from them.

    No word has an end of a line in it, and there are as many as headers and words have: so each word ends with one, and
    nothing follows. And no byte that begins another type, of as many lines, stands anywhere but in words.
    """
    if (odd or _PERCENT in data) and any(type(args) is not list for args in commands):
        return False
    try:
        text = _join(commands[0] if len(commands) == 1 else chain.from_iterable(commands))
    except TypeError:
        return False
    if _LF in text or _CR in text or not all(commands) or not data.endswith(b"\r\n"):
        return False
    if data.count(b"\r\n") != len(commands) + 2 * sum(map(len, commands)):
        return False
    if odd and any(data.count(kind) != text.count(kind) for kind in (_TILDE, _GREATER, _BAR)):
        return False
    return _EQUAL not in data or data.count(_EQUAL) == text.count(_EQUAL)


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
