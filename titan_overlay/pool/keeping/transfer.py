"""Fetching a content from several holders at once, each chunk verified when it arrives.

`Schedule` decides, without I/O, which chunk is asked of whom; `fetch` carries it out. At most `parallel` chunks are in
memory. A holder that sends wrong bytes, has no copy or stops answering is left out; its chunks go to the others. The
fastest holders get the most: a chunk goes to the one that would deliver it first, as far as is known by then.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, Protocol

from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    Overloaded,
    RemotableError,
    Unavailable,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.statements import Content
from titan_overlay.pool.hosting.data import PAGE_BYTES, Fetch, Manifest
from titan_overlay.storage.assembly import Sink as Sink
from titan_overlay.storage.content import (
    DIGEST_BYTES,
    check_content,
    check_manifest,
    chunk_count,
    chunk_length,
    manifest_of_small,
)
from titan_overlay.storage.files import FileSink as FileSink
from titan_overlay.storage.files import MemorySink as MemorySink
from titan_overlay.storage.files import Progress
from titan_overlay.wire import codec

PATIENCE_FIRST: Final = 15.0
"""Seconds that the first chunk of a holder may take."""
PATIENCE_LEAST: Final = 5.0
PATIENCE_MOST: Final = 60.0
PATIENCE_FACTOR: Final = 8.0
"""A later chunk may take this many times what that holder's chunks take on average, within the bounds above."""
STRIKES_MAX: Final = 2
"""Failures in a row after which a holder counts as dead."""
REFUSALS_MAX: Final = 8
"""`Overloaded` answers in a row after which a holder is left out."""
HEDGE_SECONDS: Final = 2.0
"""When nothing else is left to ask for, a chunk that takes longer is also asked of another holder."""
PAUSE_MOST: Final = 5.0
"""Longest pause that is made because a holder says it is overloaded."""


class Ask(Protocol):
    """Sends one message about the content to a holder: contact, message type, body, deadline (loop time)."""

    def __call__(self, contact: Contact, type: str, body: bytes, deadline: float, /) -> Awaitable[bytes]: ...


class Source:
    """What is known of one holder during one transfer."""

    __slots__ = ("contact", "dropped", "in_flight", "pause_until", "refusals", "seconds", "strikes")

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.dropped = ""
        """Why it is left out, or empty."""
        self.in_flight = 0
        self.pause_until = 0.0
        self.refusals = 0
        self.seconds: float | None = None
        """Average seconds that a chunk takes, moving."""
        self.strikes = 0

    def expected(self) -> float:
        """Seconds until one more chunk would be here. Who is untried comes first: its speed is then known soon."""
        if self.seconds is None:
            return float(self.in_flight)
        return (self.in_flight + 1) * self.seconds

    def patience(self) -> float:
        """Seconds that the next chunk may take."""
        if self.seconds is None:
            return PATIENCE_FIRST
        return min(PATIENCE_MOST, max(PATIENCE_LEAST, PATIENCE_FACTOR * self.seconds))


class Schedule:
    """Which chunk is to be asked of which holder. Pure: times are handed in.

    Every chunk is queued, in flight (at one holder, or at two near the end), or done. `take` moves it from the first
    state to the second, the verdicts (`done`, `drop`, `failed`, `refused`, `unanswered`) on or back.
    """

    def __init__(self, missing: Iterable[int], sources: Iterable[Contact]) -> None:
        self._queue = deque(missing)
        self._flying: dict[int, dict[Source, float]] = {}  # chunk -> who was asked, when; oldest first
        self.left = len(self._queue)
        """Chunks that are not done."""
        self.sources = [Source(contact) for contact in sources]

    def live(self) -> list[Source]:
        """Holders that are not left out."""
        return [source for source in self.sources if not source.dropped]

    def exhausted(self) -> bool:
        """Whether nobody is left to ask, and nobody left to wait for."""
        return not self.live() and not self._flying

    def take(self, now: float) -> tuple[int, Source] | None:
        """The next chunk and whom to ask; None: nothing to do now."""
        ready = [source for source in self.live() if source.pause_until <= now]
        if self._queue and ready:
            index = self._queue.popleft()
        else:
            late = self._late(ready)
            if late is None or late[1] > now:
                return None
            index = late[0]
            ready = [source for source in ready if source not in self._flying[index]]
        best = min(ready, key=Source.expected)
        best.in_flight += 1
        self._flying.setdefault(index, {})[best] = now
        return index, best

    def _late(self, ready: Sequence[Source]) -> tuple[int, float] | None:
        """The chunk that has waited longest for the one holder it was asked of, and when to ask another as well."""
        if self._queue:
            return None
        for index, asked in self._flying.items():
            if len(asked) == 1 and any(source not in asked for source in ready):
                return index, next(iter(asked.values())) + HEDGE_SECONDS
        return None

    def wake(self, now: float) -> float | None:
        """When there may be something to do without any verdict; None: never."""
        times = [source.pause_until for source in self.live() if source.pause_until > now and self.left]
        late = self._late([source for source in self.live() if source.pause_until <= now])
        if late is not None:
            times.append(late[1])
        return min(times, default=None)

    def done(self, index: int, source: Source, seconds: float) -> bool:
        """The chunk came, was verified and stored. Whether it is the first time."""
        source.in_flight -= 1
        source.strikes = source.refusals = 0
        source.seconds = seconds if source.seconds is None else 0.8 * source.seconds + 0.2 * seconds
        first = source in self._flying.get(index, ())
        if first:
            # Who else was asked for it is still at work, but for nothing.
            del self._flying[index]
            self.left -= 1
        return first

    def drop(self, index: int, source: Source, why: str) -> None:
        """The holder sent something else, or says that it has no copy: it is not asked again."""
        self._again(index, source)
        source.dropped = source.dropped or why

    def failed(self, index: int, source: Source, why: str) -> None:
        """No answer in time, or a broken link: too often, and the holder is dead."""
        self._again(index, source)
        source.strikes += 1
        if source.strikes >= STRIKES_MAX:
            source.dropped = source.dropped or why

    def refused(self, index: int, source: Source, now: float, retry_after: float) -> None:
        """The holder is overloaded: it gets a pause."""
        self._again(index, source)
        source.refusals += 1
        if source.refusals >= REFUSALS_MAX:
            source.dropped = source.dropped or "it stays overloaded"
        source.pause_until = now + min(PAUSE_MOST, max(0.05, retry_after))

    def unanswered(self, index: int, source: Source) -> None:
        """The transfer itself was called off."""
        self._again(index, source)

    def _again(self, index: int, source: Source) -> None:
        source.in_flight -= 1
        asked = self._flying.get(index, {})
        asked.pop(source, None)
        if index in self._flying and not asked:
            del self._flying[index]
            self._queue.appendleft(index)


async def fetch(
    content_id: bytes,
    content: Content,
    sources: Sequence[Contact],
    ask: Ask,
    sink: Sink,
    *,
    deadline: float,
    progress: Progress | None = None,
    parallel: int = 4,
) -> None:
    """Fetches a content into a sink. What came before an error stays there, and the next fetch goes on from it.

    Args:
        content_id: SHA-256 of the content.
        content: as the descriptor states it.
        sources: holders, best first.
        ask: sends a message to a holder; see `Ask`.
        sink: `Blobs`, `FileSink` or `MemorySink`.
        deadline: loop time.
        progress: called with (bytes there, bytes in all).
        parallel: chunks in flight, and in memory, at once.

    Raises:
        Unavailable: no holder is left that answers. DeadlineExceeded: time ran out.
        BadMessage: the descriptor does not fit the content. StorageError, Overloaded: the sink has no room.
    """
    check_content(content)
    job = _Transfer(content_id, content, ask, sink, deadline, progress)
    try:
        async with asyncio.timeout_at(deadline):
            await job.run(sources, max(1, parallel))
    except TimeoutError:
        raise DeadlineExceeded(f"time ran out; {job.state()}") from None


class _Transfer:
    """One fetch under way."""

    def __init__(
        self,
        content_id: bytes,
        content: Content,
        ask: Ask,
        sink: Sink,
        deadline: float,
        progress: Progress | None,
    ) -> None:
        self._content_id = content_id
        self._content = content
        self._ask = ask
        self._sink = sink
        self._deadline = deadline
        self._progress = progress
        self._there = 0
        self._workers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def state(self) -> str:
        """How far it came, for errors."""
        return (
            f"{self._there} of {self._content.size} bytes of sha256:{self._content_id.hex()[:16]} are here and stay; "
            "ask again to go on"
        )

    async def run(self, sources: Sequence[Contact], parallel: int) -> None:
        manifest = manifest_of_small(self._content_id, self._content)
        if manifest is None:
            manifest, sources = await self._fetch_manifest(sources)
        await self._sink.begin(self._content_id, self._content, manifest)
        try:
            await self._fetch_chunks(sources, parallel)
            await self._sink.finish(self._content_id)
        except BaseException:
            self._sink.suspend(self._content_id)
            raise

    async def _fetch_chunks(self, sources: Sequence[Contact], parallel: int) -> None:
        missing = self._sink.missing(self._content_id)
        self._there = self._content.size - sum(chunk_length(self._content, index) for index in missing)
        self._report(0)
        schedule = Schedule(missing, sources)
        self._workers = [
            self._loop.create_task(self._work_and_end(schedule), name=f"fetch-{number}")
            for number in range(min(parallel, len(missing)))
        ]
        for result in await asyncio.gather(*self._workers, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def _given_up(self, failures: Sequence[str]) -> Exception:
        if self._loop.time() >= self._deadline:
            return TimeoutError()
        why = f"no holder gives the content out: {', '.join(failures[:3])}" if failures else "no holder is known"
        return Unavailable(f"{why}; {self.state()}")

    def _report(self, size: int) -> None:
        self._there += size
        if self._progress is not None:
            self._progress(self._there, self._content.size)

    # --- the manifest ---

    async def _fetch_manifest(self, sources: Sequence[Contact]) -> tuple[bytes, Sequence[Contact]]:
        """The manifest, from the first holder that has it, and the holders worth asking for chunks."""
        failures: list[str] = []
        for number, source in enumerate(sources):
            try:
                # The last one gets more time: there is nobody to turn to after it.
                last = number == len(sources) - 1
                manifest = await self._manifest_of(source, PATIENCE_FIRST if last else PATIENCE_LEAST)
                check_manifest(self._content, manifest)
            except (LinkError, RemotableError, TimeoutError) as why:
                failures.append(_failure(source, str(why) or "no answer in time"))
            else:
                # Holders that could not give it go last: they may have been busy.
                return manifest, (*sources[number:], *sources[:number])
        raise self._given_up(failures)

    async def _manifest_of(self, source: Contact, patience: float) -> bytes:
        size = DIGEST_BYTES * chunk_count(self._content)
        parts: list[bytes] = []
        for page in range(-(-size // PAGE_BYTES)):
            part = await self._request(source, Manifest(page), patience)
            if len(part) != min(PAGE_BYTES, size - page * PAGE_BYTES):
                raise BadMessage("its manifest has another length")
            parts.append(part)
        return b"".join(parts)

    # --- the chunks ---

    async def _work_and_end(self, schedule: Schedule) -> None:
        """Works until all chunks are here or the transfer has failed, and then ends the other workers."""
        try:
            await self._work(schedule)
        finally:
            for worker in self._workers:
                if worker is not asyncio.current_task():
                    worker.cancel()

    async def _work(self, schedule: Schedule) -> None:
        while schedule.left:
            job = schedule.take(self._loop.time())
            if job is not None:
                await self._one(schedule, *job)
                # Others may wait for a chunk that came back to the queue, or for the end.
                self._changed.set()
                self._changed = asyncio.Event()
                continue
            if schedule.exhausted():
                failures = [_failure(source.contact, source.dropped) for source in schedule.sources]
                raise self._given_up(failures)
            try:
                async with asyncio.timeout_at(schedule.wake(self._loop.time())):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _one(self, schedule: Schedule, index: int, source: Source) -> None:
        """Asks for one chunk and gives the schedule its verdict. Raises only what ends the transfer."""
        started = self._loop.time()
        try:
            data = await self._request(source.contact, Fetch(index), source.patience())
        except Overloaded as why:
            schedule.refused(index, source, self._loop.time(), why.retry_after)
            return
        except (LinkError, TimeoutError, DeadlineExceeded) as why:
            schedule.failed(index, source, str(why) or "no answer in time")
            return
        except RemotableError as why:
            schedule.drop(index, source, str(why) or why.code)
            return
        except BaseException:
            schedule.unanswered(index, source)
            raise
        try:
            await self._sink.put_chunk(self._content_id, index, data)
        except BadMessage as why:
            schedule.drop(index, source, str(why))
        except BaseException:
            schedule.unanswered(index, source)
            raise
        else:
            if schedule.done(index, source, self._loop.time() - started):
                self._report(len(data))

    async def _request(self, contact: Contact, message: Fetch | Manifest, patience: float) -> bytes:
        until = min(self._deadline, self._loop.time() + patience)
        async with asyncio.timeout_at(until):
            body = await self._ask(contact, message.wire_type, codec.encode(message), until)
        return codec.decode(body, bytes)


def _failure(contact: Contact, why: str) -> str:
    return f"{contact.ip}:{contact.port} ({why})"
