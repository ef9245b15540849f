"""Sets have no order that members share; all else keeps the one in which handlers made it. No I/O.

Handlers walk through dicts, so one that is restored must have its dicts in the order of the others', and its bytes with
them. Of a set they differ from process to process: it is sorted.
"""

import copy
import dataclasses
from collections.abc import Callable
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


def in_order(value: Any) -> Any:
    """As it was, with a sorted list in the place of each set: for an encoder that checks no types."""
    if isinstance(value, set | frozenset):
        each = [in_order(item) for item in value]
        try:
            return sorted(each)
        except TypeError:
            return sorted(each, key=codec.encode)
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [in_order(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return _with_parts_in_order(value, value.__struct_fields__, msgspec.structs.force_setattr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _with_parts_in_order(value, [each.name for each in dataclasses.fields(value)], object.__setattr__)
    return value


def _with_parts_in_order(value: Any, names: Any, put: Callable[[Any, str, Any], None]) -> Any:
    made = copy.copy(value)
    for name in names:
        put(made, name, in_order(getattr(value, name)))
    return made
