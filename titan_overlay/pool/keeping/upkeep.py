"""The keeper's engine: when each peer is probed and each replica thought about, and the work that follows.

All are on one agenda; none has a task of its own. Probes, look-ups and recruiting are short tasks, bounded in number.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any

from titan_overlay.ambient import Ambient
from titan_overlay.errors import LinkError, NotHere, RemotableError, TitanError
from titan_overlay.identity.conduct import Offence
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement
from titan_overlay.identity.subnets import public_subnet
from titan_overlay.overlay.traffic import PROBE
from titan_overlay.pool.keeping import lifecycle, probe_bodies, proofs
from titan_overlay.pool.keeping.agenda import Agenda
from titan_overlay.pool.keeping.entitlement import Entitlement
from titan_overlay.pool.keeping.figures import Figures, Repair
from titan_overlay.pool.keeping.household import Household, Network, Recruiting
from titan_overlay.pool.keeping.lifecycle import Action, Expire, Lookup, Probe, Recruit, Standing, StepDown
from titan_overlay.pool.keeping.probes import (
    Asked,
    AskSoon,
    Buried,
    Changed,
    Conversation,
    Newer,
    Sample,
    Unentitled,
    Unproven,
)
from titan_overlay.pool.keeping.roster import PARTNERS_MAX, Peer, Replica, Roster
from titan_overlay.pool.keeping.samples import Samples

log = logging.getLogger("titan")

TASKS_MAX = 64
"""Probes, look-ups and recruitings under way at once; what exceeds it waits a second."""
ASK_GAP = 1.0
"""Seconds between two probes of one peer, however much reason there is."""
BUSY_PAUSE = 1.0
EAGER = (0.85, 1.0)
"""The lower NodeId of a pair probes after a share of the interval drawn from here ..."""
PATIENT = (1.2, 1.3)
"""... and the other only if that one has not."""
OFFLINE_PAUSE = 10.0
"""After a look-up that reached nobody."""
SLOWEST_BYTES_PER_SECOND = 256 * 1024
RIGHT_PAUSE = 300.0
"""Between two times that one holder is asked to show its right to hold one object."""
EXCLUDE_LOST_SECONDS = 120.0
"""Holders that went this recently are not asked to hold the object again."""


class Upkeep:
    """Probes co-holders and does what `lifecycle.decide` says, for all replicas in a roster."""

    def __init__(
        self,
        household: Household,
        roster: Roster,
        entitlement: Entitlement,
        overlay: Network,
        recruiter: Recruiting,
        ambient: Ambient,
        read_chunk: Callable[[bytes, int], Coroutine[Any, Any, bytes]],
    ) -> None:
        self._household = household
        self._roster = roster
        self._entitlement = entitlement
        self._overlay = overlay
        self._recruiter = recruiter
        self._ambient = ambient
        self.samples = Samples(read_chunk)
        self.pace = roster.pace
        self.talk = Conversation(roster)
        self.figures = Figures()
        self._agenda: Agenda[Peer | Replica] = Agenda(self._turn)
        self._serial = count()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    # ---- start and stop --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._agenda.start()
        self.ask_all()
        for replica in list(self._roster.replicas.values()):
            self.touch(replica)

    async def stop(self) -> None:
        """Nothing is decided any more. Probes of others are still answered."""
        self._agenda.stop()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Runs work in the background until `stop`."""

        async def guarded() -> None:
            try:
                await work
            except TitanError as why:
                log.debug("%s: %s", what, why)
            except Exception:
                log.exception("%s failed", what)

        serial = next(self._serial)
        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks[serial] = task
        task.add_done_callback(lambda done: (self._tasks.pop(serial, None), work.close()))

    # ---- when ------------------------------------------------------------------------------------------------

    def touch(self, replica: Replica) -> None:
        """Something about it has changed: think about it at the next turn of the loop."""
        self._agenda.plan(replica, asyncio.get_running_loop().time())

    def ask_all(self) -> None:
        """There is reason to probe everybody."""
        for peer in list(self._roster.peers.values()):
            self.ask_soon(peer)

    def ask_soon(self, peer: Peer) -> None:
        """There is reason to probe this peer."""
        self._agenda.plan(peer, max(asyncio.get_running_loop().time(), peer.asked + ASK_GAP))

    def _turn(self, item: Peer | Replica, now: float) -> None:
        if isinstance(item, Replica):
            self._think(item, now)
        else:
            self._probe(item, now)

    def _plan(self, peer: Peer) -> None:
        """When this peer is probed next."""
        if self._roster.peers.get(peer.id) is not peer or peer.busy:
            return
        peer.due = inf  # whatever was planned before the last news
        shared = [each for each in self._roster.shared_with(peer) if peer.id in each.partners]
        if any(peer.id in each.tell for each in shared):
            return self.ask_soon(peer)
        if peer.misses or any(each.partners[peer.id].standing is not Standing.PROVEN for each in shared):
            return self._agenda.plan(peer, peer.asked + self.pace.probe_retry)
        if peer.watched:
            low, high = EAGER if self._roster.me < peer.id else PATIENT
            share = low + (high - low) * self._ambient.random.random()
            self._agenda.plan(peer, max(peer.heard, peer.asked) + share * self.pace.probe_interval)

    # ---- probing ---------------------------------------------------------------------------------------------

    def answer(self, contact: Contact, body: bytes) -> bytes:
        """A probe has come in."""
        now = asyncio.get_running_loop().time()
        reply = self.talk.answer(contact, body, self._epoch(), now)
        self._heard(contact, now)
        self._follow_up()
        return reply

    def _heard(self, contact: Contact, now: float) -> None:
        peer = self._roster.peers.get(contact.id)
        if peer is not None:
            peer.contact = contact
            peer.misses = 0
            peer.heard = now
            self._plan(peer)

    def _probe(self, peer: Peer, now: float) -> None:
        if self._roster.peers.get(peer.id) is not peer or peer.busy:
            return
        if len(self._tasks) >= TASKS_MAX:
            return self._agenda.plan(peer, now + BUSY_PAUSE)
        peer.busy = True
        self.spawn(self.exchange(peer), "probing")

    async def exchange(self, peer: Peer) -> None:
        """One probe of a peer over everything shared with it, and what follows from it."""
        loop = asyncio.get_running_loop()
        peer.busy = True
        peer.asked = loop.time()
        replicas = [each for each in self._roster.shared_with(peer) if peer.id in each.partners]
        try:
            for start in range(0, len(replicas), probe_bodies.ENTRIES_MAX):
                asked = self._ask(peer, replicas[start : start + probe_bodies.ENTRIES_MAX])
                body = await self._overlay.call(peer.contact, "probe", asked.body, purpose=PROBE)
                self.talk.absorb(peer.contact, asked, body, loop.time())
        except (LinkError, RemotableError):
            self._missed(peer, loop.time())
        else:
            peer.misses = 0
            peer.heard = loop.time()
        finally:
            peer.busy = False
        self._plan(peer)
        self._follow_up()

    def _ask(self, peer: Peer, replicas: Sequence[Replica], *, leaving: bool = False) -> Asked:
        self.figures.probes += 1
        nonce = self._ambient.token_bytes(probe_bodies.NONCE_BYTES)
        now = asyncio.get_running_loop().time()
        return self.talk.ask(peer, replicas, nonce, self._epoch(), now, leaving=leaving)

    def _epoch(self) -> int:
        return proofs.epoch_at(self._ambient.wall())

    def _missed(self, peer: Peer, now: float) -> None:
        self.figures.misses += 1
        peer.misses += 1
        if self._roster.peers.get(peer.id) is not peer:
            return
        gone = peer.misses >= self.pace.probe_misses
        for replica in list(self._roster.shared_with(peer)):
            if gone and self._roster.lose(replica, peer.id, now):
                self.figures.holders_lost += 1
                self._spread(replica)
            self.touch(replica)

    def _spread(self, replica: Replica) -> None:
        """A holder is gone: the others should know before their own probes tell them."""
        for node in replica.neighbours:
            self.ask_soon(replica.partners[node].peer)

    def _follow_up(self) -> None:
        """Acts on what the last message said."""
        effects, self.talk.effects = self.talk.effects, []
        for effect in effects:
            match effect:
                case AskSoon(node):
                    peer = self._roster.peers.get(node)
                    if peer is not None:
                        self.ask_soon(peer)
                    continue
                case _:
                    replica = self._roster.replicas.get(effect.object_id)
            if replica is None:
                continue
            match effect:
                case Changed():
                    self.touch(replica)
                case Sample(_, epoch):
                    self.samples.want(replica.object_id, epoch)
                case Unentitled(_, contact):
                    self.spawn(self._ask_right(replica, contact), "asking for a right to host")
                case Buried(_, contact):
                    self.spawn(self._fetch_tombstone(replica, contact), "asking for a tombstone")
                case Unproven(_, contact):
                    why = f"{replica.descriptor.value.name}: it cannot prove that it holds it"
                    now = asyncio.get_running_loop().time()
                    self._overlay.conduct.blame(contact.id, Offence.BROKEN, why, now)
                case Newer(_, contact, _):
                    replica.settled = False  # what is replaced is not copied any more
                    self.spawn(self._household.upgrade(replica, contact), "getting a newer version")

        if self.samples.waiting:
            self.spawn(self._read_samples(), "reading samples")

    async def _read_samples(self) -> None:
        async for replica in self.samples.read(self._roster.replicas):
            self.figures.lost_content += 1
            await self._household.drop(replica)

    async def _ask_right(self, replica: Replica, contact: Contact) -> None:
        """A holder shows by which right it holds a service, or does not count."""
        now = asyncio.get_running_loop().time()
        if now - replica.asked_right.get(contact.id, -inf) < RIGHT_PAUSE:
            return
        if len(replica.asked_right) >= PARTNERS_MAX:
            del replica.asked_right[next(iter(replica.asked_right))]
        replica.asked_right[contact.id] = now
        try:
            raw = await self._overlay.call(contact, "advertisement", replica.object_id, purpose=PROBE)
            entitled = self._entitlement.show(replica, contact, raw, now)
        except NotHere:
            entitled = False
        except (LinkError, RemotableError):
            replica.asked_right.pop(contact.id, None)
            return
        peer = self._roster.peers.get(contact.id)
        if entitled and peer is not None:
            self.ask_soon(peer)
        elif self._roster.lose(replica, contact.id, now):
            self.touch(replica)

    def doubt_the_unentitled(self, replica: Replica) -> None:
        """Rights have changed: who has shown none that holds does not count, and is asked again."""
        for node, partner in list(replica.partners.items()):
            if replica.by_right and node not in replica.entitled:
                self._roster.doubt(replica, partner.peer.contact)
                self.ask_soon(partner.peer)
        self.touch(replica)

    async def _fetch_tombstone(self, replica: Replica, contact: Contact) -> None:
        raw = await self._overlay.call(contact, "tombstone", replica.object_id, purpose=PROBE)
        await self._household.learn_tombstone(replica, raw)

    # ---- deciding --------------------------------------------------------------------------------------------

    def _think(self, replica: Replica, now: float) -> None:
        if self._roster.replicas.get(replica.object_id) is not replica:
            return
        before = replica.below_since
        replica.confirming = False
        replica.subnet = public_subnet(self._overlay.contact.ip)
        view = replica.refresh(now)
        if before is not None and replica.below_since is None:
            self._restored(replica, before, now)
        for action in lifecycle.decide(view, now):
            if not self._act(replica, action, now):
                return
        arrivals = (p.until for p in replica.partners.values() if p.standing is Standing.ARRIVING)
        self._agenda.plan(replica, min(lifecycle.wake(view, now), *arrivals, inf))

    def _restored(self, replica: Replica, noticed: float, now: float) -> None:
        self.figures.below_min_seconds += now - noticed
        if replica.lost:
            self.figures.repairs_done += 1
            silent = now - min(replica.last_proof_of_lost, noticed)
            self.figures.repairs.append(Repair(replica.object_id, now, now - noticed, silent))

    def _act(self, replica: Replica, action: Action, now: float) -> bool:
        """Carries an action out. False: the replica is gone."""
        match action:
            case Expire():
                self.figures.expired += 1
            case StepDown():
                self.figures.stepped_down += 1
            case Probe(targets):
                replica.confirming = True
                for node in targets:
                    self._ask_if_idle(replica, node, now)
                return True
            case Lookup():
                if not replica.looking:
                    self._begin(replica, self._look_up(replica), now)
                return True
            case Recruit(count, exclude):
                self._begin(replica, self._recruit(replica, count, exclude), now)
                return True
        self.spawn(self._household.drop(replica), "dropping a replica")
        return False

    def _ask_if_idle(self, replica: Replica, node: NodeId, now: float) -> None:
        peer = replica.partners[node].peer
        gap = self.pace.probe_retry if peer.misses else ASK_GAP
        if not peer.busy:
            self._agenda.plan(peer, max(now, peer.asked + gap))

    def _begin(self, replica: Replica, work: Coroutine[Any, Any, None], now: float) -> None:
        if len(self._tasks) >= TASKS_MAX:
            work.close()
            self._agenda.plan(replica, now + BUSY_PAUSE)
        else:
            self.spawn(work, "keeping copies")

    async def _look_up(self, replica: Replica) -> None:
        replica.looking = True
        self.figures.lookups += 1
        try:
            found = await self._overlay.find_holders(replica.object_id, everything=True)
        except (LinkError, RemotableError):
            found = None
        finally:
            replica.looking = False
        now = asyncio.get_running_loop().time()
        if found is None or found.asked == 0:
            self._agenda.plan(replica, now + OFFLINE_PAUSE)
            return
        for tombstone in found.tombstones:
            with suppress(RemotableError):  # one that proves nothing
                await self._household.learn_tombstone(replica, tombstone.raw)
            if self._roster.replicas.get(replica.object_id) is not replica:
                return
        replica.looked_up = now
        replica.settled = True
        self.claim(replica, found.advertisements)

    def claim(self, replica: Replica, holders: Iterable[Signed[Advertisement]]) -> None:
        """Advertisements of other holders: reasons to ask them."""
        now, wall = asyncio.get_running_loop().time(), self._ambient.wall()
        for each in holders:
            value = each.value
            if value.withdrawn or value.passing or value.object_id != replica.object_id or replica.passing:
                continue
            gone = replica.lost.get(each.signer)
            if gone is not None and value.sequence / 1000 <= wall - (now - gone):
                continue  # it was made before that holder went
            peer = self._roster.claim(replica, value.contact(each.signer))
            if peer is not None:
                self.ask_soon(peer)
            if each.signer in replica.partners:
                self._entitlement.note(replica, each, now)
        self.touch(replica)

    async def _recruit(self, replica: Replica, count: int, exclude: Sequence[NodeId]) -> None:
        loop = asyncio.get_running_loop()
        self.figures.recruitings += 1
        replica.recruiting += count
        recent = [node for node, at in replica.lost.items() if loop.time() - at < EXCLUDE_LOST_SECONDS]
        try:
            accepted = await self.recruit_now(replica, count, [*exclude, *recent])
        finally:
            replica.recruiting -= count
        if accepted:
            replica.recruit_pause = self.pace.retry_recruit
        else:
            replica.recruit_after = loop.time() + replica.recruit_pause
            replica.recruit_pause = min(2 * replica.recruit_pause, 16 * self.pace.retry_recruit)
        self.touch(replica)

    async def recruit_now(self, replica: Replica, count: int, exclude: Sequence[NodeId]) -> int:
        """Asks others to hold the object; how many accepted."""
        mine = self._household.own_advertisement(replica.object_id)
        known = [*([mine] if mine else []), *replica.advertisements.values()]
        try:
            offered = self._household.offered(replica)
            result = await self._recruiter.recruit(offered, count=count, exclude=exclude, holders=known)
        except (LinkError, RemotableError) as why:
            log.debug("nobody was recruited: %s", why)
            return 0
        content = replica.descriptor.value.content
        patience = self.pace.arrival + (content.size / SLOWEST_BYTES_PER_SECOND if content else 0.0)
        now = asyncio.get_running_loop().time()
        if self._roster.replicas.get(replica.object_id) is not replica:
            return len(result.accepted)
        for each in result.accepted:
            self.figures.copies_made += 1
            peer = self._roster.expect(replica, each.value.contact(each.signer), now + patience)
            if peer is not None:
                self._entitlement.note(replica, each, now)
                self.ask_soon(peer)
        return len(result.accepted)

    # ---- goodbye ---------------------------------------------------------------------------------------------

    def goodbyes(self, replicas: Iterable[Replica]) -> list[tuple[Contact, bytes]]:
        """What to send so that the neighbours need not miss this node in these replicas: one message per peer."""
        by_peer: dict[NodeId, list[Replica]] = {}
        for replica in replicas:
            for node in replica.neighbours:
                by_peer.setdefault(node, []).append(replica)
        found = []
        for node, theirs in by_peer.items():
            peer = theirs[0].partners[node].peer
            for start in range(0, len(theirs), probe_bodies.ENTRIES_MAX):
                asked = self._ask(peer, theirs[start : start + probe_bodies.ENTRIES_MAX], leaving=True)
                found.append((peer.contact, asked.body))
        return found

    async def say(self, goodbyes: Sequence[tuple[Contact, bytes]], timeout: float) -> None:
        """Sends them, as far as the time allows."""

        async def one(contact: Contact, body: bytes) -> None:
            with suppress(LinkError, RemotableError):  # then they will notice by themselves
                await self._overlay.call(contact, "probe", body, purpose=PROBE)

        try:
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(one(contact, body) for contact, body in goodbyes))
        except TimeoutError:
            pass
