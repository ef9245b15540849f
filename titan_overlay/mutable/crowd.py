"""Asking a byzantine group: a reply is believed once more members give it than can lie.

The leader is asked first, alone, and brings codes of other members with its reply (`vouching.py`). Where that comes to
nothing all members are told.
"""

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from titan_overlay.errors import DeadlineExceeded, LinkError, NotHere, Overloaded, RemotableError, Unavailable
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable import authenticators, proofs, talk
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.membership import Membership
from titan_overlay.mutable.requests import Reply, Request
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place
from titan_overlay.wire import codec

CHAIN_SECONDS = 2.0
AGAIN_SECONDS = (0.2, 2.0)
"""Shortest and longest pause before members that gave no reply are told again."""
PATIENCE_SECONDS = (2.0, 16.0)
"""So long a round of telling waits for members that say nothing: those that could not take it yet are told again."""
LEADER_SECONDS = 2.0
"""So long the leader alone is waited for, before all are told."""
WARY_SECONDS = 10.0
"""So long all are told at once, after a leader was slow or others did not agree with it; and a member that has not said
which key it shares is left alone."""
KEY_SECONDS = 0.5
CLOSING_SECONDS = 0.05
"""Before the deadline, so that its passing is no surprise: there is time to say what was amiss."""
KNOWN_MAX = 1024


@dataclass
class _Group:
    """What a sender knows of a group's members."""

    members: tuple[bytes, ...]
    keys: dict[bytes, bytes] = field(default_factory=dict)
    """Shared with each member that has said so."""
    leader: bytes | None = None
    wary_until: float = 0.0
    keyless_until: float = 0.0
    """When those whose keys are missing are asked again."""
    introducing: "asyncio.Task[None] | None" = None


class Crowds:
    """See the module.

    Args:
        key: of the sender.
    """

    def __init__(self, membership: Membership, key: SigningKey, pool: PoolId) -> None:
        self._membership = membership
        self._key = key
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._groups: OrderedDict[bytes, _Group] = OrderedDict()
        """By genesis."""

    async def ask(self, place: Place, message: Message, asked: Request) -> Reply:
        """The reply to a request, which is signed here.

        Raises:
            Unavailable: too few members gave the same reply in time. Overloaded: t + 1 have too much to do.
            RemotableError: t + 1 refused alike.
        """
        configuration = await self._membership.current(place, message)
        group = await self._group(place, message, configuration)
        shared = [group.keys.get(each) for each in group.members]
        request = proofs.sign(asked, self._key, self._pool, message.object_id, shared)
        signed = codec.encode(request)
        if self._loop.time() >= group.wary_until and len(group.keys) > _faults(group.members):
            reply = await self._ask_leader(place, message, request, signed, group)
            if reply is not None:
                return reply
        return await self._ask_all(place, message, signed, configuration)

    async def tell(self, place: Place, message: Message, signed: bytes) -> Reply:
        """As `ask`, of a request that proves itself: all members are told."""
        return await self._ask_all(place, message, signed, await self._membership.current(place, message))

    # ---- the leader alone --------------------------------------------------------------------------------------

    async def _group(self, place: Place, message: Message, configuration: Configuration) -> _Group:
        genesis = place.descriptor.value.genesis
        group = self._groups.get(genesis)
        if group is None or group.members != configuration.members:
            group = self._groups[genesis] = _Group(configuration.members)
            while len(self._groups) > KNOWN_MAX:
                self._groups.popitem(last=False)
        if len(group.keys) < len(group.members) and self._loop.time() >= group.keyless_until:
            if group.introducing is None:
                group.introducing = self._loop.create_task(self._introduce(place, message, group))
            await asyncio.shield(group.introducing)
        return group

    async def _introduce(self, place: Place, message: Message, group: _Group) -> None:
        """Asks for the keys that are missing, of members wherever they are: afterwards there are links to all."""
        try:
            missing = [NodeId(each) for each in group.members if each not in group.keys]
            if not all(self._membership.is_within_reach(place, each) for each in missing):
                place = await self._membership.look_again(place, message)  # a look-up ends with the first holders
            until = self._loop.time() + KEY_SECONDS
            await asyncio.gather(*(self._learn(place, message, each, group, until) for each in missing))
        finally:
            group.keyless_until = self._loop.time() + WARY_SECONDS
            group.introducing = None

    async def _learn(self, place: Place, message: Message, member: NodeId, group: _Group, until: float) -> None:
        try:
            answer = await self._membership.ask(place, member, message, talk.SHARED_KEY, talk.NOTHING, until)
            group.keys[member] = codec.decode(answer, bytes)[: authenticators.KEY_BYTES]
        except (LinkError, RemotableError):
            return

    async def _ask_leader(
        self, place: Place, message: Message, request: Request, signed: bytes, group: _Group
    ) -> Reply | None:
        """None: all have to be asked."""
        left = [each for each in group.members if each != group.leader]
        member = group.leader or left.pop()
        until = min(message.deadline, self._loop.time() + LEADER_SECONDS)
        for _ in group.members:
            try:
                answer = await self._membership.ask(place, NodeId(member), message, talk.ENTRUST, signed, until)
                vouched = codec.decode(answer, talk.Vouched)
            except NotHere as why:
                group.leader = None
                if not left:
                    return None
                member = why.hint if why.hint in left else left[-1]  # or it is not known where that one is
                left.remove(member)
            except (DeadlineExceeded, Overloaded):
                group.leader = None
                group.wary_until = self._loop.time() + WARY_SECONDS  # it, or the group, has too much to do
                return None
            except (LinkError, RemotableError):
                group.leader = None
                return None
            else:
                group.leader = member
                return self._believed(vouched, member, request, message, group)
        return None

    def _believed(
        self, vouched: talk.Vouched, leader: bytes, request: Request, message: Message, group: _Group
    ) -> Reply | None:
        """The reply, if t others vouch for it."""
        said = proofs.covered(self._pool, message.object_id, request)
        others = {member: key for member, key in group.keys.items() if member != leader}
        if authenticators.count(vouched.codes, others, said, codec.encode(vouched.reply)) >= _faults(group.members):
            return vouched.reply
        if all(member in others for member, _ in vouched.codes):
            # A liar, or a member that was started again and has another key.
            group.wary_until = self._loop.time() + WARY_SECONDS
            group.keys.clear()
        return None

    # ---- all members -------------------------------------------------------------------------------------------

    async def _ask_all(self, place: Place, message: Message, signed: bytes, configuration: Configuration) -> Reply:
        pause, longest = AGAIN_SECONDS
        patience = PATIENCE_SECONDS[0]
        votes: dict[NodeId, Reply] = {}
        refusals: dict[NodeId, RemotableError] = {}
        while True:
            needed = (len(configuration.members) - 1) // 3 + 1
            left = [NodeId(each) for each in configuration.members if each not in votes]
            until = min(message.deadline - CLOSING_SECONDS, self._loop.time() + patience)
            tellings = (self._tell(place, each, message, signed, until, votes, refusals) for each in left)
            tasks = [self._loop.create_task(each) for each in tellings]
            try:
                agreed = await self._majority(tasks, votes, needed, configuration)
            finally:
                for task in tasks:
                    task.cancel()
            if agreed is not None:
                return agreed
            if len(refusals) >= needed and len({type(each) for each in refusals.values()}) == 1:
                why = next(iter(refusals.values()))
                if not why.retryable:
                    raise why
            if self._loop.time() + pause >= message.deadline - CLOSING_SECONDS:
                busy = [each for each in refusals.values() if isinstance(each, Overloaded)]
                if len(busy) >= needed:
                    raise Overloaded(str(busy[0]), retry_after=busy[0].retry_after, maybe_executed=True)
                raise Unavailable(
                    f"{len(votes)} of {len(configuration.members)} members of {place.descriptor.value.name!r} have "
                    f"replied in time, {needed} that agree are needed",
                    maybe_executed=True,
                )
            await asyncio.sleep(pause)
            pause, patience = min(2 * pause, longest), min(2 * patience, PATIENCE_SECONDS[1])
            place = await self._membership.look_again(place, message)
            configuration = await self._membership.current(place, message, fresh=True)

    async def _majority(
        self, tasks: "list[asyncio.Task[None]]", votes: dict[NodeId, Reply], needed: int, members: Configuration
    ) -> Reply | None:
        """The reply that enough members give; None: all have been heard, and there is none."""
        waiting = set(tasks)
        while True:
            counts = Counter(reply for member, reply in votes.items() if member in members.members)
            for reply, count in counts.most_common(1):
                if count >= needed:
                    return reply
            if not waiting:
                return None
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def _tell(
        self,
        place: Place,
        member: NodeId,
        message: Message,
        signed: bytes,
        deadline: float,
        votes: dict[NodeId, Reply],
        refusals: dict[NodeId, RemotableError],
    ) -> None:
        refusals.pop(member, None)
        try:
            answer = await self._membership.ask(place, member, message, talk.SUBMIT, signed, deadline)
            votes[member] = codec.decode(answer, Reply)
        except (LinkError, DeadlineExceeded):
            return
        except RemotableError as why:
            refusals[member] = why


def _faults(members: tuple[bytes, ...]) -> int:
    """How many of them may lie."""
    return (len(members) - 1) // 3
