"""Commands out of bytes: hiredis for speed, and a slow reader that knows where it stands for logs that are damaged."""

import re
from collections.abc import Iterator
from typing import Protocol

import titan_overlay as titan
from titan_objects.store.table import Args

ELEMENTS_MAX = 1_000_000
"""Words of one command."""


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
            b"".join(args)
    except TypeError:
        return False
    return True


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
