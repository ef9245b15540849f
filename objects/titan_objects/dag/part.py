"""What a node's workers do for one run: they take tasks, run them, and say what came of each."""

import asyncio
from collections import Counter, deque
from contextlib import aclosing, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.board import Board
from titan_objects.dag.definition import tasks_of
from titan_objects.dag.errands import Errands
from titan_objects.dag.executor import attempted
from titan_objects.dag.inside import Question, Spawn
from titan_objects.dag.journal import Failure, Order, Success, Worker
from titan_objects.dag.memory import recalled
from titan_objects.dag.messages import LINES_AT_ONCE, SAID_BYTES, Done, Ready, Spawned, Sync, fitting

if TYPE_CHECKING:
    from titan_objects.dag.worker import Workers

LINES_MAX = 5000
"""That wait to be sent; of a flood, the rest is counted."""
LINES_OF_EACH = 100
"""That may wait of each task, however many lines of others do."""
IDLE_SECONDS = 0.5
BEAT_SECONDS = 5.0
BEATS = 3
"""Of these, in the time of a lease."""
SHORT_SECONDS = 0.05
"""Tasks that take no longer on average are fetched ahead: others would wait here while a worker elsewhere is idle."""
AHEAD_PER_SLOT = 8


class Part:
    """What a node's workers do for one run."""

    def __init__(self, workers: "Workers", run: str) -> None:
        self._workers = workers
        self._run = run
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting: dict[int, Order] = {}
        """Fetched ahead, by epoch."""
        self._unheard = False
        """The last answer was lost; what it gave is not known here, and the run has to hear of that."""
        self._took = SHORT_SECONDS * 10
        """Seconds, on a moving average, that a task takes."""
        self._beat = BEAT_SECONDS
        """After so long the run hears of what is done here; sooner, where its leases are short."""
        self._done: list[Done] = []
        self._lines: deque[tuple[int, int, str]] = deque()
        """Epoch, number and text."""
        self._unsent: Counter[int] = Counter()
        """Lines that wait, by epoch."""
        self._said: dict[int, int] = {}
        """Lines under each epoch so far."""
        self._dropped: dict[int, int] = {}
        self._progress: dict[int, float] = {}
        """That the run does not know yet; it goes along with what is said anyway."""
        self._up: dict[int, Any] = {}
        """Services that the run does not know to be there."""
        self._board: Board | None = None
        """Where the run has a store: known from the first order on."""
        self._shown: dict[int, str] = {}
        """Tasks that the board shows as running, by epoch."""
        self._changed = asyncio.Event()

    async def serve(self) -> None:
        """Until the run has ended."""
        try:
            await self._work()
        except asyncio.CancelledError:
            await self._end_tasks()
            with suppress(titan.TitanError):  # others need not wait until the leases have run out
                await self._workers.pool.send(self._run, self._news(0, leaving=True), timeout=2)
            raise
        finally:
            await self._end_tasks()
            if self._board is not None:
                await self._board.close()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        said, pause = loop.time(), 0.02
        while True:
            due = bool(self._tasks or self._waiting) and loop.time() - said >= self._beat
            wanted = bool(self._done or self._lines or self._up or due or self._unheard)
            if self._workers.free and not wanted:
                ready = await self._ready()
                if ready < 0:
                    return
                wanted = ready > 0
            if wanted:
                if due:  # nothing has ended for long: others may have what waits here
                    self._took += self._beat
                    self._waiting.clear()
                said = loop.time()
                state, got = await self._sync()
                if state not in ("RUNNING", "SUSPENDED"):
                    return
                pause = 0.02 if got else pause
            if not self._done:
                self._changed.clear()
                looking = loop.call_later(pause, self._changed.set)
                try:
                    await self._changed.wait()
                finally:
                    looking.cancel()
                pause = min(2 * pause, IDLE_SECONDS)

    async def _ready(self) -> int:
        """How many instances wait; -1: the run has ended. What runs here goes on while the run does not answer."""
        try:
            return await self._workers.pool.read(self._run, Ready())
        except titan.RemotableError as why:
            if self._tasks and _may_pass(why):
                return 0
            raise

    async def _end_tasks(self) -> None:
        self._waiting.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            _cancel(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _news(self, count: int, spare: int = 0, *, leaving: bool = False) -> Sync:
        """What the run does not know yet: what a task has written, then its end, with which its lease goes."""
        lines = fitting(islice(self._lines, LINES_AT_ONCE), lambda line: len(line[2].encode()), SAID_BYTES)
        unsaid = {epoch for epoch, _, _ in islice(self._lines, len(lines), None)}
        ended = (each for each in self._done if each.epoch not in unsaid)
        done = fitting(ended, lambda each: len(msgspec.msgpack.encode(each)), SAID_BYTES)
        told = {each.epoch for each in done}
        ending = [each.epoch for each in self._done if each.epoch not in told]
        info = self._workers.info
        ahead = AHEAD_PER_SLOT * info.slots - len(self._waiting) if self._took <= SHORT_SECONDS else 0
        worker = Worker(info.name, info.labels, cores=float(count), memory=spare)
        self._workers.turn += 1
        turn = self._workers.turn
        if leaving:
            return Sync(worker, done=done, lines=lines, turn=turn)
        holds = sorted({*self._tasks, *self._waiting, *ending})
        progress, up = dict(self._progress), dict(self._up)
        return Sync(worker, count, done, holds, progress, lines, ahead=max(0, ahead), up=up, turn=turn)

    async def _sync(self) -> tuple[str, int]:
        """Says what was done, and begins what is to be done; the state of the run, and how many tasks have begun."""
        count, spare = self._workers.free, self._workers.spare
        self._workers.free = self._workers.spare = 0  # nobody else gives these away meanwhile
        news = self._news(count, spare)
        orders: list[Order] = []
        try:
            synced = await self._workers.pool.send(self._run, news)
            orders = synced.orders
            self._unheard = synced.turn > news.turn
            self._workers.turn = max(synced.turn, self._workers.turn)
        except titan.RemotableError as why:
            if _may_pass(why):
                self._unheard = True
                return "RUNNING", 0  # said again: results are fenced by epochs, lines by numbers, so twice is as once
            raise
        finally:
            self._workers.free += count
            self._workers.spare += spare
            began = self._with_room(orders)
            self._begin_waiting()
        for epoch, _, _ in news.lines:
            self._lines.popleft()
            self._unsent[epoch] -= 1
        self._unsent = +self._unsent
        self._progress = {epoch: far for epoch, far in self._progress.items() if news.progress.get(epoch) != far}
        self._up = {epoch: where for epoch, where in self._up.items() if epoch not in news.up}
        told = {each.epoch for each in news.done}
        for each in news.done:
            if self._board is not None and (key := self._shown.pop(each.epoch, "")):
                self._board.flag(key, "COMPLETED" if isinstance(each.outcome, Success) else "FAILED")
        self._done = [each for each in self._done if each.epoch not in told]
        for epoch in synced.lost:
            self._waiting.pop(epoch, None)
            if epoch in self._tasks:
                _cancel(self._tasks[epoch])
        self._beat = min([self._beat, *(each.heartbeat / BEATS for each in synced.orders)])
        for order in began:
            self._begin(order)
        self._waiting.update((each.epoch, each) for each in orders if each.epoch not in self._tasks)
        self._begin_waiting()  # something may have ended meanwhile
        return synced.state, len(synced.orders)

    def _begin_waiting(self) -> None:
        """Begins what was fetched ahead, as far as there is room."""
        while self._waiting and self._workers.fits(order := next(iter(self._waiting.values()))):
            del self._waiting[order.epoch]
            self._workers.occupy(order)
            self._begin(order)

    def _with_room(self, orders: list[Order]) -> list[Order]:
        """Those that can begin at once, and have room now."""
        found = []
        for order in orders:
            if self._workers.fits(order):
                self._workers.occupy(order)
                found.append(order)
        return found

    def _begin(self, order: Order) -> None:
        """Begins a task, which has a place."""
        self._tasks[order.epoch] = task = asyncio.create_task(self._do(order))
        task.add_done_callback(lambda _: self._leave(order))  # what is cancelled at once never comes to its end

    def _leave(self, order: Order) -> None:
        """A task gives its room back, once."""
        if self._tasks.pop(order.epoch, None) is not None:
            self._workers.vacate(order)
            self._begin_waiting()
            self._changed.set()

    async def _do(self, order: Order) -> None:
        outcome: Success | Failure | None = None
        if order.store:
            self._board = self._board or Board(self._workers.pool, order.store, self._run, self._workers.info)
            self._board.flag(order.key, "RUNNING")
            self._shown[order.epoch] = order.key
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._workers.busy += 1
        try:
            outcome = await attempted(self._attempt(order), order.timeout)
        finally:
            self._workers.busy -= 1
            self._took += (loop.time() - began - self._took) / 4
            self._leave(order)
            if dropped := self._dropped.pop(order.epoch, 0):
                self._append(order.epoch, f"{dropped} lines more were written than can be sent")
            self._said.pop(order.epoch, None)
            self._progress.pop(order.epoch, None)
            self._up.pop(order.epoch, None)
            if outcome is not None:
                self._done.append(Done(order.epoch, outcome))
            else:
                self._shown.pop(order.epoch, None)
            self._changed.set()

    async def _attempt(self, order: Order) -> Success:
        pool = self._workers.pool
        async with aclosing(Errands(pool)) as errands:
            known = await recalled(pool, self._run, order.memo) if order.memo else None
            return known or await self._workers.execute(order, _Ear(self, order, errands, self._board))

    def say(self, epoch: int, line: str) -> None:
        """A task has written a line."""
        if len(self._lines) < LINES_MAX or self._unsent[epoch] < LINES_OF_EACH:
            self._append(epoch, line)
        else:
            self._dropped[epoch] = self._dropped.get(epoch, 0) + 1

    def progress(self, epoch: int, done: float) -> None:
        """So much of a task is done."""
        self._progress[epoch] = done

    def up(self, epoch: int, where: Any) -> None:
        """A service is there."""
        self._up[epoch] = where
        self._changed.set()

    async def spawn(self, epoch: int, tasks: list[Any]) -> None:
        """Adds tasks of one that runs. Raises TitanError: the run does not take them."""
        await self._workers.pool.send(self._run, Spawned(self._workers.info.name, epoch, list(tasks_of(tasks))))

    def _append(self, epoch: int, line: str) -> None:
        number = self._said.get(epoch, 0)
        self._said[epoch] = number + 1
        self._unsent[epoch] += 1
        self._lines.append((epoch, number, line))


def _cancel(task: asyncio.Task[None]) -> None:
    """Ends a task, unless it is ending: a second time would interrupt it in ending what it has started."""
    if not task.cancelling():
        task.cancel()


def _may_pass(why: titan.RemotableError) -> bool:
    """Whether the run may answer all the same if it is asked again."""
    return why.retryable or isinstance(why, titan.DeadlineExceeded | titan.Unavailable)


class _Ear:
    """Hears one task."""

    def __init__(self, part: Part, order: Order, errands: Errands, board: Board | None) -> None:
        self._part = part
        self._order = order
        self._errands = errands
        self._board = board

    def line(self, text: str) -> None:
        self._part.say(self._order.epoch, text)
        if self._board is not None:
            self._board.line(self._order.key, text)

    def progress(self, done: float) -> None:
        self._part.progress(self._order.epoch, done)

    def up(self, where: Any) -> None:
        self._part.up(self._order.epoch, where)

    async def ask(self, what: Question) -> Any:
        if isinstance(what, Spawn):
            return await self._part.spawn(self._order.epoch, what.tasks)
        return await self._errands.do(what)
