"""Asking a byzantine group: all members are told, and a reply is believed once more of them give it than can lie."""

import asyncio
from collections import Counter

from titan_overlay.errors import DeadlineExceeded, LinkError, RemotableError, Unavailable
from titan_overlay.identity.ids import NodeId
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.membership import Membership
from titan_overlay.mutable.requests import Reply
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place
from titan_overlay.wire import codec

CHAIN_SECONDS = 2.0
AGAIN_SECONDS = (0.2, 2.0)
"""Shortest and longest pause before members that gave no reply are told again."""
PATIENCE_SECONDS = (2.0, 16.0)
"""So long a round of telling waits for members that say nothing: those that could not take it yet are told again."""
KNOWN_MAX = 1024
NOTHING = codec.encode(None)


class Crowds:
    """See the module."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._loop = asyncio.get_running_loop()

    async def ask(self, place: Place, message: Message, signed: bytes) -> Reply:
        """The reply to a signed request.

        Raises:
            Unavailable: too few members gave the same reply in time. RemotableError: t + 1 refused alike.
        """
        pause, longest = AGAIN_SECONDS
        patience = PATIENCE_SECONDS[0]
        votes: dict[NodeId, Reply] = {}
        refusals: dict[NodeId, RemotableError] = {}
        configuration = await self._membership.current(place, message)
        while True:
            needed = (len(configuration.members) - 1) // 3 + 1
            left = [NodeId(each) for each in configuration.members if each not in votes]
            until = min(message.deadline, self._loop.time() + patience)
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
            if self._loop.time() + pause >= message.deadline:
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
        try:
            answer = await self._membership.ask(place, member, message, talk.SUBMIT, signed, deadline)
            votes[member] = codec.decode(answer, Reply)
        except (LinkError, DeadlineExceeded):
            return
        except RemotableError as why:
            refusals[member] = why
