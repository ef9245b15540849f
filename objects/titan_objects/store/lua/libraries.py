"""What Redis's Lua has beside the language: `cjson`, `cmsgpack`, `struct` and `bit`, the same to the byte.

Their settings (`cjson.encode_max_depth` and its kin) are left out: they would outlast the script that changes them.
What the functions take apart is bounded by what a script may hold and by the caller's count, what they put together by
that count.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from titan_objects.store.lua import bits, cjson, cmsgpack, structs
from titan_objects.store.lua.values import Arguments, Lua, Meter, Refused

__all__ = ["DEPTH_MAX", "Refused", "Values"]

DEPTH_MAX = 64
"""Levels of what a script returns."""

_LIBRARIES: dict[bytes, dict[bytes, Callable[[Arguments], Any]]] = {
    b"cjson": cjson.FUNCTIONS,
    b"cmsgpack": cmsgpack.FUNCTIONS,
    b"struct": structs.FUNCTIONS,
    b"bit": bits.FUNCTIONS,
}


class Values:
    """Between Lua's values and Python's.

    Args:
        lua: the runtime.
        kind: `lupa.lua_type`.
        null: what `cjson.null` is.
        meter: what counts.
    """

    def __init__(self, lua: Any, kind: Callable[[Any], Any], null: Any, meter: Meter) -> None:
        self._lua = Lua(lua.table_from, kind, null, meter.begin, meter.count, meter.spend)

    def libraries(self) -> dict[bytes, dict[bytes, Callable[..., Any]]]:
        """Functions by library and name; one that returns a tuple returns many values. They raise Refused."""
        return {
            library: {name: partial(self._run, name, function) for name, function in functions.items()}
            for library, functions in _LIBRARIES.items()
        }

    def _run(self, name: bytes, function: Callable[[Arguments], Any], *values: Any) -> Any:
        return function(Arguments(self._lua, name, values))
