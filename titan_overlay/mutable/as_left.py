"""A value of a state comes back as handlers left it, also where that is not what its annotation promises. No I/O.

Python holds nobody to an annotation: an `int` becomes 1.5, a `float` is set to 0. The members go on with that, so one
that begins from their state has to. Were it refused, the object would end with the last member that runs; were it
converted, members would differ.
"""

import dataclasses
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from titan_overlay.mutable.in_order import in_order
from titan_overlay.wire import codec


def as_left(raw: Any, kind: Any) -> Any:
    """What was encoded: of its type where it can be, else as close to it as its bytes tell.

    Args:
        raw: as it was decoded without a type.
    """
    try:
        made = msgspec.convert(raw, kind)
        if codec.encode(in_order(made)) == codec.encode(raw):
            return made
    except (msgspec.MsgspecError, TypeError, ValueError):
        pass
    try:
        return _parts_as_left(raw, kind)
    except (TypeError, ValueError, KeyError):
        return raw


def _parts_as_left(raw: Any, kind: Any) -> Any:
    """Of its type on the outside, at least. TypeError, ValueError, KeyError: it is not even that."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return as_left(raw, args[0])
    if origin in (Union, UnionType):
        some = [each for each in args if each is not type(None)]
        return as_left(raw, some[0]) if len(some) == 1 and raw is not None else raw
    if origin is dict and isinstance(raw, dict):
        return {as_left(key, args[0]): as_left(each, args[1]) for key, each in raw.items()}
    if origin in (list, set, frozenset) and isinstance(raw, list):
        return origin(as_left(each, args[0]) for each in raw)
    if origin is tuple and isinstance(raw, list):
        kinds = args[:1] * len(raw) if args[1:] == (...,) else args
        return tuple(as_left(each, of) for each, of in zip(raw, kinds, strict=True))
    if isinstance(kind, type) and (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{name: as_left(each, hints[name]) for name, each in _attributes(raw, kind)})
    return raw


def _attributes(raw: Any, kind: type) -> list[tuple[str, Any]]:
    """Of a Struct or a dataclass: name and value, as far as they were encoded."""
    if not issubclass(kind, msgspec.Struct):
        return list(raw.items())
    fields, config = msgspec.structs.fields(kind), kind.__struct_config__
    if config.array_like:
        return list(zip((each.name for each in fields), raw[config.tag is not None :], strict=False))
    return [(each.name, raw[each.encode_name]) for each in fields if each.encode_name in raw]
