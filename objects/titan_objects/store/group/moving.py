"""Keys of a group on their way to another server: a door moves them (MIGRATE), for members reach nobody.

A guard stands on each key from the moment at which it was read; it is deleted in a transaction of that guard, which
does nothing if the key has changed.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import titan_overlay as titan
from titan_objects.store.commands.migrate import Migration
from titan_objects.store.group.messages import Done, Section
from titan_objects.store.migrating import Sent
from titan_objects.store.resp import CommandError, decode_all

TOGETHER = 16
"""Keys that are read at once."""

Submit = Callable[[Section, Callable[[Done | titan.TitanError], None]], None]


class GroupSource:
    """See `migrating.Source`.

    Args:
        submit: has a section executed in order, and says what became of it.
        drop: nobody needs that guard any more.
        now: unix milliseconds.
    """

    def __init__(self, submit: Submit, drop: Callable[[int], None], now: Callable[[], int]) -> None:
        self._submit = submit
        self._drop = drop
        self.now = now

    async def read(self, migration: Migration, left: deque[bytes]) -> list[Sent]:
        """Raises TitanError: the group does not answer; CommandError: a key is too large."""
        keys = [left.popleft() for _ in range(min(TOGETHER, len(left)))]
        found = await asyncio.gather(*(self._read(migration, key) for key in keys), return_exceptions=True)
        batch = [each for each in found if isinstance(each, Sent)]
        for why in found:
            if isinstance(why, BaseException):
                for sent in batch:
                    self.keep(sent)
                raise why
        return batch

    async def _read(self, migration: Migration, key: bytes) -> Sent | None:
        commands = [[b"WATCH", key], [b"DUMP", key], [b"PEXPIRETIME", key]]
        done = await self._done(Section(commands, migration.db.index))
        replies = decode_all(done.replies)
        for reply in replies:
            if isinstance(reply, CommandError):
                self._drop(done.guard)
                raise reply
        _, payload, until = replies
        if payload is None:
            self._drop(done.guard)
            return None
        return Sent(key, payload, until if until >= 0 else None, done.guard)

    async def let_go(self, migration: Migration, sent: Sent) -> bool:
        """Raises TitanError: the group does not answer."""
        section = Section([[b"DEL", sent.key]], migration.db.index, atomic=True, guard=sent.guard)
        return decode_all((await self._done(section)).replies) != [None]

    def keep(self, sent: Sent) -> None:
        """It stays."""
        self._drop(sent.guard)

    async def _done(self, section: Section) -> Done:
        answered: asyncio.Future[Done | titan.TitanError] = asyncio.get_running_loop().create_future()

        def answer(done: Done | titan.TitanError) -> None:
            if not answered.done():
                answered.set_result(done)

        self._submit(section, answer)
        done = await answered
        if isinstance(done, titan.TitanError):
            raise done
        return done
