"""What a file of the log, or of Redis, holds is executed."""

from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path

import titan_overlay as titan
from titan_objects.store import batches, rdb
from titan_objects.store.engine import Engine
from titan_objects.store.parser import Damaged, ProtocolError, Torn, is_whole_after, make_reader, only_words, scan
from titan_objects.store.resp import bulks
from titan_objects.store.table import Args

CHUNK = 1 << 18


def load_file(path: Path, engine: Engine) -> None:
    """Loads one file of commands, or a snapshot (RDB), into an empty engine.

    Raises:
        StorageError: it is not there, damaged, or ends within a command.
    """
    try:
        Replay(path, engine).run()
    except OSError as why:
        raise titan.StorageError(f"{path}: {why.strerror}") from None
    except Torn as torn:
        raise titan.StorageError(f"{path} ends within a command, which begins at byte {torn.at}") from None
    except Damaged as damaged:
        raise titan.StorageError(f"{path} is damaged at byte {damaged.at}: {damaged.why}") from None


_SENTINEL = [b"ECHO", b"whole"]
"""Fed behind the end of a file, or of batches: it comes back as it is only if they ended with a whole command."""


class Replay:
    """Executes one file of a log: with hiredis as long as all is well, then step by step to find out what is not.

    Commands are counted; at which byte one stands is looked up when it has to be told.

    Attributes:
        batches_end: where the last batch ends, if the file is nothing but batches (`batches.py`) and room; else 0.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path = path
        self._engine = engine
        self.batches_end = 0
        self._begin = 0
        self._plain_from = 0
        """Commands that stand there without a batch around them: Redis has written them."""
        self._count = 0
        self._transaction = 0

    def run(self) -> None:
        """Executes all of it.

        Raises:
            Torn: it ends within a command or a transaction.
            Damaged: it holds what is no command, or a command that cannot be executed.
        """
        self._engine.internal.db = self._engine.databases[0]
        torn: Torn | None = None
        try:
            self._run_to_end()
        except Torn as why:
            torn = why
        self._engine.forget_logged_db()  # it is not the one of the last write, and the next file begins in database 0
        if self._engine.internal.queue is not None:  # whether or not its last command is whole: none of it was executed
            self._engine.replay([[b"DISCARD"]])
            torn = Torn(self._begin_of_transaction())
        if torn is not None:
            raise torn

    def _run_to_end(self) -> None:
        with self._path.open("rb") as file:
            first = file.readline(len(batches.MAGIC))
            if first == batches.MAGIC:
                with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                    self._run_batches(data)
        if first.startswith(rdb.MAGIC):
            self._begin = self._plain_from = rdb.load(self._path.read_bytes(), self._engine)
        if not self.batches_end and not self._run_fast():
            self._run_slowly(self._path.read_bytes())

    def _run_batches(self, data: mmap) -> None:
        reader, parser, end = batches.BatchReader(data), make_reader(), bulks(_SENTINEL)
        for begin, some in reader.many(CHUNK):
            commands: list[Args] = []
            try:
                parser.feed(some + end)
                commands.extend(iter(parser.gets, False))  # type: ignore[arg-type]
            except ProtocolError:
                raise Damaged(begin, "a batch holds what is no command") from None
            if not commands or not only_words(commands) or commands.pop() != _SENTINEL:
                raise Damaged(begin, "a batch holds what is no command")
            self._execute(commands)
        self._plain_from = reader.room_end()
        if reader.is_redis_next(self._plain_from):
            return
        self.batches_end = reader.at
        if self._plain_from < len(data):
            if not reader.is_torn():
                raise Damaged(reader.at, "a batch of commands is not as it was written, and others follow it")
            raise Torn(reader.at)

    def _run_fast(self) -> bool:
        """Whether all that stands outside of batches was executed; `_count` commands were in all."""
        reader = make_reader()
        with self._path.open("rb") as file:
            file.seek(self._plain_from)
            while chunk := file.read(CHUNK):
                commands: list[Args] = []
                sound = True
                try:
                    reader.feed(chunk)
                    commands.extend(iter(reader.gets, False))  # type: ignore[arg-type]
                except ProtocolError:
                    sound = False
                if not only_words(commands):
                    return False
                self._execute(commands)
                if not sound:
                    return False
        reader.feed(bulks(_SENTINEL))
        try:
            return reader.gets() == _SENTINEL
        except ProtocolError:
            return False

    def _execute(self, commands: list[Args]) -> None:
        failed = self._engine.replay(commands)
        if failed is not None:
            at, error = failed
            name, why = (each[:128].decode("utf-8", "backslashreplace") for each in (commands[at][0], error[1:-2]))
            raise Damaged(self._place(self._count + at), f"the command {name!r} cannot be executed here: {why}")
        if self._engine.internal.queue is not None:
            begun = [at for at, args in enumerate(commands) if args[0].upper() == b"MULTI"]
            if begun:
                self._transaction = self._count + begun[-1]
        self._count += len(commands)

    def _place(self, ordinal: int) -> int:
        """The byte at which the command of that number begins, counted from 0."""
        at = self._begin
        for count, (_, end) in enumerate(scan(self._path.read_bytes(), self._begin)):
            if count == ordinal:
                break
            at = end
        return at

    def _begin_of_transaction(self) -> int:
        """Of the one that does not end: its MULTI, or the whole batch which that is in, perhaps behind others."""
        at = self._place(self._transaction)
        data = self._path.read_bytes()
        if data.startswith(batches.MAGIC):
            reader = batches.BatchReader(data)
            begin = reader.at
            for _ in reader:
                if at < reader.at:
                    return begin
                begin = reader.at
        return at

    def _run_slowly(self, data: bytes) -> None:
        try:
            for args, _ in islice(scan(data, self._begin), self._count, None):
                self._execute([args])
        except Torn as torn:
            rest = data[torn.at :]
            if rest.strip(b"\0") and is_whole_after(data, torn.at):
                raise Damaged(torn.at, "a command is cut short, and others follow it") from None
            raise
        except Damaged as damaged:
            if not data[damaged.at :].strip(b"\0"):
                raise Torn(damaged.at) from None  # zeros: room that was reserved and never written
            raise
