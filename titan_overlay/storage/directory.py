"""The data directory: keys, settings, grants, and the lock that says who is using it.

    lock            held (flock) by the node that runs on this directory; holds its process id
    identity.key    the node's key
    client.key      the key of this user's programs
    pool.key        the pool's key, on the founder's machine only; may be taken off line
    grants/         signed grants that this user or node has, one a file
    issued/         signed grants that this user has given, one a file
    revoked/        the latest list of what this user takes back, one a key that signs
    address         where the running node listens, for programs of this user
    settings        the settings of the running node, and where each came from
    known_pools     see `known_pools`
    config.toml     settings
    node.db         see `database`
    blobs/          see `blobs`

`DataDirectory` is the node's view, which holds the lock; its static methods are for programs of the same user, beside a
running node or without one. Keys are made whole or not at all, readable by their owner only, and never replaced.
"""

import fcntl
import logging
import os
import select
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.config import FILE_NAME, Resolved, default_data_directory
from titan_overlay.errors import StorageError
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import KEY_BYTES, SigningKey
from titan_overlay.identity.records import MAX_RECORD_BYTES
from titan_overlay.identity.revocations import RevocationList

_log = logging.getLogger(__name__)

GRANTS_MAX = 256
"""Grants that are kept; a program that asks for more has lost its way."""

ISSUED_MAX = 4096
"""Grants that were given from here and are remembered."""
_GRANTS, _ISSUED, _REVOKED = "grants", "issued", "revoked"
_ADDRESS, _SETTINGS = "address", "settings"
"""These are there while a node runs."""

_KEY_HEADER = "titan-overlay ed25519 secret key 1"
_LOCK_TRIES = 10
_LOCK_PAUSE = 0.02


class _Address(msgspec.Struct, frozen=True):
    """Where the node that runs on this directory can be reached by programs on this machine. Ids in hexadecimal."""

    host: str
    port: int
    pool: str
    node: str


class RunningSettings(msgspec.Struct, frozen=True):
    """The settings with which the node that runs on this directory was started."""

    process: int
    rows: tuple[tuple[str, Any, str], ...]
    """(key, value, origin) of each, as `Resolved.rows`; values as JSON has them."""


class DataDirectory:
    """The data directory of a node, which has it for itself until `close`.

    Args:
        path: by default the one that the system's custom names for this user; made where there is none.

    Raises:
        StorageError: another node is using it (the text names its process), or it cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = Path(path) if path is not None else default_data_directory()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as why:
            raise _unusable(self.path, why) from None
        try:
            self._take_lock()
        except BaseException:
            os.close(self._lock)
            raise
        if self.path.stat().st_mode & 0o022:
            _log.warning("others may write to %s; chmod 700 it", self.path)
        self._remove_traces()  # of a node that was killed

    def close(self) -> None:
        """Takes address and settings away and lets go of the lock."""
        if self._lock >= 0:
            self._remove_traces()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> Path:
        """Path of the settings file, which may be missing."""
        return self.path / FILE_NAME

    @property
    def database(self) -> Path:
        """Path for `SqliteDatabase`."""
        return self.path / "node.db"

    def node_key(self, seed: bytes) -> SigningKey:
        """The node's key, made of this seed where there is none yet."""
        return _load_key(self.path / "identity.key") or _make_key(self.path / "identity.key", seed)

    def pool_key(self) -> SigningKey | None:
        """The pool's key, where this is the founder's machine and the key has not been taken away."""
        return _load_key(self.path / "pool.key")

    def make_pool_key(self, ambient: Ambient) -> SigningKey:
        """The pool's key; a new one if there is none yet."""
        return self.pool_key() or _make_key(self.path / "pool.key", ambient.token_bytes(KEY_BYTES))

    def client_key(self, ambient: Ambient) -> SigningKey:
        """As `user_key` of this directory."""
        return self.user_key(self.path, ambient)

    def save_grant(self, raw: bytes) -> None:
        """As `add_grant` to this directory."""
        self.add_grant(self.path, raw)

    def load_grants(self) -> list[bytes]:
        """As `read_grants` of this directory."""
        return self.read_grants(self.path)

    def drop_grant(self, raw: bytes) -> None:
        """Forgets a grant (one that has expired); no error where there is none."""
        try:
            _record_path(self.path / _GRANTS, raw).unlink(missing_ok=True)
        except OSError as why:
            raise _unusable(self.path, why) from None

    def write_address(self, line: JoinLine) -> None:
        """Tells programs of this user where the node listens ("all interfaces" becomes this machine's own)."""
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(line.host, line.host)  # noqa: S104
        address = _Address(host, line.port, line.pool.hex(), line.node.hex())
        _write(self.path / _ADDRESS, msgspec.json.encode(address))

    def write_settings(self, resolved: Resolved) -> None:
        """Tells programs of this user with which settings the node here runs."""
        settings = RunningSettings(os.getpid(), tuple(resolved.rows()))
        _write(self.path / _SETTINGS, msgspec.json.encode(settings, enc_hook=str))

    def _take_lock(self) -> None:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A program that looks whether a node is here holds the lock for an instant.
                select.select([], [], [], _LOCK_PAUSE)
            except OSError as why:
                raise _unusable(self.path, why) from None
        else:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            raise StorageError(
                f"data directory {self.path} is in use by process {holder or 'unknown'}; choose another with --data DIR"
            )
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as why:
            raise _unusable(self.path, why) from None

    def _remove_traces(self) -> None:
        for name in (_ADDRESS, _SETTINGS):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as why:
                _log.warning("cannot remove %s: %s", self.path / name, why.strerror)

    # --- for programs of the same user, without the lock ---

    @staticmethod
    def running(path: Path) -> JoinLine | None:
        """How to reach the node that runs on this directory; None where none is running.

        A file that a killed node left does not count: the lock tells.
        """
        if not DataDirectory.in_use(path):
            return None
        try:
            found = msgspec.json.decode((path / _ADDRESS).read_bytes(), type=_Address)
            return JoinLine(found.host, found.port, bytes.fromhex(found.pool), bytes.fromhex(found.node))
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return None

    @staticmethod
    def running_settings(path: Path) -> RunningSettings | None:
        """With which settings the node that runs on this directory was started; None where none is running."""
        if not DataDirectory.in_use(path):
            return None
        try:
            return msgspec.json.decode((path / _SETTINGS).read_bytes(), type=RunningSettings)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return None

    @staticmethod
    def in_use(path: Path) -> bool:
        """Whether a node is running on this directory."""
        try:
            descriptor = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    @staticmethod
    def user_key(path: Path, ambient: Ambient) -> SigningKey:
        """The key of this user's programs, made on first use.

        Raises:
            StorageError: the directory cannot be written, or the file is damaged.
        """
        known = _load_key(path / "client.key")
        return known or _make_key(path / "client.key", ambient.token_bytes(KEY_BYTES))

    @staticmethod
    def read_key(place: Path) -> SigningKey | None:
        """The key in a file, wherever it lies; None: there is no such file."""
        return _load_key(place)

    @staticmethod
    def read_pool_key(path: Path) -> SigningKey | None:
        """As `pool_key`, beside a running node."""
        return _load_key(path / "pool.key")

    @staticmethod
    def read_node_id(path: Path) -> NodeId | None:
        """Id of the node that has this directory; None where none has run on it yet."""
        key = _load_key(path / "identity.key")
        return key.id if key else None

    @staticmethod
    def add_grant(path: Path, raw: bytes) -> None:
        """Keeps a signed grant; one that is there already changes nothing.

        Raises:
            StorageError: too many or too large, or the directory cannot be written.
        """
        _add_record(path / _GRANTS, raw, GRANTS_MAX)

    @staticmethod
    def read_grants(path: Path) -> list[bytes]:
        """All grants that were saved, as signed, in a stable order. Whether they hold is for `Rights` to say."""
        return _read_records(path / _GRANTS, GRANTS_MAX, MAX_RECORD_BYTES)

    @staticmethod
    def note_issued(path: Path, raw: bytes) -> None:
        """Keeps a grant that was given to somebody, so that it can be named and taken back. Errors as `add_grant`."""
        _add_record(path / _ISSUED, raw, ISSUED_MAX)

    @staticmethod
    def read_issued(path: Path) -> list[bytes]:
        """All grants that were given from here, as signed."""
        return _read_records(path / _ISSUED, ISSUED_MAX, MAX_RECORD_BYTES)

    @staticmethod
    def save_revocations(path: Path, grantor: NodeId, raw: bytes) -> None:
        """Keeps the latest list of what a key takes back."""
        _write(path / _REVOKED / f"{grantor.hex()[:32]}.list", raw)

    @staticmethod
    def read_revocations(path: Path) -> list[bytes]:
        """The latest list of each key that took something back from here, as signed."""
        return _read_records(path / _REVOKED, GRANTS_MAX, RevocationList.LIMIT)


def _unusable(path: Path, why: OSError) -> StorageError:
    return StorageError(f"cannot write the data directory {path}: {why.strerror}; choose another with --data DIR")


def _record_path(place: Path, raw: bytes) -> Path:
    return place / f"{sha256(raw).hexdigest()[:32]}.grant"


def _record_files(place: Path, at_most: int) -> list[Path]:
    try:
        return sorted(place.glob("[!.]*"))[:at_most]
    except OSError:
        return []


def _add_record(place: Path, raw: bytes, at_most: int) -> None:
    if not 0 < len(raw) <= MAX_RECORD_BYTES:
        raise StorageError(f"a grant has 1 to {MAX_RECORD_BYTES} bytes, this one {len(raw)}")
    path = _record_path(place, raw)
    if path.exists():
        return
    if len(_record_files(place, at_most)) >= at_most:
        raise StorageError(f"{place} holds {at_most} grants; remove those that have expired")
    _write(path, raw)


def _read_records(place: Path, at_most: int, size_max: int) -> list[bytes]:
    found = []
    for path in _record_files(place, at_most):
        try:
            with path.open("rb") as file:
                raw = file.read(size_max + 1)
        except OSError as why:
            _log.warning("cannot read %s: %s", path, why.strerror)
            continue
        if 0 < len(raw) <= size_max:
            found.append(raw)
        else:
            _log.warning("%s is not a grant; left out", path)
    return found


def _make_key(place: Path, seed: bytes) -> SigningKey:
    _write(place, f"{_KEY_HEADER}\n{seed.hex()}\n".encode(), keep=True)
    key = _load_key(place)  # another process may have been first: its key counts
    if key is None:
        raise StorageError(f"{place} vanished while it was made")
    return key


def _load_key(place: Path) -> SigningKey | None:
    try:
        with place.open("rb") as file:
            text = file.read(1024)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return None
    except OSError as why:
        raise StorageError(f"cannot read {place}: {why.strerror}; choose another with --data DIR") from None
    seed = _seed_of(text)
    if seed is None:
        raise StorageError(
            f"{place} is damaged; it is left as it is. Put your copy of it back, or move it away to get a new key "
            "(a new identity)"
        )
    if mode & 0o077:
        _log.warning("%s could be read by others (mode %o); closed now", place, mode & 0o777)
        try:
            place.chmod(0o600)
        except OSError as why:
            raise StorageError(f"{place} can be read by others ({why.strerror}); chmod 600 it") from None
    return SigningKey(seed)


def _seed_of(text: bytes) -> bytes | None:
    lines = text.decode("ascii", "replace").splitlines()
    if len(lines) != 2 or lines[0] != _KEY_HEADER or len(lines[1]) != 2 * KEY_BYTES:
        return None
    try:
        seed = bytes.fromhex(lines[1])
    except ValueError:
        return None
    return seed if len(seed) == KEY_BYTES else None


def _write(place: Path, data: bytes, *, keep: bool = False) -> None:
    """Makes a file whole or not at all, durably, mode 0600. With `keep`, one that is there already stays."""
    temporary = place.with_name(f".{place.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if keep:
            _link(temporary, place)
        else:
            os.replace(temporary, place)
        _sync_directory(place.parent)
    except OSError as why:
        raise _unusable(place.parent, why) from None


def _link(temporary: Path, place: Path) -> None:
    """Gives a file its name unless that is taken."""
    try:
        os.link(temporary, place)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links: the name is taken first, the file then replaces it.
        try:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        else:
            os.replace(temporary, place)
            return
    temporary.unlink(missing_ok=True)


def _sync_directory(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
