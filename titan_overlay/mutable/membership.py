"""Who the members of a group are, and the way to each: what all who ask a group have in common."""

import asyncio
from collections import OrderedDict

from titan_overlay.errors import LinkError, NotHere, RemotableError, Unavailable
from titan_overlay.identity.contacts import Contact, is_dialable, of_addresses, unpack_addresses
from titan_overlay.identity.ids import ID_BYTES, NodeId, ObjectId, PoolId
from titan_overlay.identity.subnets import nameable
from titan_overlay.links.links import Links
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import Chain, Charter
from titan_overlay.mutable.founding import charter_of
from titan_overlay.pool.finding.any_holder import Request as Message
from titan_overlay.pool.finding.places import Place, Places
from titan_overlay.pool.hosting.host import Host
from titan_overlay.wire import codec

CHAIN_SECONDS = 2.0
KNOWN_MAX = 1024


class Search:
    """The members are looked up anew, while those who are known go on being asked.

    That takes as long as it takes to find out who of all that are asked is dead, and a leader may be elected before.
    """

    def __init__(self, membership: "Membership", request: Message) -> None:
        self._membership = membership
        self._request = request
        self._looking: asyncio.Task[Place] | None = None

    def begin(self, place: Place) -> None:
        """Unless it is under way."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._membership.look_again(place, self._request))

    def latest(self, place: Place) -> Place:
        """What has been found, or the place as it was."""
        if self._looking is None or not self._looking.done():
            return place
        found, self._looking = self._looking.result(), None
        return found

    def end(self) -> None:
        """It is not needed any more."""
        if self._looking is not None:
            self._looking.cancel()


class Membership:
    """See the module."""

    def __init__(self, places: Places, links: Links, host: Host, pool: PoolId) -> None:
        self._places = places
        self._links = links
        self._host = host
        self._me = Contact(NodeId(host.holder), "", 0)
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[bytes, Configuration] = OrderedDict()
        """The latest of each group, by its genesis."""
        self._told: OrderedDict[NodeId, Contact] = OrderedDict()
        """Where members can be reached, as others of their groups say."""

    # ---- the way to a member -----------------------------------------------------------------------------------

    async def ask(
        self, place: Place, member: NodeId, request: Message, type: str, body: bytes, deadline: float
    ) -> bytes:
        """A member's answer to something that is asked of the object of `request`.

        Raises:
            LinkError, DeadlineExceeded: there is none. NotHere: nobody knows where it is.
            RemotableError: what it answered.
        """
        contact = self.contact(place, member)
        try:
            return await self._links.request(
                contact, request.object_id, type, body, deadline=deadline, chain=request.chain
            )
        except NotHere as why:
            self._learn(why, contact.ip)
            raise
        except LinkError:
            self._told.pop(member, None)
            raise

    def contact(self, place: Place, member: NodeId) -> Contact:
        """Where a member can be reached. NotHere: that is not known."""
        known = self._known_contact(place, member)
        if known is None:
            raise NotHere(f"where the member {member.hex()[:12]} can be reached is not known yet")
        return known

    def _known_contact(self, place: Place, member: NodeId) -> Contact | None:
        if member == self._me.id:
            return self._me
        for each in place.holders:
            if each.signer == member:
                return place.contact(each)
        peer = self._links.peer_of(member)
        return self._told.get(member) if peer is None else Contact(peer.id, peer.ip, peer.port)

    def is_within_reach(self, place: Place, member: NodeId) -> bool:
        """Whether it is known where a member can be reached."""
        return self._known_contact(place, member) is not None

    def _learn(self, why: NotHere, by: str) -> None:
        """One member has said which other can help, and where that one can be reached; the link to it will prove it.

        A directory may know the leader last: it has what holders announced, and as much of it as fits in a datagram.
        """
        try:
            addresses = unpack_addresses(why.at)
        except ValueError:
            return
        if len(why.hint) != ID_BYTES or not all(is_dialable(*each) for each in addresses):
            return
        named = nameable(by, addresses)
        if not named:
            return
        self._told[NodeId(why.hint)] = of_addresses(NodeId(why.hint), *named)
        self._told.move_to_end(NodeId(why.hint))
        while len(self._told) > KNOWN_MAX:
            self._told.popitem(last=False)

    async def look_again(self, place: Place, request: Message) -> Place:
        """The holders as the directory knows them now; the place as it was where nobody knows better."""
        name = place.descriptor.value.name
        try:
            return await self._places.find(request.object_id, name=name, deadline=request.deadline, fresh=True)
        except (RemotableError, LinkError):
            return place

    # ---- who they are ------------------------------------------------------------------------------------------

    def charter(self, place: Place, object_id: ObjectId) -> Charter:
        """What the members are checked against."""
        return charter_of(place.descriptor, object_id, self._pool)

    async def current(self, place: Place, request: Message, *, fresh: bool = False) -> Configuration:
        """Who the members are, proven from the descriptor on; never an earlier epoch than one seen before.

        Raises:
            Unavailable: nobody shows it.
        """
        genesis = place.descriptor.value.genesis
        known = self._known.get(genesis)
        if known is not None and not fresh:
            return known
        latest = await self._latest(place, request, known)
        if latest is None:  # whoever was known to hold it may be gone
            latest = await self._latest(await self.look_again(place, request), request, known)
        if latest is None:
            raise Unavailable(f"nobody shows who the members of {place.descriptor.value.name!r} are")
        self._remember(genesis, latest)
        return latest

    async def _latest(self, place: Place, request: Message, known: Configuration | None) -> Configuration | None:
        """The latest that any holder, or member as far as is known, shows, or that is known."""
        charter = self.charter(place, request.object_id)
        deadline = min(request.deadline, self._loop.time() + CHAIN_SECONDS)

        async def show(member: NodeId) -> Configuration | None:
            try:
                body = await self.ask(place, member, request, talk.EPOCHS, talk.NOTHING, deadline)
                return charter.current(codec.decode(body, Chain))
            except (LinkError, RemotableError):
                return None

        holders = {each.signer for each in place.holders} | {NodeId(each) for each in (known.members if known else ())}
        if self._host.get(request.object_id) is not None:
            holders.add(self._me.id)
        shown = await asyncio.gather(*map(show, sorted(holders)))
        return max((each for each in (known, *shown) if each is not None), key=lambda each: each.epoch, default=None)

    def _remember(self, genesis: bytes, latest: Configuration) -> None:
        self._known[genesis] = latest
        self._known.move_to_end(genesis)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
