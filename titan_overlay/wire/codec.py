"""msgpack by msgspec: the one place where bytes become values and values bytes.

Decoders are total: any bytes give a value or `BadMessage`, in a time that grows with their number. Decoders are built
once per type.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import inspect

from titan_overlay.errors import BadMessage
from titan_overlay.wire.keys import LONG_BYTES, check_keys

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode
"""bytes of any msgpack value or Struct."""

Raw = msgspec.Raw
"""Already encoded bytes, embedded as they are."""


class Decoder(Protocol):
    """What `decoder` gives."""

    def decode(self, data: Any, /) -> Any:
        """The value. Raises what msgspec raises, or BadMessage."""


class _Wary:
    """Decodes a type that has room for anything, after a look at the keys of its maps (see `keys.py`)."""

    __slots__ = ("_decode",)

    def __init__(self, type: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(type).decode

    def decode(self, data: Any, /) -> Any:
        if memoryview(data).nbytes > LONG_BYTES:
            check_keys(bytes(data))
        return self._decode(data)


@cache
def decoder(type: Any) -> Decoder:
    """The decoder of a type, built once."""
    if any(isinstance(part, inspect.AnyType) for part in parts_of(type)):
        return _Wary(type)
    return msgspec.msgpack.Decoder(type)


def parts_of(type: Any) -> Iterator[Any]:
    """A type and all types that it is made of, as `msgspec.inspect` tells them."""
    return _parts(inspect.type_info(type), set())


def _parts(info: Any, seen: set[Any]) -> Iterator[Any]:
    if isinstance(info, inspect.StructType):
        if info.cls in seen:
            return
        seen.add(info.cls)
    yield info
    if isinstance(info, msgspec.Struct):
        for each in msgspec.structs.astuple(info):
            for part in each if isinstance(each, tuple) else (each,):
                if isinstance(part, inspect.Type | inspect.Field):
                    yield from _parts(part, seen)


def decode(data: bytes | memoryview | msgspec.Raw, type: type[T]) -> T:
    """The value of these bytes.

    Raises:
        BadMessage: the bytes are not one value of that type.
    """
    try:
        return decoder(type).decode(data)  # type: ignore[no-any-return,arg-type]
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as why:
        raise BadMessage(f"not a {getattr(type, '__name__', type)}: {why}") from None
