"""Sets have no order that members share; all else keeps the one in which handlers made it. No I/O.

Handlers walk through dicts, so one that is restored must have its dicts in the order of the others', and its bytes with
them. Of a set they differ from process to process: it is sorted.
"""

import copy
import dataclasses
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import inspect

from titan_overlay.wire import codec

_MAY_BE_A_SET: Final = (inspect.SetType, inspect.FrozenSetType, inspect.AnyType, inspect.CustomType)


@lru_cache(maxsize=4096)
def may_have_sets(kind: Any) -> bool:
    """Whether a value of this type may be a set, or have one somewhere."""
    try:
        return any(isinstance(part, _MAY_BE_A_SET) for part in codec.parts_of(kind))
    except TypeError:
        return True


_PLAIN: Final = frozenset((bool, bytes, bytearray, float, int, msgspec.Raw, str, type(None)))


def in_order(value: Any) -> Any:
    """As it was, with a sorted list in the place of each set: for an encoder that checks no types."""
    return _sorted(value) if _has_sets(value) else value


def _has_sets(value: Any) -> bool:
    """Mostly there are none, and to find that takes a fraction of the time that a copy does."""
    if type(value) in _PLAIN:
        return False
    if isinstance(value, dict):
        return any(map(_has_sets, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_sets, value))
    if isinstance(value, set | frozenset):
        return True
    return any(_has_sets(getattr(value, name)) for name in _fields(value.__class__))


@lru_cache(maxsize=4096)
def _fields(kind: type) -> tuple[str, ...]:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(each.name for each in dataclasses.fields(kind))
    return ()


def _sorted(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        each = [_sorted(item) for item in value]
        try:
            return sorted(each)
        except TypeError:
            return sorted(each, key=codec.encode)
    if isinstance(value, dict):
        return {key: _sorted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    names = _fields(value.__class__)
    if not names:
        return value
    put = msgspec.structs.force_setattr if isinstance(value, msgspec.Struct) else object.__setattr__
    made = copy.copy(value)
    for name in names:
        put(made, name, _sorted(getattr(value, name)))
    return made
