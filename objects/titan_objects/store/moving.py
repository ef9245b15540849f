"""Files of Redis into the directory of a store, and a store's contents into a file that Redis reads.

No server may run on the directory meanwhile; the lock in it sees to that.
"""

import os
from pathlib import Path

import titan_overlay as titan
from titan_objects.store import rdb_writing, system
from titan_objects.store.aof import AppendLog, sync_directory
from titan_objects.store.commands import all_commands
from titan_objects.store.config import DATABASES_MAX, Config
from titan_objects.store.engine import Engine
from titan_objects.store.replaying import load_file
from titan_objects.store.rewriting import Commands, Records, Rewrite


def import_file(file: Path, directory: Path) -> int:
    """Loads an RDB or append-only file into a store that has no keys yet; says how many keys there are.

    Raises:
        ConfigError: the directory is in use, or not empty; the file is none.
        StorageError: the file is damaged or torn.
    """
    if file.is_dir():
        raise titan.ConfigError(
            f"{file} is a directory; name a file in it, such as dump.rdb. On one with an appendonlydir of Redis's "
            "`titan store serve --dir` starts as it is"
        )
    if not file.exists():
        raise titan.ConfigError(f"there is no file {file}")
    with _Opened(directory) as (log, engine):
        if _count(engine):
            raise titan.ConfigError(f"{directory} has {_count(engine)} keys already; import into an empty directory")
        load_file(file, engine)
        base = log.begin_rewrite()
        _write(base, engine, snapshot=False)
        log.end_rewrite(base)
        log.clear_history()
        return _count(engine)


def export_file(directory: Path, file: Path) -> int:
    """Writes all keys of a store into a file: as commands if its name ends in `.aof`, else as a snapshot (RDB).

    Raises:
        ConfigError: there is no store, it is in use, or the file is there already.
        StorageError: the store's log is damaged.
    """
    if not (directory / Config().get("appenddirname")).is_dir():
        raise titan.ConfigError(f"{directory} holds no store")
    if file.exists():
        raise titan.ConfigError(f"{file} is there already; choose another name, or move it away")
    with _Opened(directory) as (_, engine):
        temporary = file.with_name(f".{file.name}.part")
        _write(temporary, engine, snapshot=file.suffix != ".aof")
        temporary.replace(file)
        sync_directory(file.parent)
        return _count(engine)


class _Opened:
    """A store's log with all that is in it, for the length of a block."""

    def __init__(self, directory: Path) -> None:
        config = Config(databases=str(DATABASES_MAX))  # it is not known how many the store is served with
        self._engine = Engine(all_commands(), system.generator(), config)
        self._log = AppendLog(directory, config.get("appenddirname"), config.get("appendfilename"))

    def __enter__(self) -> tuple[AppendLog, Engine]:
        self._engine.now = system.unix_ms()
        self._log.open(self._engine)
        return self._log, self._engine

    def __exit__(self, *_: object) -> None:
        self._log.close()


def _count(engine: Engine) -> int:
    return sum(len(db.data) for db in engine.databases)


def _write(path: Path, engine: Engine, snapshot: bool) -> None:
    with path.open("wb") as file:
        if snapshot:
            file.write(rdb_writing.header())
        rewrite = Rewrite(engine, file.write, Records() if snapshot else Commands())
        while rewrite.step():
            pass
        if snapshot:
            file.write(rdb_writing.END)
        file.flush()
        os.fsync(file.fileno())
