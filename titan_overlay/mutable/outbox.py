"""The outbox of a mutable object at one member: brings what is in it to where it belongs, as often as it takes.

Where members are believed, whoever leads does it. Where they may lie, each signs what it finds in its outbox and tells
the others; t + 1 signatures are a seal (`letters.py`), with which t + 1 members bring the message at once and the
others later. A message leaves once t + 1 have had ordered that it has arrived, so no liar can lose it, or hold it back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from titan_overlay.errors import BadMessage, Gone, LinkError, RemotableError, RemoteError
from titan_overlay.identity import names
from titan_overlay.mutable import letters, talk
from titan_overlay.mutable.epochs import Charter
from titan_overlay.mutable.instance import OUTBOX_MAX
from titan_overlay.mutable.letters import Seal
from titan_overlay.mutable.machine import Later
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

PAUSE_SECONDS = (0.2, 30.0)
"""Shortest and longest pause before a message is brought, or said to have arrived, again."""
GONE_TIMES = 12
"""Told so often in a row, over minutes, that its target was deleted, a message has come to nothing: until then it might
be published anew. Of a target that is not found nobody knows whether it comes back."""
BEHIND_SECONDS = 2.0
"""So long each further member waits for those before it."""

Deliver = Callable[[Later, bytes], Awaitable[None]]
"""Brings a message with its seal; done when it has arrived."""


class Outbox:
    """See the module.

    Args:
        descriptor: of the object, as signed.
    """

    def __init__(self, group: "Group", charter: Charter, descriptor: bytes, deliver: Deliver) -> None:
        self._group = group
        self._charter = charter
        self._descriptor = descriptor
        self._deliver = deliver
        self._bringing: dict[int, asyncio.Event] = {}
        """By number: set when there is something new about it."""
        self._signed: dict[int, dict[bytes, bytes]] = {}
        """By number: signatures of members, with their keys of this epoch."""

    @property
    def _acts(self) -> bool:
        group = self._group
        return not group.is_absent and group.is_member and (group.byzantine or group.leads)

    def drain(self) -> None:
        """Begins with what is new, and is done with what has left."""
        machine = self._group.machine
        for number in [each for each in self._signed if each <= machine.numbers and each not in machine.outbox]:
            del self._signed[number]
            if number in self._bringing:
                self._bringing[number].set()
        if not machine.outbox or not self._acts:
            return
        fresh = [each for each in machine.outbox if each not in self._bringing]
        for number in fresh:
            self._bringing[number] = asyncio.Event()
            self._group.spawn(self._bring(machine.outbox[number]))
        if fresh:
            self._say(fresh)

    def begin_epoch(self) -> None:
        """Members have other keys from now on."""
        self._signed.clear()
        old = list(filter(self._still, self._bringing))
        self.drain()
        if old:
            self._say(old)

    # ---- signatures ----------------------------------------------------------------------------------------------

    def _say(self, numbers: Iterable[int]) -> None:
        """Signs, and tells the others."""
        outbox, me = self._group.machine.outbox, self._group.me
        said = []
        for number in numbers:
            signatures = self._signed.setdefault(number, {})
            signatures[me] = signatures.get(me) or self._group.succession.sign(self._covered(outbox[number]))
            said.append((number, signatures[me]))
        self._post(talk.SEALS, said)

    def _post(self, type: str, signatures: "list[tuple[int, bytes]]") -> None:
        group = self._group
        if group.byzantine:
            body = codec.encode(talk.Signed(group.configuration.epoch, tuple(signatures)))
            for each in group.configuration.members:
                if each != group.me:
                    group.peers.post(each, type, body)

    def signed(self, member: bytes, signed: talk.Signed) -> None:
        """What another member has signed: it is looked at once there are enough, and may be ahead of this member."""
        group = self._group
        if signed.epoch != group.configuration.epoch or member not in group.configuration.members:
            return
        last, enough = group.machine.numbers, self._charter.liars(group.configuration) + 1
        for number, signature in signed.signatures[:OUTBOX_MAX]:
            if number in group.machine.outbox or last < number <= last + OUTBOX_MAX:
                signatures = self._signed.setdefault(number, {})
                had = len(signatures)
                signatures[member] = signature
                if had < len(signatures) == enough and number in self._bringing:
                    self._bringing[number].set()

    def _covered(self, later: Later) -> bytes:
        charter = self._charter
        letter = letters.letter(charter.object_id, later.number, later.type, later.body)
        target = names.object_id(charter.pool, later.name)
        return letters.covered(charter.pool, self._group.configuration.epoch, letter, target)

    def _seal(self, later: Later) -> bytes | None:
        """None: too few have signed it yet."""
        configuration = self._group.configuration
        found = letters.signers(configuration, self._signed.get(later.number, {}), self._covered(later))
        self._signed[later.number] = found
        enough = self._charter.liars(configuration) + 1
        if len(found) < enough:
            return None
        chain = codec.encode(self._group.succession.chain)
        return codec.encode(Seal(self._descriptor, chain, tuple(sorted(found.items())[:enough])))

    # ---- one message ---------------------------------------------------------------------------------------------

    async def _bring(self, later: Later) -> None:
        number, arrived, gone = later.number, False, 0
        pause, longest = PAUSE_SECONDS
        try:
            await asyncio.sleep(BEHIND_SECONDS * self._rank())
            while self._still(number):
                seal = self._seal(later)
                try:
                    if seal is not None and not arrived:
                        arrived, gone = await self._has_arrived(later, seal), 0
                except Gone as why:
                    gone += 1
                    arrived = gone >= GONE_TIMES
                    log.log(logging.WARNING if arrived else logging.INFO, "%s: %s", self._group.machine.name, why)
                if arrived and self._still(number):
                    self._tell(number)
                quiet = await self._rest(number, pause)
                if quiet and not arrived and self._still(number):
                    self._say([number])
                pause = min(pause * 2, longest)
        finally:
            del self._bringing[number]
            self._signed.pop(number, None)

    def _still(self, number: int) -> bool:
        return self._acts and number in self._group.machine.outbox

    def _rank(self) -> int:
        """How many more than t members bring it before this one: those from the leader on in the configuration."""
        group = self._group
        members = group.configuration.members
        first = members.index(group.engine.leader) if group.engine.leader in members else 0
        return max(0, (members.index(group.me) - first) % len(members) - self._charter.liars(group.configuration))

    async def _rest(self, number: int, seconds: float) -> bool:
        """Until there is something new; True: there was nothing in all that time."""
        news = self._bringing[number]
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            return True
        news.clear()
        return False

    async def _has_arrived(self, later: Later, seal: bytes) -> bool:
        """Raises Gone: where it belongs was deleted."""
        name = self._group.machine.name
        try:
            await self._deliver(later, seal)
        except (RemoteError, BadMessage) as why:
            log.warning("%s: %r took its message, and it came to nothing: %s", name, later.name, why)
        except Gone:
            raise
        except (RemotableError, LinkError) as why:
            log.info("%s: %r does not take its message yet: %s", name, later.name, why)
            return False
        return True

    def _tell(self, number: int) -> None:
        """Has ordered that it has arrived."""
        group, charter = self._group, self._charter
        epoch = group.configuration.epoch
        signature = group.succession.sign(letters.covered_arrival(charter.pool, charter.object_id, epoch, number))
        try:
            ordered = group.front.submit(letters.arrival(group.me, number, signature), group.me)
        except RemotableError as why:
            log.info("%s: cannot say yet that a message has arrived: %s", group.machine.name, why)
        else:
            ordered.add_done_callback(lambda done: done.cancelled() or done.exception())  # it is said again
        self._post(talk.ARRIVED, [(number, signature)])
