"""Fetching a content from several holders at once, each chunk verified when it arrives.

`Holders` decides, without I/O, which holder a chunk is asked of; `fetch` carries it out. `parallel` chunks are under
way at once. A holder that sends wrong bytes, has no copy or stops answering is left out; its chunks go to the others.
The fastest holders get the most: a chunk goes to the one that would deliver it first, as far as is known by then. A
chunk that keeps us waiting is also asked of others (`hedging.py`), so that holders that stall cost little.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    Overloaded,
    RemotableError,
    TitanError,
    Unavailable,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.statements import Content
from titan_overlay.pool.finding.hedging import hedged
from titan_overlay.pool.finding.witness import Witness
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
LATE_SECONDS: Final = 0.6
"""After this, and what the bytes of the first chunk take at `SLOWEST_BYTES_PER_SECOND`, others are asked as well."""
LATE_FACTOR: Final = 3.0
"""Of a later chunk: after this many times the average."""
BEHIND_SECONDS: Final = (2.0, 60.0)
"""Who keeps us waiting is asked after all others for so long, the first time and at most: twice as long each time. A
holder that stalls costs little then, and one that was slow for a moment is soon one of many again."""
SLOWEST_BYTES_PER_SECOND: Final = 256 << 10
STRIKES_MAX: Final = 2
"""Failures in a row after which a holder counts as dead."""
REFUSALS_MAX: Final = 8
"""`Overloaded` answers in a row after which a holder is left out."""
PAUSE_MOST: Final = 5.0
"""Longest pause that is made because a holder says it is overloaded."""


class Ask(Protocol):
    """Sends one message about the content to a holder: contact, message type, body, deadline (loop time)."""

    def __call__(self, contact: Contact, type: str, body: bytes, deadline: float, /) -> Awaitable[bytes]: ...


More = Callable[[], Awaitable[Sequence[Contact]]]
"""Looks for holders beyond those that are known. RemotableError: there are none."""


class Source:
    """What is known of one holder during one transfer."""

    __slots__ = (
        "behind_until",
        "contact",
        "dropped",
        "in_flight",
        "late",
        "pause_until",
        "refusals",
        "seconds",
        "strikes",
    )

    def __init__(self, contact: Contact) -> None:
        self.contact = contact
        self.behind_until = 0.0
        """Until then it is asked after all others."""
        self.dropped = ""
        """Why it is left out, or empty."""
        self.in_flight = 0
        self.late = 0
        """Chunks that it has kept us waiting for since it last gave one."""
        self.pause_until = 0.0
        self.refusals = 0
        self.seconds: float | None = None
        """Average seconds that a chunk takes, moving."""
        self.strikes = 0

    def expected(self) -> float:
        """Seconds until one more chunk would be here. Who is untried comes first: its speed is then known soon."""
        if self.seconds is None:
            return float(self.in_flight + self.late)
        return (self.in_flight + 1) * self.seconds

    def kept_waiting(self, now: float) -> None:
        """It is late with a chunk, or did not give its manifest."""
        first, most = BEHIND_SECONDS
        self.behind_until = now + min(most, first * 2.0 ** min(self.late, 10))
        self.late += 1

    def patience(self) -> float:
        """Seconds that the next chunk may take."""
        if self.seconds is None:
            return PATIENCE_FIRST
        return min(PATIENCE_MOST, max(PATIENCE_LEAST, PATIENCE_FACTOR * self.seconds))

    def late_after(self, size: int) -> float:
        """Seconds after which a chunk of this size is asked of others as well."""
        if self.seconds is None:
            return LATE_SECONDS + size / SLOWEST_BYTES_PER_SECOND
        return min(PATIENCE_LEAST, LATE_SECONDS + LATE_FACTOR * self.seconds)


class Holders:
    """Whom to ask for the next chunk. Pure: times are handed in."""

    def __init__(self, contacts: Iterable[Contact]) -> None:
        self.sources = [Source(contact) for contact in contacts]

    def add(self, contacts: Iterable[Contact]) -> bool:
        """More of them. Whether any is new."""
        known = {source.contact for source in self.sources}
        news = [Source(contact) for contact in contacts if contact not in known]
        self.sources += news
        return bool(news)

    def live(self) -> list[Source]:
        """Holders that are not left out."""
        return [source for source in self.sources if not source.dropped]

    def best(self, now: float, asked: Collection[Source]) -> Source | None:
        """The one to ask, beside those that were asked for this chunk; None: nobody now."""
        ready = [source for source in self.live() if source.pause_until <= now and source not in asked]
        return min(ready, key=lambda source: (source.behind_until > now, source.expected()), default=None)

    def wake(self, now: float, asked: Collection[Source]) -> float | None:
        """When there will be one to ask; None: never."""
        paused = [source.pause_until for source in self.live() if source.pause_until > now and source not in asked]
        return min(paused, default=None)

    def arrived(self, source: Source, seconds: float) -> None:
        """A chunk came, was verified and stored."""
        source.strikes = source.refusals = source.late = 0
        source.behind_until = 0.0
        source.seconds = seconds if source.seconds is None else 0.8 * source.seconds + 0.2 * seconds

    def failed(self, source: Source, why: TitanError, now: float) -> None:
        """No chunk: it is left out at once if it says that it has none, and after a few tries if it does not answer."""
        if isinstance(why, Overloaded):
            source.refusals += 1
            if source.refusals >= REFUSALS_MAX:
                source.dropped = source.dropped or "it stays overloaded"
            source.pause_until = now + min(PAUSE_MOST, max(0.05, why.retry_after))
        elif isinstance(why, LinkError | DeadlineExceeded):
            source.strikes += 1
            if source.strikes >= STRIKES_MAX:
                source.dropped = source.dropped or str(why) or "no answer in time"
        else:
            self.drop(source, why)

    def drop(self, source: Source, why: TitanError) -> None:
        """It sent something else, or says that it has no copy: it is not asked again."""
        source.dropped = source.dropped or str(why) or getattr(why, "code", "it failed")


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
    more: More | None = None,
    witness: Witness | None = None,
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
        parallel: chunks under way at once.
        more: asked once all sources have been, as long as it brings new ones.
        witness: told of holders that misbehave.

    Raises:
        Unavailable: no holder is left that answers. DeadlineExceeded: time ran out.
        BadMessage: the descriptor does not fit the content. StorageError, Overloaded: the sink has no room.
    """
    check_content(content)
    job = _Transfer(content_id, content, ask, sink, deadline, progress, more, witness)
    try:
        async with asyncio.timeout_at(deadline):
            await job.run(Holders(sources), max(1, parallel))
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
        more: More | None,
        witness: Witness | None,
    ) -> None:
        self._content_id = content_id
        self._what = f"sha256:{content_id.hex()[:12]}"
        self._content = content
        self._ask = ask
        self._sink = sink
        self._deadline = deadline
        self._progress = progress
        self._more = more
        self._looking = asyncio.Lock()
        self._witness = witness
        self._wrong: dict[Contact, str] = {}
        """Who sent other chunks than the manifest says: proven once the manifest is."""
        self._there = 0
        self._workers: list[asyncio.Task[None]] = []
        self._loop = asyncio.get_running_loop()

    def state(self) -> str:
        """How far it came, for errors."""
        return (
            f"{self._there} of {self._content.size} bytes of sha256:{self._content_id.hex()[:16]} are here and stay; "
            "ask again to go on"
        )

    async def run(self, holders: Holders, parallel: int) -> None:
        manifest = manifest_of_small(self._content_id, self._content)
        if manifest is None:
            manifest = await self._fetch_manifest(holders)
        await self._sink.begin(self._content_id, self._content, manifest)
        try:
            await self._fetch_chunks(holders, parallel)
            await self._sink.finish(self._content_id)
            for contact, why in self._wrong.items():
                if self._witness is not None:
                    self._witness.lied(contact.id, f"{self._what}: {why}")
        except BaseException:
            self._sink.suspend(self._content_id)
            raise

    async def _fetch_chunks(self, holders: Holders, parallel: int) -> None:
        missing = self._sink.missing(self._content_id)
        self._there = self._content.size - sum(chunk_length(self._content, index) for index in missing)
        self._report(0)
        queue = deque(missing)
        self._workers = [
            self._loop.create_task(self._work_and_end(holders, queue), name=f"fetch-{number}")
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

    async def _fetch_manifest(self, holders: Holders) -> bytes:
        """The manifest, from the first holder that has it. Who kept us waiting for it is asked last for chunks."""
        failures: list[str] = []
        outcomes = hedged(
            self._whom_to_ask(holders),
            lambda source: self._manifest_of(source.contact),
            lambda source: LATE_SECONDS + DIGEST_BYTES * chunk_count(self._content) / SLOWEST_BYTES_PER_SECOND,
            on_late=self._late,
        )
        async with aclosing(outcomes):
            async for source, outcome in outcomes:
                if isinstance(outcome, bytes):
                    return outcome
                source.kept_waiting(self._loop.time())
                failures.append(_failure(source.contact, str(outcome) or "no answer in time"))
                self._failed(source, outcome)
        raise self._given_up(failures)

    async def _manifest_of(self, source: Contact) -> bytes:
        size = DIGEST_BYTES * chunk_count(self._content)
        parts: list[bytes] = []
        for page in range(-(-size // PAGE_BYTES)):
            part = await self._request(source, Manifest(page), PATIENCE_FIRST)
            if len(part) != min(PAGE_BYTES, size - page * PAGE_BYTES):
                raise BadMessage("its manifest has another length")
            parts.append(part)
        manifest = b"".join(parts)
        check_manifest(self._content, manifest)
        return manifest

    # --- whom to ask ---

    async def _whom_to_ask(self, holders: Holders) -> AsyncIterator[Source]:
        """Holders for one question, each once, best first; waits for those that asked for a pause."""
        asked: set[Source] = set()
        while True:
            now = self._loop.time()
            source = holders.best(now, asked)
            if source is not None:
                asked.add(source)
                yield source
            elif (wake := holders.wake(now, asked)) is not None:
                await asyncio.sleep(wake - now)
            elif not await self._look_further(holders):
                return

    async def _look_further(self, holders: Holders) -> bool:
        """Whether there are holders that nobody had heard of."""
        before = len(holders.sources)
        async with self._looking:
            if len(holders.sources) > before:  # somebody else has just found some
                return True
            if self._more is None:
                return False
            try:
                found = holders.add(await self._more())
            except RemotableError:
                found = False
            if not found:
                self._more = None
            return found

    def _late(self, source: Source) -> None:
        source.kept_waiting(self._loop.time())
        if source.seconds is None and self._witness is not None:  # else it is slow, not silent
            self._witness.late(source.contact.id, self._what)

    def _failed(self, source: Source, why: TitanError) -> None:
        if self._witness is not None:
            self._witness.failed(source.contact.id, self._what, why)

    # --- the chunks ---

    async def _work_and_end(self, holders: Holders, queue: deque[int]) -> None:
        """Works until all chunks are here or the transfer has failed, and then ends the other workers."""
        try:
            while queue:
                await self._fetch_chunk(holders, queue.popleft())
        except BaseException:
            for worker in self._workers:
                if worker is not asyncio.current_task():
                    worker.cancel()
            raise

    async def _fetch_chunk(self, holders: Holders, index: int) -> None:
        """Asks until the chunk is here. Raises only what ends the transfer."""
        size = chunk_length(self._content, index)
        while holders.live():
            outcomes = hedged(
                self._whom_to_ask(holders),
                lambda source: self._chunk_of(source, index),
                lambda source: source.late_after(size),
                on_late=self._late,
            )
            async with aclosing(outcomes):
                async for source, outcome in outcomes:
                    if isinstance(outcome, TitanError):
                        holders.failed(source, outcome, self._loop.time())
                        self._failed(source, outcome)
                        continue
                    data, seconds = outcome
                    try:
                        await self._sink.put_chunk(self._content_id, index, data)
                    except BadMessage as why:
                        holders.drop(source, why)
                        self._wrong[source.contact] = str(why)
                        continue
                    holders.arrived(source, seconds)
                    if self._witness is not None:
                        self._witness.good(source.contact.id)
                    self._report(size)
                    return
        raise self._given_up([_failure(source.contact, source.dropped) for source in holders.sources])

    async def _chunk_of(self, source: Source, index: int) -> tuple[bytes, float]:
        """A chunk, not yet verified, and the seconds that it took."""
        started = self._loop.time()
        source.in_flight += 1
        try:
            data = await self._request(source.contact, Fetch(index), source.patience())
        finally:
            source.in_flight -= 1
        return data, self._loop.time() - started

    async def _request(self, contact: Contact, message: Fetch | Manifest, patience: float) -> bytes:
        until = min(self._deadline, self._loop.time() + patience)
        try:
            async with asyncio.timeout_at(until):
                body = await self._ask(contact, message.wire_type, codec.encode(message), until)
        except TimeoutError:
            raise DeadlineExceeded("no answer in time") from None
        return codec.decode(body, bytes)


def _failure(contact: Contact, why: str) -> str:
    return f"{contact.ip}:{contact.port} ({why})"
