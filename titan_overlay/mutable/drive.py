"""What drives the engine of one epoch at one member: sends what it says, writes what it wants kept, wakes it in time.

Nothing is said before what it rests on is durable (see `engine.py`). What is committed is the group's to execute.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from titan_overlay.errors import BadMessage
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Engine, Event, Persisted, Ready, Send, TimerDue
from titan_overlay.mutable.surroundings import EpochLog
from titan_overlay.wire import codec
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

STEP_BYTES_MAX = MAX_PAYLOAD_BYTES - 1024
"""A link adds the object and the type."""
UNHURRIED_SECONDS = 0.1
"""So long the disk may wait for what nobody waits for."""


class Drive:
    """See the module.

    Args:
        epoch: in which the engine agrees with others.
        wal: where its records are.
    """

    def __init__(self, group: "Group", engine: Engine, epoch: int, wal: EpochLog) -> None:
        self.engine = engine
        self._group = group
        self._epoch = epoch
        self._wal = wal
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._saves: asyncio.Future[None] | None = None
        """The last that the log was asked for."""
        self._unhurried: list[Any] = []
        """For the log, with what is written next."""
        self._writes: asyncio.TimerHandle | None = None
        """At the latest then."""
        self._stopped = False

    @property
    def crowded(self) -> bool:
        """The disk does not keep up."""
        return self._wal.crowded

    def step(self, event: Event) -> Ready:
        """Hands in an event; what is left to do of what follows."""
        ready = self.engine.step(event, self._group.loop.time())
        self._send(ready.send_now)
        self._unhurried += ready.unhurried
        if ready.persist:
            self._write(ready)
        elif ready.send_after_persist:
            if self._saves is None or self._saves.done():
                self._send(ready.send_after_persist)
            else:
                self._after_saving(self._saves, ready)
        if self._unhurried and self._writes is None:
            self._writes = self._group.loop.call_later(UNHURRIED_SECONDS, self._write, Ready(0))
        self._set_timer(ready.timer)
        return ready

    def _write(self, ready: Ready) -> None:
        """What waits, and then what this has for the log."""
        if self._writes is not None:
            self._writes.cancel()
            self._writes = None
        self._saves = self._wal.append(self._unhurried + ready.persist)
        self._unhurried = []
        self._after_saving(self._saves, ready)

    def compact(self) -> None:
        """A state is on disk: the log before it may go."""
        if self._wal.compact(self.engine.image()):
            self._unhurried.clear()

    def stop(self) -> None:
        """This member takes no part in the epoch any more."""
        self._stopped = True
        self._set_timer(None)
        if self._writes is not None:
            self._write(Ready(0))

    def end(self) -> None:
        """What the epoch has on disk may go."""
        self.stop()
        self._wal.drop()

    def _after_saving(self, saves: "asyncio.Future[None]", ready: Ready) -> None:
        saves.add_done_callback(lambda done: self._saved(done, ready))

    def _saved(self, done: "asyncio.Future[None]", ready: Ready) -> None:
        failure = None if done.cancelled() else done.exception()
        if self._stopped or done.cancelled():
            return
        if failure is not None:
            self._group.resign(f"its log cannot be written: {failure}")
            return
        self._send(ready.send_after_persist)
        if ready.persist:  # what was sent leaves before what follows from this is executed
            self._group.loop.call_soon(self._persisted, ready.number)

    def _persisted(self, number: int) -> None:
        if not self._stopped:
            self._group.step(Persisted(number))

    def _send(self, sends: list[Send]) -> None:
        by_peer: dict[bytes, list[Any]] = {}
        for each in sends:
            by_peer.setdefault(each.to, []).append(each.message)
        encoded: dict[tuple[int, ...], list[bytes]] = {}
        for peer, messages in by_peer.items():
            same = tuple(map(id, messages))  # what goes to all is encoded once
            if same not in encoded:
                encoded[same] = self._steps(messages)
            for step in encoded[same]:
                try:
                    self._group.peers.post(peer, talk.STEP, step)
                except BadMessage as why:  # it is lost, as any may be; what else follows from this event must not be
                    log.warning("%s: %s", self._group.machine.name, why)

    def _steps(self, messages: list[Any]) -> list[bytes]:
        """An encoded `Step`, or several where one would not fit into a frame."""
        step = codec.encode(talk.Step(self._epoch, messages, self._group.ambient.wall()))
        if len(step) <= STEP_BYTES_MAX or len(messages) == 1:
            return [step]
        half = len(messages) // 2
        return [*self._steps(messages[:half]), *self._steps(messages[half:])]

    def _set_timer(self, when: float | None) -> None:
        """Being early is harmless: what would only be put off, as at each sign of life of a leader, stays as it is."""
        if self._timer is not None:
            if when is not None and self._timer_at <= when:
                return
            self._timer.cancel()
            self._timer = None
        if when is not None and not self._stopped:
            self._timer, self._timer_at = self._group.loop.call_at(when, self._due), when

    def _due(self) -> None:
        self._timer = None
        self._group.step(TimerDue())
