"""Commands out of bytes: hiredis for speed, and a slow reader that knows where it stands for logs that are damaged."""

import re
from collections.abc import Iterator
from typing import Protocol

import titan_overlay as titan
from titan_objects.store.table import Args

ELEMENTS_MAX = 1_000_000
"""Words of one command. hiredis would reserve memory for as many as a client announces."""

_join = b"".join


class Reader(Protocol):
    """What hiredis gives: bytes in, values out, False for "not yet"."""

    def feed(self, data: bytes, /) -> None: ...
    def gets(self) -> object: ...
    def has_data(self) -> bool: ...


class ProtocolError(Exception):
    """What came is no command."""


def make_reader() -> Reader:
    """A parser of its own for one stream.

    Raises:
        ConfigError: hiredis is not installed.
    """
    try:
        import hiredis
    except ImportError:
        raise titan.ConfigError("the store needs hiredis: pip install 'titan-overlay[store]'") from None
    reader: Reader = hiredis.Reader(protocolError=ProtocolError, replyError=ProtocolError)
    return reader


def only_words(commands: list[Args]) -> bool:
    """Whether all are arrays of strings, with a name at least. hiredis takes any RESP."""
    try:
        for args in commands:
            if type(args) is not list or not args:
                return False
            _join(args)
    except TypeError:
        return False
    return True


_LONG = rb"[*~>|][1-9][0-9]{6,}\r"
_long_within = re.compile(rb"\r\n(?=%b)" % _LONG).finditer
_long_at_begin = re.compile(rb"\n?(?=%b)" % _LONG).match
_long_command = re.compile(rb"\*[1-9][0-9]{6,}\r").search
_TILDE, _GREATER, _BAR = b"~>|"  # as numbers, `in` finds them in a fifth of the time that it takes for bytes

_HEADER_BYTES = 16
_begun_header = re.compile(rb"[*~>|][0-9]{0,12}\Z").search
"""Longer numbers are out of range to hiredis."""


def _may_announce_much(data: bytes) -> bool:
    """Whether these bytes look as if a header among them announced more than `ELEMENTS_MAX`, in any type of array."""
    if _TILDE in data or _GREATER in data or _BAR in data:
        return _long_at_begin(data) is not None or next(_long_within(data), None) is not None
    if data[2:3] == b"\r" and data.find(b"*", 3) < 0:  # one command alone, of less than ten words
        return False
    return _long_command(data) is not None


class CommandReader:
    """Reads what a client sends. hiredis does; but it reserves memory for as many words as a header announces, and is
    not shown one that announces too many.

    Attributes:
        amid: what came last does not end with a command, as far as it can be told: hiredis keeps the beginning of a
            word, and consumes what stands before.
        error: why nothing more is read; empty: it is.
    """

    def __init__(self) -> None:
        self.amid = False
        self.error = b""
        self._reader = make_reader()
        self._begun = b""
        """The beginning of a header, perhaps."""

    def read(self, data: bytes) -> list[Args]:
        """The commands that end among these bytes; of other types perhaps, see `only_words`."""
        reader = self._reader
        commands: list[Args] = []
        try:
            if self._begun or not data.endswith(b"\r\n") or _may_announce_much(data):
                self._read_with_care(data, commands)
                return commands
            reader.feed(data)
            args = reader.gets()
            more = True
            if args is not False:
                commands.append(args)  # type: ignore[arg-type]
                more = reader.has_data()
                if more:
                    commands.extend(iter(reader.gets, False))  # type: ignore[arg-type]
            self.amid = more and reader.has_data()
        except ProtocolError as why:
            self.error = str(why).encode()
        return commands

    def _read_with_care(self, data: bytes, commands: list[Args]) -> None:
        data = self._begun + data
        begun = None if data.endswith(b"\n") else _begun_header(data, max(0, len(data) - _HEADER_BYTES))
        end = len(data) if begun is None else begun.start()
        self._begun = data[end:]
        at = 0
        first = _long_at_begin(data)
        for found in (*(() if first is None else (first,)), *_long_within(data)):
            self._take(data[at : found.end()], commands)
            at = found.end()
            if not self._reader.has_data():  # it stands in no word
                raise ProtocolError("invalid multibulk length")
        self._take(data[at:end], commands)
        self.amid = not data.endswith(b"\n") or self._reader.has_data()

    def _take(self, data: bytes, commands: list[Args]) -> None:
        self._reader.feed(data)
        commands.extend(iter(self._reader.gets, False))  # type: ignore[arg-type]


class Damaged(Exception):
    """Bytes that are no command. `at`: where it would begin."""

    def __init__(self, at: int, why: str) -> None:
        super().__init__(why)
        self.at = at
        self.why = why


class Torn(Exception):
    """The bytes end within the command that begins at `at`."""

    def __init__(self, at: int) -> None:
        super().__init__(f"the command at {at} is cut short")
        self.at = at


def scan(data: bytes, at: int) -> Iterator[tuple[Args, int]]:
    """Each command from there on, with the place behind it; annotations (`#...`) are passed over.

    Raises:
        Damaged: what follows is no command.
        Torn: it is the beginning of one.
    """
    size = len(data)
    while at < size:
        begin = at
        if data[at : at + 1] == b"#":
            end = data.find(b"\n", at)
            if end < 0:
                raise Torn(begin)
            at = end + 1
            continue
        count, at = _header(data, at, b"*", begin)
        if not 0 < count <= ELEMENTS_MAX:
            raise Damaged(begin, f"a command of {count} words")
        args: Args = []
        for _ in range(count):
            length, at = _header(data, at, b"$", begin)
            if at + length + 2 > size:
                raise Torn(begin)
            if length < 0 or data[at + length : at + length + 2] != b"\r\n":
                raise Damaged(begin, "a word does not end where its length says")
            args.append(data[at : at + length])
            at += length + 2
        yield args, at


def _header(data: bytes, at: int, kind: bytes, begin: int) -> tuple[int, int]:
    end = data.find(b"\r\n", at, at + 32)
    line = data[at : end if end >= 0 else at + 32]
    if not line or (end < 0 and at + len(line) == len(data) and re.fullmatch(b"\\%b[0-9]*\r?" % kind, line)):
        raise Torn(begin)
    if not re.fullmatch(b"\\%b[0-9]{1,12}" % kind, line):
        raise Damaged(begin, f"{bytes(line[:16])!r} where {kind.decode()} and a number should stand")
    return int(line[1:]), end + 2


def is_whole_after(data: bytes, at: int) -> bool:
    """Whether whole commands stand behind one that seems cut short: then it is not the end that is torn."""
    for found in re.finditer(rb"\r\n(?=\*[1-9][0-9]*\r\n\$[0-9]+\r\n)", data[at + 1 :]):
        try:
            for _ in scan(data, at + 1 + found.end()):
                return True
        except (Damaged, Torn):
            continue
    return False


_INLINE = re.compile(rb'\s*(?=\S)([^\s"\']*)(?:"((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\')?(?=\s|$)', re.DOTALL)
_HTTP = frozenset((b"post", b"host:"))
"""First words of lines in requests of browsers: a web page can send them to stores on its reader's machine."""
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def inline(line: bytes) -> Args:
    """The words of a command typed as a line, with Redis's quoting.

    Raises:
        ProtocolError: quotes that do not match; or it comes from a browser, and so may what follows.
    """
    words: Args = []
    at, line = 0, line.strip()
    while at < len(line):
        found = _INLINE.match(line, at)
        if found is None:
            raise ProtocolError("unbalanced quotes in request")
        plain, double, single = found.groups(b"")
        quoted = re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", _unescaped, double, flags=re.DOTALL) or single.replace(b"\\'", b"'")
        words.append(plain + quoted)
        at = found.end()
    if words and words[0].lower() in _HTTP:
        raise ProtocolError("this is HTTP; nothing of it is executed")
    return words


def _unescaped(found: "re.Match[bytes]") -> bytes:
    text = found[1]
    return bytes([int(text[1:], 16)]) if len(text) == 3 else _ESCAPES.get(text, text)
