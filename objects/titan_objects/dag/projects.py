"""Projects: directories as code, in ZIP archives. The archive is data of the pool; a bundle that is signed names it."""

import asyncio
import errno
import io
import re
import stat
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import titan_overlay as titan
from titan_objects.dag.processes import Failed

MODULE = "titan_project.py"
"""The only file of such a bundle."""
ARCHIVE_BYTES_MAX = 64 << 20
PROJECT_BYTES_MAX = 512 << 20
"""Of all files, unpacked."""
FILES_MAX = 20_000
PIECE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The machine has no room for it just now."""
_NAMED = re.compile(rb'ARCHIVE = "(sha256:[0-9a-f]{64})"\n')


async def packed(pool: titan.Pool, code: Path) -> str:
    """Puts code into the pool: a Python file, a package, or a ZIP archive of a project; gives its bundle's name.

    Raises:
        ConfigError: there is none, or it is none of these.
    """
    if code.suffix.lower() != ".zip":
        return await pool.put(await pool.pack(code))
    try:
        data = await asyncio.to_thread(code.read_bytes)
        entries(data)
    except OSError as why:
        raise titan.ConfigError(f"{code}: {why.strerror}") from None
    except Failed as why:
        raise titan.ConfigError(f"{code}: {why}") from None
    name = await pool.put(data)
    with tempfile.TemporaryDirectory(prefix="titan-dag-") as directory:
        module = Path(directory) / MODULE
        module.write_text(f'ARCHIVE = "{name}"\n')
        return await pool.put(await pool.pack(module))


def archive_of(files: Mapping[str, bytes]) -> str:
    """The name of the archive that a bundle with these files stands for; empty: it is no project."""
    named = _NAMED.fullmatch(files.get(MODULE, b"")) if len(files) == 1 else None
    return named[1].decode() if named else ""


def entries(data: bytes) -> list[zipfile.ZipInfo]:
    """The files of an archive. Raises Failed: it is none, or it is too much, or a file lies outside of it."""
    if len(data) > ARCHIVE_BYTES_MAX:
        raise Failed("BadArchive", f"an archive has at most {ARCHIVE_BYTES_MAX >> 20} MiB", False)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Not by `is_dir`, which fails where an entry has no name.
            found = [each for each in archive.infolist() if not each.filename.endswith("/")]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, OSError) as why:
        raise Failed("BadArchive", f"it is no ZIP archive: {why}", False) from None
    if len(found) > FILES_MAX or sum(each.file_size for each in found) > PROJECT_BYTES_MAX:
        most = f"{FILES_MAX} files and {PROJECT_BYTES_MAX >> 20} MiB"
        raise Failed("BadArchive", f"a project has at most {most}, unpacked", False)
    for each in found:
        path = Path(each.filename)
        if (
            not path.name
            or path.is_absolute()
            or ".." in path.parts
            or "\0" in each.filename
            or stat.S_ISLNK(each.external_attr >> 16)
        ):
            raise Failed(
                "BadArchive", f"{each.filename[:100]!r} is no name, lies outside of the archive, or is a link", False
            )
    return found


def unzip(data: bytes, place: Path) -> None:
    """Lays the files of an archive out. Raises Failed as `entries`, and where they are more than the archive says."""
    found, left = entries(data), PROJECT_BYTES_MAX
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for each in found:
            path = place / each.filename
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(each) as source, path.open("wb") as file:
                    while piece := source.read(min(PIECE_BYTES, left + 1)):
                        left -= len(piece)
                        if left < 0:
                            raise Failed("BadArchive", "its files are larger than it says", False)
                        file.write(piece)
                if each.external_attr >> 16 & stat.S_IXUSR:
                    path.chmod(0o755)
            except Failed:
                raise
            except Exception as why:  # each way of compressing has errors of its own
                raise _cannot_unpack(each.filename, why) from None


def _cannot_unpack(name: str, why: Exception) -> Failed:
    """The failure: of the archive, or of this machine, and another may have room. Where it lies here, nobody hears."""
    here = isinstance(why, OSError) and why.errno in _FULL
    reason = (isinstance(why, OSError) and why.strerror) or why
    return Failed("CannotUnpack" if here else "BadArchive", f"{name[:100]!r} cannot be unpacked: {reason}", here)
