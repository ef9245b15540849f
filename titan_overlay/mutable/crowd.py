"""Asking a byzantine group: all members are told, and a reply is believed once more of them give it than can lie."""

import asyncio
from collections import Counter, OrderedDict

from titan_overlay.ambient import Ambient
from titan_overlay.errors import DeadlineExceeded, LinkError, RemotableError, Unavailable
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.links.links import Links
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Chain, Charter
from titan_overlay.mutable.requests import Reply
from titan_overlay.pool.context import Sender
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place, Places
from titan_overlay.pool.hosting.host import Host
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

    def __init__(self, places: Places, links: Links, host: Host, me: Sender, pool: PoolId, ambient: Ambient) -> None:
        self._places = places
        self._links = links
        self._host = host
        self._me = me
        self._pool = pool
        self._ambient = ambient
        self._loop = asyncio.get_running_loop()
        self._members: OrderedDict[bytes, Configuration] = OrderedDict()

    async def ask(self, place: Place, message: Message, signed: bytes) -> Reply:
        """The reply to a signed request.

        Raises:
            Unavailable: too few members gave the same reply in time. RemotableError: t + 1 refused alike.
        """
        pause, longest = AGAIN_SECONDS
        patience = PATIENCE_SECONDS[0]
        votes: dict[NodeId, Reply] = {}
        refusals: dict[NodeId, RemotableError] = {}
        configuration = await self._configuration(place, message)
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
            place = await self._look_again(place, message)
            configuration = await self._configuration(place, message, fresh=True)

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
            if member == self._host.holder and self._host.get(message.object_id) is not None:
                answer = await self._host.deliver(
                    self._me, message.object_id, talk.SUBMIT, signed, deadline=deadline, chain=message.chain
                )
                assert isinstance(answer, bytes), "a stream was not asked for"
            else:
                contact = self._contact(place, member)
                if contact is None:
                    return
                answer = await self._links.request(
                    contact, message.object_id, talk.SUBMIT, signed, deadline=deadline, chain=message.chain
                )
            votes[member] = codec.decode(answer, Reply)
        except (LinkError, DeadlineExceeded):
            return
        except RemotableError as why:
            refusals[member] = why

    def _contact(self, place: Place, member: NodeId) -> Contact | None:
        for each in place.holders:
            if each.signer == member:
                return place.contact(each)
        peer = self._links.peer_of(member)
        return None if peer is None else Contact(peer.id, peer.ip, peer.port)

    async def _configuration(self, place: Place, message: Message, *, fresh: bool = False) -> Configuration:
        """Who the members are, proven from the descriptor on; never an earlier epoch than one seen before."""
        known = self._members.get(place.descriptor.value.genesis)
        if known is not None and not fresh:
            return known
        value = place.descriptor.value
        charter = Charter(message.object_id, self._pool, value.genesis, byzantine=True)
        deadline = min(message.deadline, self._loop.time() + CHAIN_SECONDS)

        async def show(contact: Contact) -> Configuration | None:
            try:
                body = await self._links.request(
                    contact, message.object_id, talk.EPOCHS, NOTHING, deadline=deadline, chain=message.chain
                )
                return charter.current(codec.decode(body, Chain))
            except (LinkError, RemotableError):
                return None

        contacts = [place.contact(each) for each in place.holders if each.signer != self._host.holder]
        shown = [each for each in await asyncio.gather(*map(show, contacts)) if each is not None]
        here = self._host.get(message.object_id)
        if here is not None:
            answer = await self._host.deliver(self._me, message.object_id, talk.EPOCHS, NOTHING, deadline=deadline)
            assert isinstance(answer, bytes), "a stream was not asked for"
            shown.append(charter.current(codec.decode(answer, Chain)))
        latest = max(shown + ([known] if known is not None else []), key=lambda each: each.epoch, default=None)
        if latest is None:
            raise Unavailable(f"nobody shows who the members of {value.name!r} are")
        self._members[value.genesis] = latest
        self._members.move_to_end(value.genesis)
        while len(self._members) > KNOWN_MAX:
            self._members.popitem(last=False)
        return latest

    async def _look_again(self, place: Place, message: Message) -> Place:
        name = place.descriptor.value.name
        try:
            return await self._places.find(message.object_id, name=name, deadline=message.deadline, fresh=True)
        except (RemotableError, LinkError):
            return place
