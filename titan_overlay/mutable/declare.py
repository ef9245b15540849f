"""What there is to know about a class of mutable objects, and its state as bytes. Authors have `decorators.py`."""

from typing import Any, ClassVar, get_origin, get_type_hints

import msgspec

from titan_overlay.errors import BadMessage
from titan_overlay.identity.statements import Kind, Policy
from titan_overlay.mutable.as_left import as_left
from titan_overlay.mutable.in_order import in_order, may_have_sets
from titan_overlay.pool.hosting.handlers import Handler, find_handlers
from titan_overlay.pool.hosting.object import ServiceType, service_type
from titan_overlay.wire import codec

HOOKS = ("snapshot", "restore", "migrate")
"""Public methods of a mutable object that are no handlers."""


class MutableType(ServiceType):
    """All there is to know about a class of mutable objects."""

    __slots__ = ("own_snapshots", "state", "version")

    kind: ClassVar[Kind] = "mutable"

    def __init__(self, cls: type, pattern: str = "*", policy: Policy | None = None, version: int = 1) -> None:
        super().__init__(cls, pattern, policy)
        if version < 1:
            raise TypeError(f"{cls.__name__}: version counts from 1")
        self.version = version
        self.idempotent = tuple(sorted(each.type for each in self.handlers.values() if each.readonly))
        self.own_snapshots = _has(cls, "snapshot") and _has(cls, "restore")
        self.state = None if self.own_snapshots else StateFields(cls, version)

    def _find_handlers(self, cls: type) -> dict[str, Handler]:
        return find_handlers(cls, HOOKS, all_plain=True)

    def derived(self, cls: type) -> "MutableType":
        return MutableType(cls, self.pattern, self.policy, self.version)


def _has(cls: type, method: str) -> bool:
    return callable(getattr(cls, method, None))


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A state on disk or on the wire."""

    version: int
    fields: msgspec.Raw


class StateFields:
    """The annotated attributes of a class: taken out of an instance and put back as bytes, the same on all machines.

    Raises:
        TypeError: an attribute is of a type that cannot be kept.
    """

    def __init__(self, cls: type, version: int) -> None:
        self._cls = cls
        self._version = version
        hints = {name: kind for name, kind in get_type_hints(cls).items() if get_origin(kind) is not ClassVar}
        fields = [(name, kind) for name, kind in hints.items() if kind is not ClassVar]
        self._kinds = dict(fields)
        try:
            self._struct = msgspec.defstruct(f"{cls.__name__}State", fields, kw_only=True)
            self._decoder = msgspec.msgpack.Decoder(self._struct)
        except TypeError as why:
            raise TypeError(f"{cls.__name__}: its annotated attributes are its state, and {why}") from None
        self._with_sets = frozenset(name for name, kind in fields if may_have_sets(kind))
        self._defaults = {
            name: (kind, codec.encode(in_order(getattr(cls, name)))) for name, kind in fields if hasattr(cls, name)
        }
        self.names = tuple(name for name, _ in fields)

    def fresh(self, instance: object) -> None:
        """Gives a new instance its defaults, each its own copy."""
        held = vars(instance)
        for name, (kind, encoded) in self._defaults.items():
            if name not in held:
                setattr(instance, name, msgspec.msgpack.decode(encoded, type=kind))
        missing = [name for name in self.names if not hasattr(instance, name)]
        if missing:
            raise TypeError(
                f"{self._cls.__name__}.{missing[0]} has no value to begin with; write one behind its annotation"
            )

    def held(self, instance: object) -> dict[str, Any]:
        """What its attributes refer to now."""
        return {name: getattr(instance, name, None) for name in self.names}

    def encode(self, instance: object) -> bytes:
        """The state in canonical bytes: the same at all members that have executed the same messages.

        Raises:
            TypeError: a handler has put something into the state that its annotation does not promise, or deleted a
            part of it.
        """
        try:
            fields = self._encode({name: getattr(instance, name) for name in self.names})
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as why:
            raise TypeError(f"the state of {self._cls.__name__} cannot be kept: {why}") from None
        return codec.encode(_Kept(self._version, msgspec.Raw(fields)))

    def decode(self, data: bytes, instance: object, *, of_another: bool = False) -> None:
        """Puts a state into an instance; an older version goes through the class's `migrate(version, fields)` first.

        Args:
            of_another: class: this one must be able to take over what that has left.

        Raises:
            BadMessage: these bytes are no state of this class.
        """
        kept = codec.decode(data, _Kept)
        try:
            if kept.version == self._version:
                state = self._decoder.decode(kept.fields) if of_another else self._as_left(bytes(kept.fields))
            elif kept.version < self._version and _has(self._cls, "migrate"):
                older = msgspec.msgpack.decode(kept.fields)
                state = msgspec.convert(self._cls.migrate(kept.version, older), self._struct)  # type: ignore[attr-defined]
            else:
                raise BadMessage(
                    f"the state is of version {kept.version}, {self._cls.__name__} is version {self._version} "
                    "and has no classmethod migrate(version, fields) for it"
                )
        except (msgspec.MsgspecError, ValueError, RecursionError) as why:
            raise BadMessage(f"this is no state of {self._cls.__name__}: {why}") from None
        for name in self.names:
            setattr(instance, name, getattr(state, name))

    def _encode(self, values: dict[str, Any]) -> bytes:
        for name in self._with_sets:
            values[name] = in_order(values[name])
        return codec.encode(self._struct(**values))

    def _as_left(self, fields: bytes) -> Any:
        try:
            state = self._decoder.decode(fields)
            if self._encode({name: getattr(state, name) for name in self.names}) == fields:
                return state
        except msgspec.ValidationError:
            pass
        raw = msgspec.msgpack.decode(fields)
        missing = [name for name in self.names if name not in raw]
        if missing:
            raise BadMessage(f"it has no {missing[0]}")
        return self._struct(**{name: as_left(raw[name], kind) for name, kind in self._kinds.items()})


def mutable_type(cls: type) -> MutableType:
    """What `@mutable` found out about the class.

    Raises:
        TypeError: it is not declared mutable.
    """
    known = service_type(cls)
    if not isinstance(known, MutableType):
        raise TypeError(f"{cls.__name__} is no mutable object: decorate it with @titan.mutable")
    return known
