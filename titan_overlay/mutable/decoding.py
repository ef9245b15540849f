"""Total decoders of what an engine says and writes: any bytes give a value or `BadMessage`."""

from collections.abc import Callable
from typing import Any

import msgspec

from titan_overlay.errors import BadMessage

Bytes = bytes | memoryview


def total(kinds: Any, what: str) -> Callable[[Bytes], Any]:
    """A decoder of one union of Structs.

    Args:
        what: the bytes should be, for the error.
    """
    decode = msgspec.msgpack.Decoder(kinds).decode

    def decoded(raw: Bytes) -> Any:
        try:
            return decode(raw)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as why:
            raise BadMessage(f"not {what}: {why}") from None

    return decoded
