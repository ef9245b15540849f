"""A quorum that is lost for good: the owner gives it up, and the members that are left go on by themselves.

    owner -- order, signed --> members that are left: where they may lie they first tell each other what they know
    owner -- the same -------> they stop, execute what their logs have, and say where they stand
    owner signs the start of a new epoch, from the longest log --> they begin it, and grow to the policy's number again

The signature is a link of the chain of epochs like a quorum's, so whoever has the descriptor believes it. What the
members that were lost had acknowledged, and none that is left has in its log, is gone. Should lost ones come back after
all, they are shown the chain, and give their places up.
"""

import asyncio
from collections import Counter
from typing import NamedTuple

import msgspec

from titan_overlay.errors import BadMessage, Conflict, Forbidden, LinkError, RemotableError, Unavailable
from titan_overlay.identity.ids import NodeId, PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.mutable import talk
from titan_overlay.mutable.caller import GroupCaller
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import (
    EPOCHS_SKIPPED,
    Certificate,
    Chain,
    Legacy,
    RecoveryOrder,
    Start,
    configuration_hash,
    configured,
    covered_recovery,
    key_of,
)
from titan_overlay.mutable.health import GroupHealth
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place
from titan_overlay.wire import codec

ASK_SECONDS = 5.0
LEVEL_SECONDS = 10.0
"""So long members that may lie are waited for until all have executed the same; then enough of them will do."""
LOOK_SECONDS = 0.25


class RecoveryPlan(msgspec.Struct, frozen=True):
    """What a recovery would do. Heights are as the members that answer have them."""

    name: str
    epoch: int
    """That is given up."""
    left: tuple[str, ...]
    """Ids of the members that go on, hexadecimal."""
    lost: tuple[str, ...]
    """Ids of those that are given up."""
    height: int
    """Up to which the order is known to be agreed."""
    last: int
    """The end of the longest log that is left."""

    @property
    def says(self) -> str:
        """What is kept, and what may be lost."""
        return (
            f"{self.name} has lost its quorum: {len(self.lost)} of {len(self.left) + len(self.lost)} members do not "
            f"answer. If they only are away for a while, wait: nothing is lost then. A recovery goes on without them "
            f"from the longest log of the {len(self.left)} left, which ends at height {self.last}. Messages that were "
            "acknowledged and are in none of these logs WILL BE LOST, and one that was sent with once= may be executed "
            "again. The members that are given up can never come back."
        )


class _Group(NamedTuple):
    chain: Chain
    configuration: Configuration


class Recovery:
    """One attempt, of one object."""

    def __init__(self, caller: GroupCaller, place: Place, message: Message, pool: PoolId) -> None:
        self._caller = caller
        self._place = place
        self._message = message
        self._pool = pool
        self._charter = caller.membership.charter(place, message.object_id)
        self._loop = asyncio.get_running_loop()

    async def plan(self) -> RecoveryPlan:
        """What it would do.

        Raises:
            Conflict: a quorum takes part. Unavailable: no member answers.
        """
        health: GroupHealth = await self._caller.health(self._place, self._message.object_id, self._message.deadline)
        left = [each for each in health.members if each.role not in ("silent", "out")]
        name = self._place.descriptor.value.name
        if health.present >= health.quorum:
            raise Conflict(f"{health.present} members of {name!r} take part, a quorum: there is nothing to recover")
        if not left:
            raise Unavailable(f"no member of {name!r} that has its state answers: wait for one, or publish it anew")
        return RecoveryPlan(
            name=name,
            epoch=health.epoch,
            left=tuple(each.node for each in left),
            lost=tuple(each.node for each in health.members if each not in left),
            height=health.committed,
            last=max(each.last for each in left),
        )

    async def carry_out(self, plan: RecoveryPlan, key: SigningKey) -> int:
        """Does it; the epoch that has begun.

        Raises:
            Forbidden: the key is not the owner's. Conflict: a quorum is there after all.
            Unavailable: a member that is left does not answer any more; it can be tried again.
        """
        if key.public != self._charter.owner:
            raise Forbidden(
                f"{plan.name!r} was published by key {fingerprint(self._charter.owner)}; only that key may recover it, "
                f"and this one is {fingerprint(key.public)}"
            )
        group = await self._group(plan)
        old = group.configuration
        left = [bytes.fromhex(each) for each in plan.left]
        new = configured(old.epoch + EPOCHS_SKIPPED, [(each, key_of(old, each)) for each in left])
        order = RecoveryOrder(self._message.object_id, configuration_hash(old), new)
        signature = key.sign(covered_recovery(self._pool, codec.encode(order)))
        asked = codec.encode(talk.Recover(order, signature))
        liars = self._charter.liars(old)
        if liars:
            await self._level(left, asked, liars + 1)
        answers = [await self._ask(each, talk.RECOVER, asked) for each in left]
        start = self._best([codec.decode(each, Legacy) for each in answers], order, liars)
        certificate = Certificate(start, (), key.sign(covered_recovery(self._pool, start)))
        chain = Chain(group.chain.genesis, (*group.chain.certificates, certificate))
        self._charter.current(chain)
        await self._begin(codec.encode(chain), new)
        return new.epoch

    async def _group(self, plan: RecoveryPlan) -> _Group:
        """The latest chain that the members left have."""
        best: _Group | None = None
        for node in plan.left:
            chain = codec.decode(await self._ask(bytes.fromhex(node), talk.EPOCHS, talk.NOTHING), Chain)
            found = _Group(chain, self._charter.current(chain))
            if best is None or found.configuration.epoch > best.configuration.epoch:
                best = found
        assert best is not None, "a plan has members"
        if best.configuration.epoch != plan.epoch:
            raise Conflict(f"epoch {plan.epoch} of {plan.name!r} has ended meanwhile; look again")
        return best

    async def _level(self, left: list[bytes], order: bytes, needed: int) -> None:
        """Who has stopped catches up no more, and a state counts that enough members have: so they come to it before.

        Raises:
            Unavailable: too few stand at the same height. All take part as before, and it can be tried again.
        """
        await asyncio.gather(*(self._ask(each, talk.CATCH_UP, order) for each in left))
        until = min(self._message.deadline, self._loop.time() + LEVEL_SECONDS)
        while True:
            statuses = await asyncio.gather(*(self._ask(each, talk.STATUS, talk.NOTHING) for each in left))
            heights = Counter(codec.decode(each, talk.MemberStatus).executed for each in statuses)
            most = max(heights.values())
            if most == len(left):
                return
            if self._loop.time() >= until:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if most < needed:
            raise Unavailable(
                f"{needed} members must stand at the same height, since fewer may lie; these stand at "
                f"{', '.join(map(str, sorted(heights)))}: nothing has been given up, try again in a while"
            )

    def _best(self, legacies: list[Legacy], order: RecoveryOrder, liars: int) -> bytes:
        """From where the group goes on: the log that may have most; where members may lie, what enough of them say.

        Raises:
            Unavailable: there is nothing that t + 1 of them agree on. BadMessage: a member answered something else.
        """
        starts = {each.start: codec.decode(each.start, Start) for each in legacies}
        for start in starts.values():
            if (start.object_id, start.previous) != (order.object_id, order.previous):
                raise BadMessage("a member speaks of another group")
            if configuration_hash(start.configuration) != configuration_hash(order.configuration):
                raise BadMessage("a member speaks of other members")
        needed = liars + 1
        agreed = [each for each, count in Counter(each.start for each in legacies).items() if count >= needed]
        if not agreed:
            raise Unavailable(f"{needed} members must agree on a state, since fewer may lie, and they do not")
        terms = {each.start: each.term for each in legacies}
        return max(agreed, key=lambda each: (terms[each], starts[each].final))

    async def _begin(self, chain: bytes, new: Configuration) -> None:
        """Shows the chain until a quorum of the new epoch takes part in it."""
        needed, begun = self._charter.quorum(new), 0
        while begun < needed:
            if self._loop.time() >= self._message.deadline:
                raise Unavailable(f"{begun} of {needed} members have begun the new epoch so far; look again in a while")
            await asyncio.sleep(LOOK_SECONDS)
            begun = 0
            for member in new.members:
                try:
                    await self._ask(member, talk.CHAIN, chain)
                    status = codec.decode(await self._ask(member, talk.STATUS, talk.NOTHING), talk.MemberStatus)
                except Unavailable:
                    continue
                begun += status.epoch == new.epoch and not status.trouble

    async def _ask(self, member: bytes, type: str, body: bytes) -> bytes:
        until = min(self._message.deadline, self._loop.time() + ASK_SECONDS)
        try:
            return await self._caller.membership.ask(self._place, NodeId(member), self._message, type, body, until)
        except (Conflict, Forbidden, BadMessage):
            raise
        except (LinkError, RemotableError) as why:
            raise Unavailable(f"member {member.hex()[:12]} does not answer any more: {why}") from None
