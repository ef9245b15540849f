"""What users ask of mutable objects (`journal.py`), whether the answers are right, and for how long there were none."""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from titan_overlay.ambient import Random
from titan_overlay.client import Pool
from titan_overlay.errors import TitanError
from titan_overlay.identity.ids import ObjectId
from titan_simulations.journal import Append, Entries

READ_BACK = 16
"""Places of the journal that a read looks at anew."""
ASK_AT_THE_END_SECONDS = 30.0
WRONG = "wrong answer"


class Book:
    """One object, and what its users know of it."""

    __slots__ = (
        "acknowledged", "answers", "failures", "lost", "name", "object_id", "operations", "seen", "sent", "size",
        "twice",
    )  # fmt: skip

    def __init__(self, name: str, object_id: ObjectId, size: int) -> None:
        self.name = name
        self.object_id = object_id
        self.size = size
        """Members that it should have."""
        self.sent = self.operations = 0
        self.acknowledged: dict[int, int] = {}
        """Place in the journal -> the number that was acknowledged to be there."""
        self.seen = 0
        """Places that the journal had at least."""
        self.lost: set[int] = set()
        """Numbers that were acknowledged, and then were not where they should be."""
        self.twice = 0
        """Numbers that stand there more than once."""
        self.answers: list[float] = []
        """When a request was answered rightly, in order."""
        self.failures: list[float] = []
        """When those were sent that came to nothing."""

    @property
    def answered(self) -> int:
        """Requests that were answered rightly."""
        return len(self.answers)

    def next_number(self) -> int:
        """A number that was not written yet."""
        self.sent += 1
        return self.sent

    def wrote(self, number: int, place: int) -> bool:
        """A write was acknowledged. False: that cannot be."""
        right = place >= 0 and self.acknowledged.setdefault(place, number) == number
        self.seen = max(self.seen, place + 1)
        return right

    def read(self, first: int, numbers: Sequence[int], known: dict[int, int], seen: int) -> bool:
        """A read was answered. False: it misses what was acknowledged, or seen, before it was asked."""
        missing = {
            number
            for place, number in known.items()
            if place >= first and (place - first >= len(numbers) or numbers[place - first] != number)
        }
        self.lost |= missing
        right = not missing and first + len(numbers) >= seen
        self.seen = max(self.seen, first + len(numbers))
        return right

    def read_whole(self, numbers: Sequence[int]) -> bool:
        """As `read`, at the end: no number that nobody wrote, none twice."""
        self.twice += len(numbers) - len(set(numbers))
        right = self.read(0, numbers, self.acknowledged, self.seen)
        return right and all(0 < number <= self.sent for number in numbers)

    def recent(self, first: int) -> dict[int, int]:
        """What was acknowledged from that place on."""
        return {place: self.acknowledged[place] for place in range(first, self.seen) if place in self.acknowledged}

    def succeeded(self, now: float) -> None:
        """A request was answered rightly."""
        self.answers.append(now)

    def failed(self, began: float) -> None:
        """A request that was sent then came to nothing."""
        self.failures.append(began)

    def outages(self, end: float) -> list[float]:
        """How long each lasted: from the first request that came to nothing to the next answer, or the end."""
        began: dict[float, float] = {}
        for failure in sorted(self.failures):
            place = bisect_right(self.answers, failure)
            began.setdefault(self.answers[place] if place < len(self.answers) else end, failure)
        return [ended - first for ended, first in began.items()]


class Operations:
    """Writes and linearizable reads, and what became of them.

    Args:
        clients: programs that stay up; each request goes through one of them.
    """

    def __init__(self, books: Sequence[Book], clients: Sequence[Pool], random: Random, write_share: float) -> None:
        self.books = books
        self.failures: Counter[str] = Counter()
        self.write_seconds: list[float] = []
        self.read_seconds: list[float] = []
        self._clients = clients
        self._random = random
        self._write_share = write_share

    async def one(self) -> None:
        """A request to one object."""
        book, client = self._random.choice(self.books), self._random.choice(self._clients)
        writes = self._random.random() < self._write_share
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            right = await (self._write(book, client) if writes else self._read(book, client))
            failure = "" if right else WRONG
        except TitanError as why:
            failure = type(why).__name__
        book.operations += 1
        if failure:
            self.failures[failure] += 1
            book.failed(began)
            return
        book.succeeded(loop.time())
        (self.write_seconds if writes else self.read_seconds).append(loop.time() - began)

    async def _write(self, book: Book, client: Pool) -> bool:
        number = book.next_number()
        return book.wrote(number, await client.send(book.name, Append(number)))

    async def _read(self, book: Book, client: Pool) -> bool:
        first, seen = max(0, book.seen - READ_BACK), book.seen
        known = book.recent(first)
        return book.read(first, await client.read(book.name, Entries(first)), known, seen)

    async def ask_all(self, patience: float) -> list[Book]:
        """Reads every journal whole; which do not answer within `patience` seconds."""
        slots = asyncio.Semaphore(32)
        silent: list[Book] = []

        async def ask(book: Book) -> None:
            async with slots:
                if not await self._read_whole(book, patience):
                    silent.append(book)

        await asyncio.gather(*map(ask, self.books))
        return sorted(silent, key=lambda book: book.name)

    async def _read_whole(self, book: Book, patience: float) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until:
            try:
                numbers = await self._random.choice(self._clients).read(
                    book.name, Entries(0), timeout=ASK_AT_THE_END_SECONDS
                )
            except TitanError:
                await asyncio.sleep(1.0)
                continue
            if not book.read_whole(numbers):
                self.failures[WRONG] += 1
            return True
        return False
