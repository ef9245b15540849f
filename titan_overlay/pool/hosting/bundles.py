"""Object types, from both ends: what a publisher offers (`Source`), and what a node runs (`BundleLoader`)."""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from titan_overlay.errors import BadMessage, ConfigError, Forbidden, RemoteError, Unavailable
from titan_overlay.identity import names
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Policy
from titan_overlay.pool.context import Context
from titan_overlay.pool.hosting.calls import Begun
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.hosting.packing import (
    BUNDLE_BYTES_MAX,
    Origin,
    bundle_id,
    installed_types,
    load,
    pack,
    refusal,
    sign,
)
from titan_overlay.pool.hosting.runner import Body, Runner, ServiceRunner
from titan_overlay.pool.questions import MessageSchema
from titan_overlay.values import GIB

__all__ = ["BUNDLE_BYTES_MAX", "BundleLoader", "Code", "Source", "bundle_id", "load", "pack", "runner_of", "sign"]

T = TypeVar("T")


class Code(NamedTuple):
    """A class that may run here, and where it came from."""

    cls: type
    origin: Origin


def runner_of(cls: type, origin: Origin, *, worker_bytes: int = GIB) -> Runner:
    """A new service of this class, run the way the class asks for.

    Args:
        worker_bytes: address space of a worker process, where it asks for one.

    Raises:
        RemoteError: its constructor raised.
    """
    if service_type(cls).isolation == "process":
        from titan_overlay.pool.hosting.workers import ProcessRunner  # most nodes need none

        return ProcessRunner(cls, origin, memory_bytes=worker_bytes)
    try:
        instance = cls()
    except (Exception, SystemExit) as why:  # an object that exits must not stop the node
        raise RemoteError(f"{cls.__name__}() raised: {why}", type=type(why).__name__, maybe_executed=False) from None
    return ServiceRunner(instance, bundle=origin.bundle)


class BundleLoader:
    """What a node can run: types that are installed here, and bundles signed by keys that its operator trusts.

    Args:
        trusted: public keys, 32 bytes each.
        installed: more installed types than the entry points name (tests, embedding).
    """

    def __init__(
        self, trusted: Collection[bytes], pool: PoolId, *, installed: Mapping[str, type] | None = None
    ) -> None:
        self.trusted = frozenset(trusted)
        self._pool = pool
        self._installed = installed or {}

    @property
    def installed(self) -> Mapping[str, Any]:
        """Object types that wheels have installed here, by name: classes, or the entry points that lead to them."""
        return {**installed_types(), **self._installed}

    def check_trusted(self, public: bytes) -> None:
        """Raises Forbidden, naming the command that helps, where this key's code may not run here."""
        if public not in self.trusted:
            raise refusal(public)

    def code(self, bundle: bytes, type: str, public: bytes) -> Code:
        """The class `type` in a signed bundle that the key `public` has published.

        Raises:
            Forbidden, BadMessage, RemoteError: as `load`.
        """
        self.check_trusted(public)
        cls = load(bundle, self.trusted, self._pool)
        if cls.__name__ != type:
            raise BadMessage(f"the bundle holds {cls.__name__}, the descriptor says {type!r}")
        return Code(cls, Origin(bundle=bundle, trusted=tuple(sorted(self.trusted)), pool=self._pool))

    def installed_code(self, type: str) -> Code:
        """The class of an installed type.

        Raises:
            Forbidden: it is not installed here, or is not one that is published. RemoteError: it does not work here.
        """
        cls = installed_class(type, self.installed)
        return Code(cls, Origin(cls.__module__, cls.__qualname__))


def installed_class(name: str, installed: Mapping[str, Any] | None = None) -> type:
    """The class of an installed object type.

    Raises:
        Forbidden: no such type, or one that the operator sets up. RemoteError: it cannot be imported.
    """
    found: Any = (installed_types() if installed is None else installed).get(name)
    if found is None:
        raise Forbidden(f"object type {name!r} is not installed here")
    if not isinstance(found, type) and hasattr(found, "load"):
        try:
            found = found.load()
        except Exception as why:
            raise RemoteError(
                f"object type {name!r} is installed but cannot be imported: {why}",
                type=type(why).__name__,
                maybe_executed=False,
            ) from None
    try:
        service_type(found)
    except (TypeError, AttributeError):
        raise Forbidden(f"objects of type {name!r} are set up by a node's operator, and are not published") from None
    cls: type = found
    return cls


class Source:
    """What somebody publishes: a class of their own as a signed bundle, or an installed type by its name.

    Attributes:
        type: for the descriptor: the class in the bundle, or the installed type.
        bundle: signed; empty for an installed type.
        digest: of the bundle, or empty.
    """

    def __init__(self, cls: type, type: str, bundle: bytes) -> None:
        service = service_type(cls)
        self.cls = cls
        self.type = type
        self.bundle = bundle
        self.digest = bundle_id(bundle) if bundle else b""
        self.kind = service.kind
        self.policy = service.policy
        self.idempotent = service.idempotent
        self.pattern = service.pattern

    @classmethod
    def of(cls, source: Any, key: SigningKey, pool: PoolId) -> "Source":
        """From a service class, `"file.py:Class"`, `"package/:Class"`, or the name of an installed type (`"echo"`).

        Raises:
            ConfigError: it is none of these, or not a service; the text says what is wrong.
        """
        if isinstance(source, type):
            return cls._of_class(source, key, pool)
        text = str(source)
        path, _, name = text.rpartition(":")
        if not path:
            if text not in installed_types():
                known = ", ".join(sorted(installed_types())) or "none"
                raise ConfigError(f"{text!r} is neither FILE:CLASS nor an installed object type ({known})")
            return cls(_local(lambda: installed_class(text)), text, b"")
        file, inner = Path(path), name
        outer, _, module = path.rpartition(":")
        if outer and not file.exists() and Path(outer).is_dir():  # package/:module:Class
            file, inner = Path(outer), f"{module}:{name}"
        signed = sign(pack(file, inner), key, pool)
        return cls(_local(lambda: load(signed, (key.public,), pool)), name, signed)

    @classmethod
    def _of_class(cls, source: type, key: SigningKey, pool: PoolId) -> "Source":
        _local(lambda: service_type(source))
        for name, entry in installed_types().items():
            if entry.value == f"{source.__module__}:{source.__qualname__}":
                return cls(source, name, b"")
        if "." in source.__qualname__:
            raise ConfigError(f"{source.__qualname__} is defined inside something else; a bundle needs it at the top")
        try:
            found = inspect.getsourcefile(source)
        except (TypeError, OSError):
            found = None
        if found is None or not Path(found).is_file():
            raise ConfigError(
                f"the source of {source.__name__} is in no file; "
                f"write it into one and publish 'file.py:{source.__name__}'"
            )
        path, inner = Path(found), ""
        while (path.parent / "__init__.py").exists():
            part = "" if path.name == "__init__.py" else path.stem
            inner = ".".join(filter(None, (part, inner)))
            path = path.parent
        entry_name = f"{inner}:{source.__name__}" if inner else source.__name__
        return cls(source, source.__name__, sign(pack(path, entry_name), key, pool))

    def check_name(self, name: str) -> None:
        """Raises BadMessage: it is no name, or none for which the class was declared."""
        names.check(name)
        own = name.partition("/")[2] if name.startswith("~") else name
        if not names.covers(self.pattern, own):
            raise BadMessage(f"{self.cls.__name__} is meant for names like {self.pattern!r}, not {name!r}")

    def check_policy(self, policy: Policy) -> None:
        """Raises BadMessage where the class cannot be voted on as the policy wants it to be."""
        if policy.votes == 1:
            return
        handlers = service_type(self.cls).handlers.values()
        once = [each.method for each in handlers if "*" not in self.idempotent and not each.idempotent]
        if once:
            raise BadMessage(
                f"with votes={policy.votes} each message runs at several holders of {self.cls.__name__}, but "
                f"{', '.join(once)} may not run more than once: decorate with @titan.idempotent, or take votes=1"
            )
        streams = [each.method for each in handlers if each.streams]
        if streams:
            raise BadMessage(
                f"with votes={policy.votes} answers of {self.cls.__name__} are compared, and streams cannot be: "
                f"{', '.join(streams)}"
            )

    def runner(self) -> Runner:
        """Gives the bundle to nodes that are to hold the object, and answers nothing else."""
        return _Offer(self)


class _Offer(Runner):
    """Stands in for an object while it is being published from here."""

    def __init__(self, source: Source) -> None:
        service = service_type(source.cls)
        self.bundle = source.bundle
        self.types = tuple(service.handlers)
        self._schema = service.schema

    def call(self, type: str, body: Body, context: Context) -> Begun:
        raise Unavailable(f"{context.name!r} is being published just now; send again")

    def schema(self) -> dict[str, MessageSchema]:
        return self._schema()


def _local(make: Callable[[], T]) -> T:
    """What `make` gives; what goes wrong is put as an error of the user's own source."""
    try:
        return make()
    except (TypeError, BadMessage, Forbidden, RemoteError) as why:
        raise ConfigError(str(why)) from None
