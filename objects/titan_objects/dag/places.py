"""The directory of a program that runs tasks, for as long as it runs.

A program that is killed leaves its directory behind, and commands that go on although nobody waits for them. The next
one that runs tasks on this machine ends both: who lives holds a lock on a file in its directory, and what its tasks
start bears the directory's name (`limits.MARK`).
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from titan_objects.dag.limits import end_all

PREFIX = "titan-dag-"
_LOCK = ".in-use"


@asynccontextmanager
async def place() -> AsyncIterator[Path]:
    """A new directory, until left."""
    await asyncio.to_thread(clear_up)
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    with (path / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            await asyncio.to_thread(remove, path)


def clear_up() -> None:
    """Ends what killed programs of this user have left behind on this machine."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody lives there, is just making it, or removes it
            if path.lstat().st_uid != os.getuid():
                continue
            with (path / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_all(f"{path.name}-")
                remove(path)


def remove(place: Path) -> None:
    """Removes a directory with all that is in it, although there may be some that nobody may write to."""
    shutil.rmtree(place, ignore_errors=True)
    if not place.exists():
        return
    with suppress(OSError):
        place.chmod(0o700)
    for above, names, _ in os.walk(place):
        for inner in (Path(above, name) for name in names):
            if not inner.is_symlink():
                with suppress(OSError):
                    inner.chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)
