"""Files that are replaced as a whole: users (`aclfile`, a line for each as ACL LIST shows it), and settings."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from titan_objects.store.aof import sync_directory


class WholeFile:
    """See the module. `read` and `write` raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> bytes:
        """All of it."""
        return self._path.read_bytes()

    def write(self, data: bytes) -> None:
        """Puts that in its place, or leaves it as it is; a link stays one, and the file's mode stays."""
        place = Path(os.path.realpath(self._path))
        temporary = place.with_name(f".{place.name}.part")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
        sync_directory(place.parent)
