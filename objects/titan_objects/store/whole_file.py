"""Files that are replaced as a whole: users (`aclfile`, a line for each as ACL LIST shows it), and settings."""

import os
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
        """Puts that in its place, or leaves it as it is."""
        temporary = self._path.with_name(f".{self._path.name}.part")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        sync_directory(self._path.parent)
