"""Repair of a group: whoever leads replaces a member that has been silent for too long, one at a time.

silent for SUSPECT_SECONDS, or has resigned -> a node that may and would -> it is recruited, and learns
-> it has caught up -> RECONFIG: the next epoch, with it in the other's place

Whoever published the object may also have a node made a member beside the others, the same way.
"""

import asyncio
import logging
from collections.abc import Callable

from titan_overlay.errors import BadMessage, LinkError, RemotableError, StorageError, Unavailable
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Descriptor
from titan_overlay.mutable import talk
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.epochs import KeyOffer, replaced
from titan_overlay.mutable.founding import MEMBERS_MAX, Founder, Founders
from titan_overlay.mutable.group import Group
from titan_overlay.pool.keeping.recruiter import Recruiter
from titan_overlay.wire import codec

log = logging.getLogger("titan")

LOOK_SECONDS = 3.0
SUSPECT_SECONDS = 15.0
"""So long a member may restart, or its network be away."""
ASK_SECONDS = 2.0
LEARNER_SECONDS = 30.0
"""A node that only learns asks this often whether it is still wanted."""
UNNAMED_MAX = 2
"""Times in a row that the leader does not name it."""
HEARD_SECONDS = 15.0
"""By then a new member has asked for something."""
CATCH_UP_SECONDS = 120.0
EPOCH_SECONDS = 20.0
"""So long an epoch may take to begin once it is proposed."""
SAID_MAX = 32
"""Lines of the log about one member that is missing."""
CAUGHT_UP = 64
"""Heights by which a learner may be behind when it becomes a member: the rest comes while the epoch ends."""


class Repair:
    """See the module."""

    def __init__(
        self,
        group: Group,
        descriptor: Signed[Descriptor],
        object_id: ObjectId,
        *,
        absences: Absences,
        founders: Founders,
        recruiter: Recruiter,
    ) -> None:
        self._group = group
        self._descriptor = descriptor
        self._object_id = object_id
        self._absences = absences
        self._founders = founders
        self._recruiter = recruiter
        self._ask_leader_at = asyncio.get_running_loop().time() + LEARNER_SECONDS
        self._unnamed = 0
        self._busy = asyncio.Lock()
        """One member comes at a time."""
        self._admissions: dict[NodeId, asyncio.Future[None]] = {}
        self._said: set[str] = set()
        """Since all members took part: what fails at each look would fill the log."""

    async def run(self) -> None:
        """Looks after the members for as long as this node is one."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._group.is_member:
                await self._leave_if_forgotten()
                continue
            if not self._group.leads:
                continue
            if len(self._group.configuration.members) < self._group.size:
                await self._try(b"")
                continue
            silent = {each: self._absences.silent_for(each) for each in self._group.configuration.members}
            silent.pop(self._group.me, None)
            gone = max(silent, key=lambda each: silent[each], default=b"")
            if not gone or silent[gone] < SUSPECT_SECONDS:
                self._said.clear()
                continue
            await self._try(gone)

    async def _leave_if_forgotten(self) -> None:
        """A node that only learns gives the object up once whoever leads has not named it for a while.

        A leader that began to have it learn may have died, or its epoch ended.
        """
        group, now = self._group, asyncio.get_running_loop().time()
        if now < self._ask_leader_at:
            return
        self._ask_leader_at = now + LEARNER_SECONDS
        named = await self._is_named()
        self._unnamed = self._unnamed + 1 if named is False else 0
        if self._unnamed >= UNNAMED_MAX:
            log.info("%s: nobody has this node learn it any more", group.machine.name)
            group.replaced(group.configuration.epoch)

    async def _is_named(self) -> bool | None:
        """Whether the leader counts this node among those who learn, or are members; None: no leader is reached."""
        group, asked = self._group, set[bytes]()
        waiting = list(group.configuration.members)
        while waiting:
            member = waiting.pop(0)
            asked.add(member)
            try:
                answer = await group.peers.ask(member, talk.STATUS, talk.NOTHING, ASK_SECONDS)
                status = codec.decode(answer, talk.MemberStatus)
                leader = bytes.fromhex(status.leader)
            except (LinkError, RemotableError, ValueError):
                continue
            if status.role == "leader" and not status.trouble and status.epoch >= group.configuration.epoch:
                return group.me.hex() in (*status.members, *status.learners)
            if len(leader) == ID_BYTES and leader not in asked:
                waiting.insert(0, leader)
        return None

    async def _try(self, gone: bytes) -> None:
        if gone:
            self._say(f"member {gone.hex()[:12]} takes no part and is being replaced")
        try:
            await self.replace(gone)
        except RemotableError as why:
            self._say(f"no member more yet: {why}")

    def _say(self, text: str) -> None:
        if text not in self._said and len(self._said) < SAID_MAX:
            self._said.add(text)
            log.warning("%s: %s", self._group.machine.name, text)

    async def replace(self, gone: bytes) -> None:
        """Another node in the place of this member; where `gone` is empty, one more.

        Raises:
            Unavailable: there is none, or it does not keep up.
        """
        members = self._group.configuration.members
        async with self._busy:
            (founder,) = await self._founders.find(self._descriptor, self._object_id, 1, exclude=members)
            await self._include(founder, gone)

    async def admit(self, newcomer: NodeId) -> None:
        """One more member; done once it is one. Whoever gives up waiting, it goes on, and may be asked for again.

        Raises:
            NotHere: another member leads. Unavailable: it would not, or does not keep up.
            BadMessage: there are as many members as can be.
        """
        if newcomer in self._group.configuration.members:
            return
        if not self._group.leads:
            raise self._group.front.elsewhere()
        known = self._admissions.get(newcomer)
        if known is None:
            known = self._admissions[newcomer] = asyncio.get_running_loop().create_future()
            known.add_done_callback(lambda done: done.cancelled() or done.exception())  # each who waits sees it
            self._group.spawn(self._admit(newcomer, known))
        await asyncio.shield(known)

    async def _admit(self, newcomer: NodeId, done: "asyncio.Future[None]") -> None:
        group = self._group
        try:
            async with self._busy:
                if len(group.configuration.members) >= MEMBERS_MAX:
                    raise BadMessage(f"a group has at most {MEMBERS_MAX} members")
                founder = await self._founders.at(newcomer, self._descriptor)
                await self._include(founder)
                await self._until(lambda: newcomer in group.configuration.members, EPOCH_SECONDS)
            done.set_result(None)
        except RemotableError as why:
            done.set_exception(why)
        finally:
            del self._admissions[newcomer]
            done.cancel()

    async def _until(self, true: Callable[[], bool], seconds: float) -> bool:
        """Waits for something; False: it has not come true."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not true():
            if loop.time() >= until:
                return False
            await asyncio.sleep(LOOK_SECONDS / 10)
        return True

    async def _include(self, founder: Founder, gone: bytes = b"") -> None:
        """The node learns all that a member needs and becomes one, in the place of `gone` if that is given."""
        group = self._group
        await self._check_state()
        recruited = await self._recruiter.recruit(self._descriptor, count=1, only=founder.contact)
        if not recruited.accepted:
            raise Unavailable(f"{founder.contact} would, and then did not: {recruited.explain()}")
        group.set_learners((founder.contact.id,))
        group.succession.show(founder.contact.id)  # it may have begun to learn in an epoch that is over
        await self._caught_up(founder)
        if not group.leads:
            raise Unavailable("another member leads now, and will see to it")
        epoch = group.configuration.epoch
        offers = await self._offers(gone)
        if group.configuration.epoch == epoch and group.leads:
            group.front.propose_turnover(replaced(group.configuration, gone, founder.contact.id, founder.key, offers))

    async def _check_state(self) -> None:
        """Raises Unavailable: the next epoch could not begin with a state like this one, and this one would be over."""
        try:
            await self._group.states.root()
        except Exception as why:  # of the object's own
            raise Unavailable(f"the state cannot be kept, so its members stay as they are: {why}") from None

    async def _offers(self, gone: bytes) -> tuple[KeyOffer, ...]:
        """New keys of those who stay; who does not answer keeps its key."""
        group = self._group
        others = [each for each in group.configuration.members if each not in (gone, group.me)]
        try:
            mine = [await group.succession.offer()]
        except StorageError as why:
            log.warning("%s: no new voting key: %s", group.machine.name, why)
            mine = []
        answers = await asyncio.gather(*(self._offer(each) for each in others))
        return (*mine, *(each for each in answers if each is not None))

    async def _offer(self, member: bytes) -> KeyOffer | None:
        group = self._group
        try:
            offer = codec.decode(await group.peers.ask(member, talk.NEXT_KEY, talk.NOTHING, ASK_SECONDS), KeyOffer)
            group.succession.check_offer(offer, member)
        except (LinkError, RemotableError) as why:
            log.info("%s: %s keeps its voting key: %s", group.machine.name, member.hex()[:12], why)
            return None
        return offer

    async def _caught_up(self, founder: Founder) -> None:
        loop = asyncio.get_running_loop()
        began, epoch = loop.time(), self._group.configuration.epoch

        def caught_up() -> bool:
            if self._group.configuration.epoch != epoch:
                raise Unavailable("the epoch has ended meanwhile")
            status = self._group.engine.status()
            known = status.peers.get(founder.contact.id)
            reached = 0 if known is None else known.acknowledged_index
            heard = None if known is None else known.heard
            if loop.time() > began + HEARD_SECONDS and (heard is None or heard < began):
                raise Unavailable(f"nothing is heard of the new member at {founder.contact}")
            # 0: it may still be fetching the state
            return (reached > 0 and reached + CAUGHT_UP > status.committed) or not self._group.leads

        if not await self._until(caught_up, CATCH_UP_SECONDS):
            raise Unavailable(f"the new member at {founder.contact} has not caught up in {CATCH_UP_SECONDS:g} s")
