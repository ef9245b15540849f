"""Advertising: tells the nodes near each object that this node holds it, again and again, and when it stops to.

Objects are swept in the order of their ids, once per interval, in slices. Objects of a slice are neighbours in the
id space, so they share directory nodes, and the cost of a node that holds very many grows with the number of nodes.
When the overlay has outgrown those who were told, none waits for its turn: most of the nodes that are asked came since.
"""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact, pack_address
from titan_overlay.identity.ids import ID_BITS, ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement

LIFE_INTERVALS = 2.5
"""An advertisement lives this many intervals: two may be lost."""
SLICE_SECONDS = 15.0
BATCH_MAX = 256
"""Statements handed to the overlay at once."""
JITTER = 0.1
GATHER_SECONDS = 0.02
"""New objects wait this long, so that those that come together are announced together."""
RETRY_SECONDS = (5.0, 300.0)
"""First and longest wait after an announcement that nobody took."""
GROWTH = 2.0
"""Where there are so many times the nodes of the last announcement, half of those in a region know nothing of it."""


class Announcing(Protocol):
    """What the advertiser needs of the overlay."""

    async def announce(self, object_id: ObjectId, raws: Sequence[bytes]) -> int:
        """Gives the statements to the nodes near the id; how many took them."""
        ...

    async def announce_many(self, items: Sequence[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
        """Gives each statement to the nodes near its id; how many took it."""
        ...

    def estimated_size(self) -> float:
        """Nodes in the overlay."""
        ...


class Held:
    """One object that is advertised."""

    __slots__ = (
        "added",
        "among",
        "announced",
        "expires",
        "grant",
        "lineage",
        "passing",
        "pause",
        "retry_at",
        "sequence",
        "signed",
        "signed_at",
        "version",
    )

    def __init__(
        self,
        version: int,
        passing: bool,
        expires: float,
        grant: bytes,
        lineage: bytes,
        sequence: int,
        added: float,
    ) -> None:
        self.version = version
        self.passing = passing
        self.expires = expires
        """Loop time after which it is not advertised any more."""
        self.grant = grant
        self.lineage = lineage
        self.sequence = sequence
        self.added = added
        self.signed: Signed[Advertisement] | None = None
        """The latest advertisement."""
        self.signed_at = -inf
        self.announced = -inf
        """When the directory last took one."""
        self.among = inf
        """Of how many nodes that directory was."""
        self.pause = RETRY_SECONDS[0]
        self.retry_at = inf


class Advertiser:
    """Advertises what this node holds.

    Args:
        key: of this node, the holder.
        contact: where it can be reached now; asked at each signing.
        interval: seconds between two advertisements of one object, +/- 10 %.
        remember: called with (object id, sequence) after each signing; what it keeps comes back as `sequence` of
            `add` after a restart, so that sequence numbers grow even when the wall clock went back.
    """

    def __init__(
        self,
        overlay: Announcing,
        key: SigningKey,
        pool: PoolId,
        ambient: Ambient,
        *,
        contact: Callable[[], Contact],
        interval: float,
        remember: Callable[[ObjectId, int], None] = lambda object_id, sequence: None,
    ) -> None:
        self._overlay = overlay
        self._key = key
        self._pool = pool
        self._ambient = ambient
        self._contact = contact
        self.interval = interval
        self._remember = remember
        self._held: dict[ObjectId, Held] = {}
        self._order: list[ObjectId] = []
        self._urgent: dict[ObjectId, None] = {}
        self._withdrawn: dict[ObjectId, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._position = 0.0
        """Where the sweep is, as a share of the id space."""
        self._swept_at = -inf
        self.announced = 0
        """Statements that at least one directory node took."""
        self.failed = 0

    # ---- what is held ----------------------------------------------------------------------------------------

    def add(
        self,
        object_id: ObjectId,
        *,
        version: int,
        passing: bool = False,
        expires: float = inf,
        grant: bytes = b"",
        lineage: bytes = b"",
        sequence: int = 0,
    ) -> Signed[Advertisement]:
        """Advertises the object from now on, the first time at once.

        Args:
            expires: loop time at which the replica goes; an advertisement never outlives it.
            sequence: of the last advertisement that an earlier run sent.

        Returns:
            The signed advertisement.
        """
        known = self._held.get(object_id)
        if known is None:
            insort(self._order, object_id)
        else:
            sequence = max(sequence, known.sequence)
        now = asyncio.get_running_loop().time()
        held = self._held[object_id] = Held(version, passing, expires, grant, lineage, sequence, now)
        self._withdrawn.pop(object_id, None)
        signed = self._sign(object_id, held)
        self._urge([object_id])
        return signed

    async def announce_now(self, object_id: ObjectId) -> int:
        """Advertises an object that was just added without waiting for others; how many directory nodes took it."""
        held = self._held.get(object_id)
        if held is None or held.signed is None:
            return 0
        self._urgent.pop(object_id, None)
        signed = held.signed
        try:
            taken = await self._overlay.announce(object_id, [signed.raw])
        except (LinkError, RemotableError, OSError):
            taken = 0
        self._note(object_id, signed, taken)
        return taken

    def remove(self, object_id: ObjectId) -> None:
        """The replica is gone: stops advertising it and sends a withdrawal soon."""
        held = self._held.pop(object_id, None)
        if held is None:
            return
        at = bisect_left(self._order, object_id)
        del self._order[at]
        self._urgent.pop(object_id, None)
        self._withdrawn[object_id] = self._withdrawal(object_id, held)
        self._ring()

    def current(self, object_id: ObjectId) -> Signed[Advertisement] | None:
        """The current advertisement, or None where the object is not held or its advertisement ran out."""
        held = self._held.get(object_id)
        if held is None:
            return None
        now = asyncio.get_running_loop().time()
        if now - held.signed_at > 2 * self.interval:
            self._sign(object_id, held)  # the sweep is late; an answer to a lookup need not be
        return held.signed if now < held.expires else None

    def moved(self) -> None:
        """The address has changed: everything is advertised anew, at once and in the order of ids."""
        for object_id, held in self._held.items():
            self._sign(object_id, held)
        self._urge(self._order)

    def lag(self) -> float:
        """Seconds by which the object that waits longest is late; 0 when all are in time."""
        now = asyncio.get_running_loop().time()
        late = (1 + JITTER) * self.interval + 2 * SLICE_SECONDS
        waits = (now - max(held.announced, held.added - late) for held in self._held.values())
        return max(0.0, max(waits, default=0.0) - late)

    # ---- life-cycle ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to sweep, at a random place."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._wake = asyncio.Event()
            self._position = self._ambient.random.random()
            self._swept_at = loop.time()
            if self._urgent or self._withdrawn:
                self._wake.set()
            self._task = loop.create_task(self._run())

    async def stop(self, *, withdraw: bool = True, timeout: float = 2.0) -> None:
        """Stops; with `withdraw`, tells the directory first that nothing is held here any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if not withdraw:
            return
        for object_id in list(self._order):
            self._withdrawn[object_id] = self._withdrawal(object_id, self._held[object_id])
        self._held.clear()
        self._order.clear()
        self._urgent.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._send_withdrawals()
        except TimeoutError:
            self.failed += len(self._withdrawn)

    async def _run(self) -> None:
        assert self._wake is not None
        loop = asyncio.get_running_loop()
        pause = min(SLICE_SECONDS, self.interval / 4)
        while True:
            try:
                async with asyncio.timeout_at(self._next_turn(pause)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(GATHER_SECONDS)
                self._wake.clear()
            await self._send_withdrawals()
            urgent, self._urgent = sorted(self._urgent), {}
            await self._announce(urgent)
            now = loop.time()
            if now >= self._swept_at + pause:
                await self._announce(self._slice(now))
                await self._announce(self._outgrown())
            await self._announce([each for each in self._order if self._held[each].retry_at <= loop.time()])

    def _next_turn(self, pause: float) -> float | None:
        """Loop time of the next slice or retry; None while nothing is held."""
        if not self._held:
            return None
        retry = min(held.retry_at for held in self._held.values()) if self.failed else inf
        return max(min(self._swept_at + pause, retry), asyncio.get_running_loop().time())

    def _slice(self, now: float) -> list[ObjectId]:
        """The objects that the sweep passes between where it was and where it should be now."""
        period = self.interval * (1 + JITTER * (2 * self._ambient.random.random() - 1))
        passed = min(1.0, (now - self._swept_at) / period)
        self._swept_at = now
        first, last = self._position, self._position + passed
        self._position = last % 1.0
        begin, end = bisect_left(self._order, _place(first)), bisect_right(self._order, _place(last))
        chosen = self._order[begin:end]
        if last > 1.0:
            chosen += self._order[: min(begin, bisect_right(self._order, _place(last - 1.0)))]
        # What was announced a moment ago, because it is new, has its turn in the next round.
        fresh = now - self.interval / 2
        return [each for each in chosen if self._held[each].announced < fresh and now < self._held[each].expires]

    def _outgrown(self) -> list[ObjectId]:
        now, enough = asyncio.get_running_loop().time(), self._overlay.estimated_size() / GROWTH

        def is_due(held: Held) -> bool:
            return held.among <= enough and held.retry_at == inf and now < held.expires

        return [each for each in self._order if is_due(self._held[each])]

    # ---- sending ---------------------------------------------------------------------------------------------

    async def _announce(self, object_ids: Sequence[ObjectId]) -> None:
        loop = asyncio.get_running_loop()
        for start in range(0, len(object_ids), BATCH_MAX):
            batch: dict[ObjectId, Signed[Advertisement]] = {}
            for object_id in object_ids[start : start + BATCH_MAX]:
                held = self._held.get(object_id)
                if held is None:
                    continue  # gone while an earlier batch was on its way
                signed = held.signed
                if signed is None or loop.time() - held.signed_at > self.interval / 2:
                    signed = self._sign(object_id, held)
                batch[object_id] = signed
            taken = await self._hand_over([(object_id, signed.raw) for object_id, signed in batch.items()])
            for object_id, signed in batch.items():
                self._note(object_id, signed, taken.get(object_id, 0))

    def _note(self, object_id: ObjectId, signed: Signed[Advertisement], taken: int) -> None:
        held = self._held.get(object_id)
        if held is None or held.signed is not signed:
            return  # gone, or signed anew meanwhile and on its way again
        now = asyncio.get_running_loop().time()
        if taken > 0:
            self.announced += 1
            held.announced, held.pause, held.retry_at = now, RETRY_SECONDS[0], inf
            held.among = self._overlay.estimated_size()
        else:
            self.failed += 1
            held.retry_at = now + held.pause
            held.pause = min(2 * held.pause, RETRY_SECONDS[1])

    async def _send_withdrawals(self) -> None:
        while self._withdrawn:
            some = sorted(self._withdrawn)[:BATCH_MAX]
            await self._hand_over([(each, self._withdrawn.pop(each)) for each in some])

    async def _hand_over(self, items: list[tuple[ObjectId, bytes]]) -> dict[ObjectId, int]:
        if not items:
            return {}
        try:
            return await self._overlay.announce_many(items)
        except (LinkError, RemotableError, OSError):
            return {}  # counted as failed by the caller, and tried again

    def _urge(self, object_ids: Sequence[ObjectId]) -> None:
        self._urgent.update((each, None) for each in object_ids)
        self._ring()

    def _ring(self) -> None:
        if self._wake is not None:
            self._wake.set()

    # ---- signing ---------------------------------------------------------------------------------------------

    def _sign(self, object_id: ObjectId, held: Held) -> Signed[Advertisement]:
        now = asyncio.get_running_loop().time()
        life = min(LIFE_INTERVALS * self.interval, held.expires - now)
        held.signed = signed = self._statement(object_id, held, life, withdrawn=False)
        held.signed_at = now
        return signed

    def _withdrawal(self, object_id: ObjectId, held: Held) -> bytes:
        # It outlives every advertisement that it takes back.
        return self._statement(object_id, held, LIFE_INTERVALS * self.interval, withdrawn=True).raw

    def _statement(self, object_id: ObjectId, held: Held, life: float, *, withdrawn: bool) -> Signed[Advertisement]:
        wall = self._ambient.wall()
        held.sequence = max(held.sequence + 1, int(wall * 1000))
        here = self._contact()
        statement = Advertisement(
            object_id=object_id,
            host=here.ip,
            port=here.port,
            sequence=held.sequence,
            expires=wall + life,
            version=held.version,
            withdrawn=withdrawn,
            passing=held.passing,
            grant=b"" if withdrawn else held.grant,
            other=pack_address(here.other) if here.other else b"",
            lineage=b"" if withdrawn else held.lineage,
        )
        if not withdrawn:
            self._remember(object_id, held.sequence)
        return records.sign(statement, self._key, self._pool)


def _place(share: float) -> bytes:
    """The id at this share of the id space; above all ids at its end."""
    if share >= 1.0:
        return b"\xff" * (ID_BITS // 8)
    return int(share * 2**64).to_bytes(8, "big") + bytes(ID_BITS // 8 - 8)
