"""An engine for tests: commands as text, replies as they stand on the wire, a clock that stands still."""

from random import Random

from titan_objects.store.commands import all_commands
from titan_objects.store.config import Config
from titan_objects.store.engine import Engine
from titan_objects.store.resp import decode_all
from titan_objects.store.session import Session

NOW = 4_000_000_000_000
"""In the future, so that a real server that is told of an expiry finds that it is still to come."""
TABLE = all_commands()

Word = bytes | str | int | float


def words(args: tuple[Word, ...]) -> list[bytes]:
    """`("SET k v",)` is split at blanks; several words are taken as they are."""
    if len(args) == 1 and isinstance(args[0], str):
        args = tuple(args[0].split())
    return [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]


class Core:
    """An engine and its first client."""

    def __init__(self, seed: int = 1, **settings: str) -> None:
        self.engine = Engine(TABLE, Random(seed), Config(**settings))
        self.now = NOW
        self.client = self.connect()

    def connect(self) -> "Client":
        return Client(self, self.engine.connect(self.now, "127.0.0.1:1"))

    def __call__(self, *args: Word) -> object:
        return self.client(*args)

    def effects(self) -> list[str]:
        """What was to be logged since the last time."""
        taken = [b" ".join(args).decode("latin-1") for args in self.engine.effects]
        self.engine.effects.clear()
        return taken

    def pass_time(self, ms: int) -> None:
        self.now += ms
        while self.engine.tick(self.now):
            pass


class Client:
    """One session. Called with a command, it returns the decoded reply; no reply is `...`."""

    def __init__(self, core: Core, session: Session) -> None:
        self.core = core
        self.session = session

    def __call__(self, *args: Word) -> object:
        self.core.engine.run(self.session, [words(args)], self.core.now)
        replies = self.heard()
        return replies[-1] if replies else ...

    def heard(self) -> list[object]:
        """Everything that was sent to it since the last time."""
        data = b"".join(self.session.out)
        self.session.out.clear()
        return decode_all(data)
