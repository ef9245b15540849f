"""What a node and a client have in common: one key's presence in a pool.

`Member` wires overlay, links, host and router together and starts and stops them. `Node` (node.py) adds what holding
replicas takes; `Pool` (client.py) is what programs see of either.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.errors import BadMessage, Forbidden, TitanError
from titan_overlay.identity.conduct import Conduct, Offence
from titan_overlay.identity.grants import JoinLine, Right
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, check_caller
from titan_overlay.identity.subnets import is_loopback, subnet
from titan_overlay.introduction import Introduction
from titan_overlay.links.links import Limits, Links, Peer
from titan_overlay.links.shared import Answer, Reply
from titan_overlay.overlay.asking import ask_record
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.finding.router import Router
from titan_overlay.pool.hosting import host
from titan_overlay.pool.hosting.host import Host, Sender
from titan_overlay.pool.keeping.recruiter import Recruiter
from titan_overlay.pool.orders import Misdeed, Seen
from titan_overlay.rules import Gossip
from titan_overlay.wire.messages import Send

if TYPE_CHECKING:
    from titan_overlay.mutable.caller import GroupCaller

log = logging.getLogger("titan")

CHAIN_MAX = 16
OBJECTS_MAX = 20_000
SENDERS_MAX = 4096
RENEW_SECONDS = 3600.0
CLOCK_JUMP_SECONDS = 60.0
"""The wall clock has gone so much otherwise than the loop's: the machine was asleep, or its clock was set."""
JOIN_RETRY_SECONDS = (1.0, 60.0)
"""First and longest wait between two tries to reach the bootstrap nodes."""


class Member:
    """One key in one pool, with everything needed to send messages and to answer them.

    Args:
        key: signs sessions and links: the node's own, or one made for this run of a program.
        user: signs what is published; differs from `key` for programs, of which a user may run many at once.
        rights: of the pool; which one that is may be learned from the first contact.
        client: never enters routing tables, accepts no links.
        secure: TLS on links; False only in simulations.
    """

    def __init__(
        self,
        key: SigningKey,
        rights: Rights,
        ambient: Ambient,
        config: NodeConfig,
        *,
        user: SigningKey | None = None,
        client: bool = False,
        grants: Sequence[bytes] = (),
        secure: bool = True,
    ) -> None:
        self.key = key
        self.user = user or key
        self.owner = self.user
        """Who runs this program."""
        self.rights = rights
        self.ambient = ambient
        self.config = config
        self.client = client
        self.grants = list(grants)
        self.conduct = Conduct()
        """What this member has seen peers do wrong."""
        self.introduction = Introduction(key, self.user, rights, ambient, self.grants)
        self._secure = secure
        self.overlay = Overlay(
            key,
            rights,
            ambient,
            k=config.k,
            alpha=config.alpha,
            copies=config.directory_copies,
            paths=config.paths,
            budget=config.lookup_budget,
            refresh_seconds=config.refresh_interval,
            statements_max=config.directory_entries_max,
            statements_per_object_max=config.directory_entries_per_id_max,
            client=client,
            hints=self.hints,
            conduct=self.conduct,
            user=self.user.public,
        )
        self.me = Sender(self.user.id, self.user.public)
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._senders: dict[Peer, tuple[Sender, float]] = {}
        self.host: Host
        self.links: Links
        self.router: Router
        self.recruiter: Recruiter
        self.gossip: Gossip

    @property
    def trusted(self) -> frozenset[bytes]:
        """Public keys whose code may run here: the owner's, its own, and those of the configuration."""
        return frozenset([self.owner.public, self.user.public, *map(bytes.fromhex, self.config.trust)])

    # ---- start and stop --------------------------------------------------------------------------------------

    async def open(self, interfaces: Sequence[str], port: int = 0) -> None:
        """Opens the overlay's sockets: one for each interface, one of each family."""
        await self.overlay.listen(port, *interfaces)
        self.host = Host(
            self.ambient,
            outbound=self,
            holder=self.key.id,
            copies=self.copies,
            authorize=self._check_caller,
            disclose=self._check_insider,
            limits=host.Limits(
                objects=OBJECTS_MAX,
                mailbox=self.config.mailbox_size,
                concurrency=self.config.concurrency,
                message_bytes=self.config.message_bytes_max,
            ),
        )
        self.host.own = frozenset([self.owner.id, self.user.id])
        if self.rights.known_pool is not None:
            self.show_credentials()

    def wire(self) -> None:
        """Builds the rooms that need to know the pool."""
        self.host.pool = self.overlay.pool
        self.links = Links(
            self.key,
            self.overlay.pool,
            self.ambient,
            self._handle,
            secure=self._secure,
            serving=not self.client,
            families=self.overlay.whereabouts.families,
            limits=Limits(
                inbound_links=self.config.links_max,
                half_open=self.config.half_open_max,
                arrivals_per_second=self.config.arrivals_per_second,
                messages_per_second=self.config.messages_per_peer,
                requests_per_peer=self.config.requests_per_peer_max,
            ),
            admit=self._reason_to_refuse,
            on_breach=self._on_breach,
        )
        self.links.here = self._answer_here
        self.show_credentials()
        self.rights.changed.append(self.revise)
        self.router = Router(
            self.overlay,
            self.links,
            self.host,
            self.me,
            self.ambient,
            self.conduct,
            {"mutable": lambda: self.groups_caller},
            places_max=self.config.holder_cache_entries,
        )
        self.recruiter = Recruiter(self.overlay, self.links, self.key, self.user, self.conduct, self.lineage)
        self.gossip = Gossip(self.overlay, self.links, self.rights, self.ambient, self.spawn)
        self.spawn(self._keep_to_the_rules(), "comparing the rules of the pool")

    @cached_property
    def groups_caller(self) -> "GroupCaller":
        """What calls mutable objects. Most nodes never do, and need not load it."""
        from titan_overlay.mutable.caller import GroupCaller

        return GroupCaller(
            self.router.places,
            self.links,
            self.host,
            self.user,
            self.overlay.pool,
            self.router.any_holder,
            self.ambient,
        )

    def _on_breach(self, peer: NodeId, why: str) -> None:
        self.conduct.blame(peer, Offence.BREACH, why, asyncio.get_running_loop().time())

    def seen(self, peer: NodeId) -> Seen:
        """How that peer has behaved towards this member."""
        now = asyncio.get_running_loop().time()
        report = self.conduct.report(peer, now)
        misdeeds = tuple(Misdeed(now - each.at, each.offence.text, each.why) for each in report.incidents)
        return Seen(peer.hex(), self.links.latency(peer), report.burden, report.avoided_for, misdeeds)

    async def join(self, seeds: Sequence[JoinLine], *, give_up_after: float | None = None) -> int:
        """Reaches the pool through any of the seeds, trying again with growing pauses.

        Returns:
            Number of contacts reached; 0 only when `give_up_after` seconds have passed.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        pause, longest = JOIN_RETRY_SECONDS
        while True:
            if not self.rights.raw_record:
                await self.learn_rules(seeds)
            reached = await self.overlay.bootstrap(seeds)
            if reached:
                return reached
            if give_up_after is not None and loop.time() - started + pause > give_up_after:
                return 0
            tried = ", ".join(seed.address for seed in seeds) or "anybody known (name one: --bootstrap)"
            log.warning("no answer from %s; trying again in %.0f s (is the node up, the port open?)", tried, pause)
            await asyncio.sleep(pause * (0.8 + 0.4 * self.ambient.random.random()))
            pause = min(pause * 2, longest)

    async def learn_rules(self, seeds: Sequence[JoinLine]) -> None:
        """Asks for the pool record, before any handshake: what has to be shown there depends on it."""
        raw = await ask_record(seeds, self.rights.known_pool, self.ambient.token_bytes)
        if raw is not None:
            self.rights.learn_record(raw)
        if self.rights.known_pool is not None:
            self.show_credentials()

    async def close(self) -> None:
        """Stops everything; messages that are being handled are cancelled."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "links"):
            await self.links.close()
        if hasattr(self, "host"):
            await self.host.close()
        self.overlay.stop()

    def spawn(self, work: Awaitable[Any], what: str) -> None:
        """Runs work in the background until `close`; a failure is logged, with what it was."""

        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("%s failed", what)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if isinstance(work, Coroutine):  # one that is cancelled before its first step has awaited nothing
            task.add_done_callback(lambda done: work.close())

    def grant_for(self, right: Right, name: str) -> bytes:
        """A signed grant of this member's user for a right on a name, or nothing."""
        return self.rights.best(self.grants, self.user.id, right, name, self.ambient.wall())

    # ---- rights ----------------------------------------------------------------------------------------------

    def show_credentials(self) -> None:
        """What peers are shown from now on. Links on which something else was shown are replaced in passing."""
        changed = self.introduction.renew()
        self.overlay.show(self.introduction.in_handshake)
        if hasattr(self, "links"):
            self.links.credentials = self.introduction.on_link
            if changed:
                self.links.reintroduce()

    def revise(self) -> None:
        """The rules have changed, or rights were taken back: what may not be any more ends now."""
        self.gossip.spread()  # first: among those who hear of it are some with whom this node then has to part
        self.show_credentials()
        self.overlay.revise()
        self.links.revise()
        self.router.places.revise()

    async def _keep_to_the_rules(self) -> None:
        """Learns of changes, and notices what ends by itself: the delegation of a program, a peer's right to join."""
        loop = asyncio.get_running_loop()
        due, ahead = loop.time() + RENEW_SECONDS, self.ambient.wall() - loop.time()
        while True:
            if not len(self.overlay.table):
                try:
                    await self.learn_rules(self.overlay.find_seeds())  # perhaps they have changed meanwhile
                except TitanError as why:  # such as that no node of this user runs just now
                    log.debug("nobody to ask for the rules of the pool: %s", why)
            await self.gossip.round()
            before, ahead = ahead, self.ambient.wall() - loop.time()
            if abs(ahead - before) > CLOCK_JUMP_SECONDS:
                self.clock_jumped()
                due = loop.time()
            if loop.time() >= due:
                due = loop.time() + RENEW_SECONDS
                self.show_credentials()
                if self.rights.record.private:
                    self.overlay.revise()
                    self.links.revise()

    def clock_jumped(self) -> None:
        """What was signed with an end may have ended long before its turn to be signed anew."""

    def _reason_to_refuse(self, peer: Peer) -> str | None:
        try:
            self.rights.check_join(peer.credentials, peer.id, peer.public, self.ambient.wall())
        except Forbidden as why:
            return str(why)
        return None

    def _check_caller(self, sender: Sender, descriptor: Signed[Descriptor]) -> None:
        if self.rights.anyone_calls and descriptor.value.policy.callers == "anyone":
            return
        held = tuple(self.grants) if sender.public == self.user.public else sender.grants
        check_caller(sender.public, held, descriptor, self.rights, self.ambient.wall())

    def _check_insider(self, sender: Sender, descriptor: Signed[Descriptor]) -> None:
        """Who may hold an object has its code: that is for whoever may send to it, unless anybody may hold it."""
        if descriptor.value.policy.hosts != "anyone" and not self.rights.anyone_may(Right.HOST):
            self._check_caller(sender, descriptor)

    # ---- messages --------------------------------------------------------------------------------------------

    def hints(self, object_id: ObjectId) -> Sequence[bytes]:
        """Signed advertisements that this member can vouch for, given to whoever looks the object up."""
        return self.router.places.hints(object_id) if hasattr(self, "router") else ()

    def copies(self, object_id: ObjectId) -> int:
        """Live copies of an object held here, as far as this member counts them."""
        return 1

    def lineage(self, object_id: ObjectId) -> bytes:
        """By whom this member was asked to hold an object (`identity.lineage`)."""
        return b""

    def _handle(self, peer: Peer, send: Send) -> Answer:
        return self.host.deliver_now(
            self._sender(peer),
            ObjectId(send.object_id),
            send.type,
            send.body,
            deadline=asyncio.get_running_loop().time() + send.timeout_ms / 1000,
            chain=send.chain,
            stream=send.credit > 0,
        )

    def _answer_here(
        self, object_id: bytes, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], stream: bool
    ) -> Awaitable[Reply]:
        return self.host.deliver(self.me, object_id, type, body, deadline=deadline, chain=chain, stream=stream)

    def _sender(self, peer: Peer) -> Sender:
        """Who speaks through this peer: remembered while its delegation lasts, for it is asked at every message."""
        now = self.ambient.wall()
        known, until = self._senders.get(peer, (None, 0.0))
        if known is None or until <= now:
            if len(self._senders) >= SENDERS_MAX:
                self._senders.clear()
            who = self.rights.speaker(peer.credentials, peer.id, peer.public, now)
            net = "" if is_loopback(peer.ip) else subnet(peer.ip, peer.port)
            known = Sender(who.id, who.public, who.grants, net)
            self._senders[peer] = known, who.until
        return known

    # ---- what handlers send (`pool.context.Outbound`) -----------------------------------------------------------

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        """The encoded reply to a message that a handler on this member sends."""
        _check_chain(chain)
        return await self.router.call(name, type, body, deadline=deadline, chain=chain)

    def stream(
        self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /
    ) -> AsyncIterator[bytes]:
        """The same for a stream of replies."""
        _check_chain(chain)
        return self.router.stream(name, type, body, deadline=deadline, chain=chain)


def _check_chain(chain: tuple[bytes, ...]) -> None:
    if len(chain) > CHAIN_MAX:
        raise BadMessage(f"this chain of calls is {len(chain)} long; does it go in circles?")
