"""What a script returns, as the client hears it."""

from collections.abc import Callable
from typing import Any

from titan_objects.store.lua.libraries import DEPTH_MAX
from titan_objects.store.resp import CommandError, Resp2, array, bulk, integer, simple


class Answer:
    """Encodes one.

    Args:
        resp: of the client.
        booleans: the script has asked for RESP3, where true and false are what they are.
        kind: `lupa.lua_type`.
        count: one more value of it; raises CommandError when there are too many.
    """

    def __init__(self, resp: Resp2, booleans: bool, kind: Callable[[Any], Any], count: Callable[[Any], None]) -> None:
        self._resp = resp
        self._booleans = booleans
        self._kind = kind
        self._count = count

    def encode(self, value: Any, depth: int = 0) -> bytes:
        """A Lua value, whose tables have no metatables. Raises CommandError: it is too large or too deep."""
        self._count(value)
        resp = self._resp
        if value is None:
            return resp.null
        if isinstance(value, bool):
            if self._booleans:
                return resp.boolean(value)
            return integer(1) if value else resp.null
        if isinstance(value, bytes):
            return bulk(value)
        if isinstance(value, (int, float)):
            return integer(int(value) if abs(value) < 1 << 63 else -(1 << 63))
        if self._kind(value) != "table":
            return resp.null
        if depth > DEPTH_MAX:
            raise CommandError(b"ERR reached lua stack limit: a reply is nested %d deep at most" % DEPTH_MAX)
        if isinstance(value[b"err"], bytes):
            return CommandError(value[b"err"]).reply
        if isinstance(value[b"ok"], bytes):
            return simple(_one_line(value[b"ok"]))
        if isinstance(value[b"double"], (int, float)):
            return resp.double(float(value[b"double"]))
        if self._kind(value[b"map"]) == "table":
            pairs = value[b"map"].items()
            return resp.map([(self.encode(key, depth + 1), self.encode(each, depth + 1)) for key, each in pairs])
        if self._kind(value[b"set"]) == "table":
            return resp.set([self.encode(each, depth + 1) for each in value[b"set"]])
        if isinstance(value[b"big_number"], bytes):
            return resp.big_number(_one_line(value[b"big_number"]))
        text = value[b"verbatim_string"]
        if self._kind(text) == "table" and isinstance(text[b"format"], bytes) and isinstance(text[b"string"], bytes):
            self._count(text[b"string"])
            return resp.verbatim(text[b"string"], text[b"format"][:3].ljust(3))
        items: list[bytes] = []
        while (item := value[len(items) + 1]) is not None:
            items.append(self.encode(item, depth + 1))
        return array(items)


def _one_line(text: bytes) -> bytes:
    return text.replace(b"\r", b" ").replace(b"\n", b" ")
