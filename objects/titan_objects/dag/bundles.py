"""Code that tasks of this machine run, and idle processes that have imported it: only so much, and only for so long."""

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import titan_overlay as titan
from titan_objects.dag.places import remove
from titan_objects.dag.processes import Failed
from titan_objects.dag.projects import archive_of, unzip
from titan_objects.dag.values import Data
from titan_objects.dag.warm import Warm

BUNDLES_MAX = 16
"""That are kept, though no task uses them now."""
IDLE_SECONDS = 60.0
"""After so long a process that nobody needs ends: what it has imported may take much memory."""


class Bundle:
    """The files of one, in a directory, and its processes that are idle."""

    def __init__(self) -> None:
        self.place: Path | None = None
        """None: they are not there yet."""
        self.users = 0
        """Tasks that use it now."""
        self.unpacking = asyncio.Lock()
        self._idle: deque[tuple[float, Warm]] = deque()
        """Since when; the longest first."""

    def take(self) -> Warm | None:
        """The process that was busy last; None: none is idle."""
        return self._idle.pop()[1] if self._idle else None

    def give(self, warm: Warm) -> None:
        """A process is idle."""
        self._idle.append((_now(), warm))

    @property
    def idle(self) -> int:
        """How many processes are."""
        return len(self._idle)

    async def end(self, since: float) -> None:
        """Ends processes that have been idle since then."""
        while self._idle and self._idle[0][0] <= since:
            await self._idle.popleft()[1].close()


class Bundles:
    """Those of one executor.

    Args:
        data: where they come from.
        directory: in which each has a directory of its own.
    """

    def __init__(self, data: Data, directory: Path) -> None:
        self._data = data
        self._directory = directory
        self._kept: dict[str, Bundle] = {}
        """By name; what was used last is the last."""
        self._going: set[asyncio.Task[None]] = set()
        """Those that are being removed, whatever becomes of the task that made room."""
        self._resting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Bundle]:
        """A bundle whose files are there while the block lasts. Raises Failed where its signer is not trusted."""
        bundle = self._bundle(name)
        bundle.users += 1
        try:
            if bundle.place is None:
                async with bundle.unpacking:
                    bundle.place = bundle.place or await self._unpacked(name)
            yield bundle
        finally:
            bundle.users -= 1
            if bundle.place is None and not bundle.users:
                self._kept.pop(name, None)
            if len(self._kept) > BUNDLES_MAX:
                await self._make_room()
            if bundle.idle and (self._resting is None or self._resting.done()):
                self._resting = asyncio.create_task(self._rest())

    async def bring(self, code: Path) -> str:
        """Copies a file, a package or a project (.zip) of this machine, and gives the name of what it is now.

        Raises:
            ConfigError: there is none, or it is none of these.
        """
        place = self._place()
        try:
            name = await asyncio.to_thread(_copied, code, place)
        except (OSError, shutil.Error, Failed) as why:
            remove(place)
            raise titan.ConfigError(f"{code}: {getattr(why, 'strerror', None) or why}") from None
        bundle = self._bundle(name)
        if bundle.place is None:
            bundle.place = place
        else:
            await asyncio.to_thread(remove, place)
        return name

    async def close(self) -> None:
        """Ends processes that are idle."""
        if self._resting is not None:
            self._resting.cancel()
            await asyncio.gather(self._resting, return_exceptions=True)
        await asyncio.gather(*self._going)
        for bundle in self._kept.values():
            await bundle.end(_now())

    def _bundle(self, name: str) -> Bundle:
        """That of this name, which is now the one that was used last."""
        bundle = self._kept.pop(name) if name in self._kept else Bundle()
        self._kept[name] = bundle
        return bundle

    async def _rest(self) -> None:
        while any(bundle.idle for bundle in self._kept.values()):
            await asyncio.sleep(IDLE_SECONDS / 2)
            for bundle in list(self._kept.values()):
                await bundle.end(_now() - IDLE_SECONDS)

    async def _make_room(self) -> None:
        """Removes those that were not used for the longest time."""
        while len(self._kept) > BUNDLES_MAX:  # asked anew each time: others remove and use some meanwhile
            name = next((name for name, bundle in self._kept.items() if not bundle.users), None)
            if name is None:
                return
            going = asyncio.create_task(_removed(self._kept.pop(name)))
            self._going.add(going)
            going.add_done_callback(self._going.discard)
            await asyncio.shield(going)

    def _place(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._directory, prefix="code-"))

    async def _unpacked(self, name: str) -> Path:
        """The directory with the files of a bundle, which is fetched."""
        if not name:
            raise Failed("NoCode", "the task calls a function, and no code came with the run", False)
        try:
            files = await self._data.unpack(await self._data.get(name))
        except titan.Forbidden as why:
            raise Failed("Untrusted", str(why)) from None
        archive = archive_of(files)
        data = await self._data.get(archive) if archive else b""
        place = self._place()
        try:
            if archive:
                await asyncio.to_thread(unzip, data, place)
            else:
                lay_out(files, place)
        except BaseException:
            remove(place)
            raise
        return place


async def _removed(bundle: Bundle) -> None:
    await bundle.end(_now())
    if bundle.place is not None:
        await asyncio.to_thread(remove, bundle.place)


def _now() -> float:
    return asyncio.get_running_loop().time()


def lay_out(files: Mapping[str, bytes], place: Path) -> None:
    """Writes the files of a bundle. Raises Failed, before anything is written: one would lie elsewhere."""
    paths = {(place / name).resolve(): source for name, source in files.items() if "\0" not in name}
    if len(paths) < len(files) or not all(path.is_relative_to(place.resolve()) for path in paths):
        raise Failed("BadBundle", "a file of the bundle lies outside of it", False)
    for path, source in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source)


def _copied(code: Path, place: Path) -> str:
    """Copies code to a directory, and gives a name of all that is there now."""
    if code.suffix.lower() == ".zip":
        unzip(code.read_bytes(), place)
    elif code.is_dir():
        shutil.copytree(code, place / code.name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(code, place)
    found = sha256()
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        data = path.read_bytes()
        found.update(f"{path.relative_to(place)}\0{path.stat().st_mode}\0{len(data)}\0".encode())
        found.update(data)
    return f"code:{found.hexdigest()}"
