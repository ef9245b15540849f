"""Where code comes from: bundles of source, content-addressed and signed, and object types that are installed.

    pack(path, class)  -> bytes: entry class and all its .py files, the same bytes for the same files
    sign(packed, key)  -> bytes: what is stored and sent; its SHA-256 is the bundle's id, in the descriptor
    load(signed, ...)  -> class: only if a key that the operator trusts has signed it; runs from memory

A wheel installs object types through the entry-point group `titan_overlay.objects` (name -> class).
"""

import ast
import importlib
import sys
from collections.abc import Collection, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from titan_overlay.errors import BUNDLE_MODULES, BadMessage, ConfigError, Forbidden, RemoteError
from titan_overlay.identity import records
from titan_overlay.identity.ids import PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Record
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUNDLE_BYTES_MAX = 512 * 1024
GROUP = "titan_overlay.objects"
FORMAT = 1
PYTHON_OLDEST = (3, 11)

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """The code of an object type."""

    format: int
    entry: str
    """`module:Class`."""
    python: tuple[int, int]
    """Oldest version of Python whose grammar it needs."""
    labels: tuple[tuple[str, str], ...]
    """What it says of itself, sorted."""
    files: tuple[tuple[str, bytes], ...]
    """(path, source), sorted."""


class BundleSignature(Record, frozen=True, array_like=True):
    """`signer` answers for this code."""

    LABEL: ClassVar[bytes] = b"bundle"

    digest: bytes
    """SHA-256 of the packed code."""


class _SignedBundle(msgspec.Struct, frozen=True, array_like=True):
    signature: bytes
    packed: bytes


def bundle_id(signed: bytes) -> bytes:
    """32 bytes: SHA-256 of the signed bundle."""
    return sha256(signed).digest()


# --- packing ------------------------------------------------------------------------------------------------


def pack(path: Path, class_name: str, *, labels: Mapping[str, str] = _NO_LABELS) -> bytes:
    """A file, or a package with all its modules, as a bundle that is not signed yet. Runs none of it.

    Args:
        path: `greeter.py`, or the directory of a package.
        class_name: `Class`, or `module:Class` in a package.

    Raises:
        ConfigError: no such file, not Python, too big; the text says which.
    """
    files = _python_files(path)
    stem = path.stem if path.is_file() else path.name
    inner, _, name = class_name.rpartition(":")
    entry = f"{stem}.{inner}:{name}" if inner else f"{stem}:{name}"
    oldest = PYTHON_OLDEST
    for shown, source in files.items():
        oldest = max(oldest, _oldest_python(shown, source))
    packed = Packed(FORMAT, entry, oldest, tuple(sorted(labels.items())), tuple(sorted(files.items())))
    data = codec.encode(packed)
    if len(data) > BUNDLE_BYTES_MAX:
        raise ConfigError(
            f"{path}: the bundle would have {len(data)} bytes, {BUNDLE_BYTES_MAX} is the limit; "
            "put() data as an object of its own, or install the code on the nodes as a wheel"
        )
    return data


def _python_files(path: Path) -> dict[str, bytes]:
    """Path in the bundle -> source."""
    try:
        if path.is_dir():
            found = sorted(each for each in path.rglob("*.py") if _is_part(each.relative_to(path)))
            files = {(Path(path.name) / each.relative_to(path)).as_posix(): each.read_bytes() for each in found}
            if f"{path.name}/__init__.py" not in files:
                raise ConfigError(f"{path} is no package: it has no __init__.py")
        elif path.suffix == ".py":
            files = {path.name: path.read_bytes()}
        else:
            raise ConfigError(f"{path} is neither a Python file (.py) nor the directory of a package")
    except OSError as why:
        raise ConfigError(f"{path}: {why.strerror}") from None
    for name in files:
        if not all(part.isidentifier() for part in name.removesuffix(".py").split("/")):
            raise ConfigError(f"{name} cannot be imported: its name is not a Python identifier; rename it")
    return files


def _is_part(path: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _oldest_python(name: str, source: bytes) -> tuple[int, int]:
    """Oldest version whose grammar this source keeps to."""
    problem: SyntaxError | ValueError | None = None
    for minor in range(PYTHON_OLDEST[1], sys.version_info.minor + 1):
        try:
            ast.parse(source, name, feature_version=(3, minor))
        except (SyntaxError, ValueError) as why:
            problem = why
        else:
            return (3, minor)
    raise ConfigError(f"{name} is not Python: {problem}") from None


def sign(packed: bytes, key: SigningKey, pool: PoolId) -> bytes:
    """The bundle as it is stored and sent, signed for this pool."""
    signature = records.sign(BundleSignature(sha256(packed).digest()), key, pool)
    return codec.encode(_SignedBundle(signature.raw, packed))


# --- loading ------------------------------------------------------------------------------------------------


def refusal(public: bytes) -> Forbidden:
    """What a publisher is told whose key is not trusted."""
    return Forbidden(
        f"this node does not trust key {fingerprint(public)}; "
        f"its operator can allow it: titan-node --trust {public.hex()}"
    )


def load(signed: bytes, trusted: Collection[bytes], pool: PoolId) -> type:
    """The service class in a signed bundle. The code runs once in a process, however often it is loaded.

    Args:
        trusted: public keys whose code may run here.

    Raises:
        BadMessage: not a bundle, or not signed for this pool; no such class in it, or it is not a service.
        Forbidden: signed by a key that is not trusted; nothing has run then.
        RemoteError: the code cannot be imported here; the text says why.
    """
    from titan_overlay.pool.hosting import importer  # half a megabyte with what it imports, for nodes that run code

    packed = unpack(signed, trusted, pool)
    digest = bundle_id(signed)
    module, _, name = packed.entry.partition(":")
    try:
        loaded = importer.load_module(digest, dict(packed.files), module)
    except BaseException as why:  # SystemExit while it is imported must not stop the node
        raise _import_failure(packed.entry, why) from None
    cls = getattr(loaded, name, None)
    if not isinstance(cls, type):
        classes = ", ".join(
            n for n, v in vars(loaded).items() if isinstance(v, type) and v.__module__ == loaded.__name__
        )
        raise BadMessage(f"{module} has no class {name!r}; it has {classes or 'none'}")
    try:
        service_type(cls)
    except TypeError as why:
        raise BadMessage(f"{name} is not a service: {why}") from None
    return cls


def unpack(signed: bytes, trusted: Collection[bytes], pool: PoolId) -> Packed:
    """The code in a signed bundle, none of it run. Raises BadMessage, and Forbidden where its signer is not trusted."""
    if len(signed) > BUNDLE_BYTES_MAX + records.MAX_RECORD_BYTES + 64:
        raise BadMessage(f"a bundle has at most {BUNDLE_BYTES_MAX} bytes, this one {len(signed)}")
    envelope = codec.decode(signed, _SignedBundle)
    signature = records.check(envelope.signature, BundleSignature, pool)
    if signature.value.digest != sha256(envelope.packed).digest():
        raise BadMessage("the signature of this bundle is of other code")
    if signature.public not in trusted:
        raise refusal(signature.public)
    packed = codec.decode(envelope.packed, Packed)
    if packed.format != FORMAT:
        raise BadMessage(f"this bundle has format {packed.format}; this node reads format {FORMAT}")
    if packed.python > sys.version_info[:2]:
        needed, present = ".".join(map(str, packed.python)), ".".join(map(str, sys.version_info[:2]))
        raise BadMessage(f"this code needs Python {needed}, and this node runs {present}")
    return packed


def _import_failure(entry: str, why: BaseException) -> RemoteError:
    """What the publisher reads. `why` comes from code of others, its text may be anything."""
    kind = type(why).__name__
    if isinstance(why, ModuleNotFoundError) and why.name:
        own = entry.partition(":")[0].partition(".")[0]
        if why.name.partition(".")[0] == own:
            text = f"inside a bundle its own modules are imported relatively (from .x import y), not as {why.name!r}"
        elif why.name.startswith(BUNDLE_MODULES):
            text = f"module {why.name.split('.', 2)[-1]!r} is not in the bundle"
        else:
            text = f"module {why.name!r} is not installed here"
    elif isinstance(why, SyntaxError):
        text = f"line {why.lineno}: {why.msg}"
    else:
        text = str(why)[:500] if isinstance(why, Exception) else kind
    return RemoteError(f"{entry} cannot be imported: {text}", type=kind, maybe_executed=False)


# --- where a class comes from -------------------------------------------------------------------------------


@cache
def installed_types() -> Mapping[str, "EntryPoint"]:
    """Object types that wheels have installed here, by name. Read once: a new one is seen after a restart."""
    # Imported when first asked: it costs an idle node more than a megabyte.
    from importlib.metadata import entry_points

    return MappingProxyType({each.name: each for each in entry_points(group=GROUP)})


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Where a service class comes from, so that another process of this node can load it too."""

    module: str = ""
    name: str = ""
    """Of an installed class; empty for a bundle."""
    bundle: bytes = b""
    trusted: tuple[bytes, ...] = ()
    pool: bytes = b""

    def load(self) -> type:
        """The class. Raises as `load`, and ConfigError where an installed class cannot be imported."""
        if self.bundle:
            return load(self.bundle, self.trusted, PoolId(self.pool))
        try:
            found: Any = importlib.import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as why:
            raise ConfigError(f"{self.module}:{self.name} cannot be imported by another process: {why}") from None
        if not isinstance(found, type):
            raise ConfigError(f"{self.module}:{self.name} is not a class")
        return found
