"""One value of any type that msgspec can decode: seeds for the fuzzing of every Struct."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from tests.fuzz.world import advertisement
from titan_overlay.identity.statements import Advertisement

_PLAIN: dict[type, Any] = {
    inspect.NoneType: None,
    inspect.BoolType: True,
    inspect.IntType: 1,
    inspect.FloatType: 1.5,
    inspect.StrType: "text",
    inspect.BytesType: b"bytes",
    inspect.AnyType: {"key": [1, b"x", {"deep": None}]},
    inspect.RawType: msgspec.Raw(b"\xc0"),
}

_CHECKED: dict[type, Any] = {Advertisement: advertisement().value}
"""Where fields must fit each other in ways that types do not say."""


def sample(kind: Any) -> Any:
    """A value of this type, none of its fields left out. NotImplementedError: it is of a kind unknown here."""
    return _of(inspect.type_info(kind), ())


def _of(info: Any, within: tuple[type, ...]) -> Any:
    """A value of this type, in structs of those classes: what may hold its own kind holds none of it."""
    if isinstance(info, inspect.BytesType) and info.min_length:
        return bytes(info.min_length)
    if isinstance(info, inspect.IntType | inspect.FloatType) and info.ge is not None:
        return type(info.ge)(info.ge) + 1
    for known, value in _PLAIN.items():
        if isinstance(info, known):
            return value
    if isinstance(info, inspect.LiteralType):
        return info.values[0]
    if isinstance(info, inspect.Metadata):
        return _of(info.type, within)
    if isinstance(info, inspect.UnionType):
        return _of(info.types[0], within)
    if isinstance(info, inspect.ListType):
        return [] if _holds(info.item_type, within) else [_of(info.item_type, within)]
    if isinstance(info, inspect.VarTupleType):
        return (_of(info.item_type, within),)
    if isinstance(info, inspect.TupleType):
        return tuple(_of(each, within) for each in info.item_types)
    if isinstance(info, inspect.DictType):
        return {_of(info.key_type, within): _of(info.value_type, within)}
    if isinstance(info, inspect.StructType):
        if info.cls in _CHECKED:
            return _CHECKED[info.cls]
        below = (*within, info.cls)
        return info.cls(**{field.name: _field(field, below) for field in info.fields})
    raise NotImplementedError(f"no sample of {info}")


def _holds(info: Any, within: tuple[type, ...]) -> bool:
    return isinstance(info, inspect.StructType) and info.cls in within


def _field(field: inspect.Field, within: tuple[type, ...]) -> Any:
    default = field.default
    if default is not msgspec.NODEFAULT and (default or not isinstance(default, bytes | Mapping | tuple)):
        return default
    return _of(field.type, within)
