"""SCAN, and what it has in common with HSCAN, SSCAN and ZSCAN: options, cursors and pages."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.globs import matcher
from titan_objects.store.resp import CommandError, array, bulk, syntax_error
from titan_objects.store.table import Args, Group
from titan_objects.store.values import Members, type_name

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("generic")


_CURSOR = re.compile(rb"([+-]?)0*([0-9]{0,20})").fullmatch
CURSORS = 1 << 64


def parse_cursor(word: bytes) -> int:
    """A cursor, read as C reads an unsigned number: nothing is 0, and -1 the greatest. Raises CommandError."""
    found = _CURSOR(word)
    if found is None or (found[1] and not word[1:]) or int(found[2] or b"0") >= CURSORS:
        raise CommandError(b"ERR invalid cursor")
    return int(found[1] + (found[2] or b"0")) % CURSORS


class Scan:
    """Options of SCAN and its kin. What a cursor is, `scans` knows."""

    def __init__(self, e: "Engine", cursor: int, options: Args, kinds: bool = False) -> None:
        self.cursor = cursor
        self.match: Callable[[bytes], object] | None = None
        self.count = 10
        self.kind: bytes | None = None
        for at in range(0, len(options), 2):
            word, given = options[at].upper(), option(options, at + 1)
            if word == b"MATCH":
                pattern = given
                self.match = None if pattern == b"*" else matcher(pattern)
            elif word == b"COUNT":
                self.count = integer(given)
                if self.count < 1:
                    raise syntax_error()
            elif word == b"TYPE" and kinds:
                self.kind = given.lower()
            else:
                raise syntax_error()
        self._e = e

    def page(self, owner: object, names: Mapping[bytes, object]) -> tuple[bytes, list[bytes]]:
        """The next cursor, and the names of this page.

        Args:
            owner: what is scanned, a database or a value.
            names: all that it has now.
        """
        following, page = self._e.scans.page(self.cursor, self.count, owner, names)
        return b"%d" % following, self._matching(page)

    def backwards(self, members: Members) -> tuple[bytes, list[bytes]]:
        """The same for a set, from its last member to its first.

        Its cursor is a place and needs no list: a member that goes is replaced by the last one, so none that was not
        returned yet ever comes to a place that is behind.
        """
        end = min(self.cursor or len(members), len(members))
        begin = max(0, end - self.count)
        return b"%d" % begin, self._matching(members.order[begin:end])

    def _matching(self, page: list[bytes]) -> list[bytes]:
        self._e.scans.passed += len(page)
        match = self.match
        return page if match is None else [name for name in page if match(name)]


def scan_reply(cursor: bytes, items: list[bytes]) -> bytes:
    """A cursor and encoded items."""
    return array([bulk(cursor), array(items)])


@group.command("scan", -2, "readonly", since="2.8.0")
def scan(e: "Engine", a: Args) -> bytes:
    """Iterates over the key names in the database."""
    options = Scan(e, parse_cursor(a[1]), a[2:], kinds=True)
    cursor, names = options.page(e.db, e.db.data)
    found = []
    for name in names:
        value = e.db.get(name)
        if value is not None and (options.kind is None or type_name(value) == options.kind):
            found.append(bulk(name))
    return scan_reply(cursor, found)
