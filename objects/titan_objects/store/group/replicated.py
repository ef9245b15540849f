"""The store as a mutable object: its members execute the commands that stand in the group's order."""

from collections.abc import Iterable, Iterator
from typing import Any

import titan_overlay as titan
from titan_objects.store.group.agreed import AT_ONCE_BYTES_MAX, LONG_BYTES_MAX, AgreedEngine
from titan_objects.store.group.messages import (
    Done,
    Look,
    Mark,
    News,
    Outcome,
    Overview,
    Rest,
    Run,
    Section,
    Survey,
    Wake,
)
from titan_objects.store.group.snapshot import Restore, Walk
from titan_objects.store.keyspace import BUCKET_MS
from titan_objects.store.programs import words_of
from titan_objects.store.resp import CommandError, decode

POLICY = titan.Policy(faults=1)

NEVER = float("inf")


@titan.mutable(policy=POLICY)
class GroupStore:
    """See the module. It keeps its own snapshots (`snapshot.py`)."""

    def __init__(self) -> None:
        self.engine = AgreedEngine()
        self._restore = Restore(self.engine)
        self._alarm = NEVER
        """When the next `Wake` comes, unix milliseconds."""

    # ---- from doors ----------------------------------------------------------------------------------------------

    def run(self, m: Run, ctx: titan.Context) -> Outcome:
        """Executes what several connections have sent."""
        self._check(m.sections)
        self._begin(ctx)
        self.engine.drop(m.drop)
        done: list[Done] = []
        room, long = AT_ONCE_BYTES_MAX, LONG_BYTES_MAX
        for section in m.sections:
            if long < 0:
                done.append(Done(b"", section.db, 0, section.guard))
                continue
            each = self.engine.execute(section)
            if len(each.replies) > room:
                long -= len(each.replies)
                each = self.engine.park(each)
            room -= len(each.replies)
            done.append(each)
        return Outcome(done, self._end(ctx))

    @titan.readonly
    def look(self, m: Look, ctx: titan.Context) -> list[bytes] | None:
        """Answers what only reads; None: it has to be ordered."""
        self._check(m.sections)
        if not all(self.engine.reads_only(section.commands) for section in m.sections):
            raise titan.BadMessage("these commands are not for reading alone: send them as store.Run")
        return self.engine.peek(m.sections, m.now)

    @titan.readonly
    def rest(self, m: Rest) -> bytes | None:
        """More of replies that are too long to travel at once."""
        return self.engine.parked(m.number, m.offset)

    @titan.readonly
    def survey(self, m: Survey) -> Overview:
        """What INFO and CONFIG GET say of the group."""
        engine = self.engine
        return Overview(
            engine.settings(),
            [(db.index, len(db.data), len(db.expires)) for db in engine.databases if db.data],
            engine.stats.expired,
            engine.stats.evicted,
            engine.meter.total if engine.meter is not None else 0,
        )

    def mark(self, m: Mark) -> None:
        """Whoever watches sees it come by."""

    # ---- from programs -------------------------------------------------------------------------------------------

    @titan.batch
    def command(self, messages: list[list[Any]], ctx: titan.Context) -> list[Any]:
        """Executes one command each, such as `["SET", "k", "v"]`; strings of the reply are bytes.

        One that would wait answers that there is nothing; one that is refused raises BadMessage with Redis's text.
        """
        self._begin(ctx)
        replies = [self._command(words) for words in messages]
        self._settle(ctx)
        if self.engine.published or self.engine.touched:
            self._wake_in(0.0, ctx)  # it brings the news: these replies are for programs
        return replies

    def _command(self, words: list[Any]) -> Any:
        try:
            args = words_of(words)
        except titan.BadMessage as why:
            return why
        reply = _plain(decode(self.engine.ask(args)))
        return titan.BadMessage(str(reply)) if isinstance(reply, CommandError) else reply

    # ---- time ----------------------------------------------------------------------------------------------------

    def wake(self, m: Wake, ctx: titan.Context) -> News:
        """Lets go what has ended."""
        if ctx.now * 1000 >= self._alarm:
            self._alarm = NEVER
        self._begin(ctx)
        return self._end(ctx)

    def _begin(self, ctx: titan.Context) -> None:
        self.engine.begin(int(ctx.now * 1000), lambda: ctx.random)

    def _settle(self, ctx: titan.Context) -> None:
        self.engine.end()
        due = self.engine.keyspace.wheel.next()
        if due is not None and due + BUCKET_MS < self._alarm:
            self._wake_in((due + BUCKET_MS) / 1000 - ctx.now, ctx)

    def _end(self, ctx: titan.Context) -> News:
        self._settle(ctx)
        return self.engine.take_news()

    def _wake_in(self, seconds: float, ctx: titan.Context) -> None:
        try:
            ctx.schedule(max(0.0, seconds), Wake())
        except titan.Overloaded:
            return  # as many are under way: one of them comes, and nobody sees what has ended in any case
        self._alarm = min(self._alarm, (ctx.now + max(0.0, seconds)) * 1000)

    # ---- snapshots -----------------------------------------------------------------------------------------------

    def snapshot(self) -> Iterator[bytes]:
        """The store as it is now, in chunks."""
        return Walk(self.engine, self._alarm).chunks()

    def restore(self, chunk: bytes) -> None:
        """The other way round."""
        alarm = self._restore.add(chunk)
        if alarm is not None:
            self._alarm = alarm

    def _check(self, sections: Iterable[Section]) -> None:
        """Raises BadMessage, before anything is executed."""
        many = len(self.engine.databases)
        for section in sections:
            if not 0 <= section.db < many or not all(section.commands):
                raise titan.BadMessage(f"a section has commands with a name each, and one of {many} databases")


def _plain(value: Any) -> Any:
    """A reply without errors inside: those are texts."""
    if isinstance(value, list):
        return [str(each) if isinstance(each, CommandError) else _plain(each) for each in value]
    return value
