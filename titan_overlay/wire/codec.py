"""msgpack by msgspec: the one place where bytes become values and values bytes.

Decoders are total: any bytes give a value or `BadMessage`. Decoders are built once per type.
"""

from functools import cache
from typing import Any, TypeVar

import msgspec

from titan_overlay.errors import BadMessage

T = TypeVar("T")

encode = msgspec.msgpack.Encoder().encode
"""bytes of any msgpack value or Struct."""

Raw = msgspec.Raw
"""Already encoded bytes, embedded as they are."""


@cache
def decoder(type: Any) -> msgspec.msgpack.Decoder[Any]:
    """The decoder of a type, built once."""
    return msgspec.msgpack.Decoder(type)


def decode(data: bytes | memoryview | msgspec.Raw, type: type[T]) -> T:
    """The value of these bytes.

    Raises:
        BadMessage: the bytes are not one value of that type.
    """
    try:
        return decoder(type).decode(data)  # type: ignore[no-any-return,arg-type]
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as why:
        raise BadMessage(f"not a {getattr(type, '__name__', type)}: {why}") from None
