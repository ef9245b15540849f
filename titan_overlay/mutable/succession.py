"""From one epoch of a group to the next, at one member.

    RECONFIG is executed -> every old member signs the state it has come to, and tells old and new members
    Q signatures         -> a certificate: on disk, with the state; then the next epoch's engine starts from there

A member that missed it is shown the chain by whoever hears it speak in an epoch that is over.
"""

import logging
from typing import TYPE_CHECKING

from titan_overlay.errors import BadMessage, Conflict, LinkError, RemotableError, StorageError, Unavailable
from titan_overlay.mutable import talk
from titan_overlay.mutable.engine import Checkpoint, Configuration, Entry, Fetch, RequestsWait
from titan_overlay.mutable.epochs import (
    Chain,
    Charter,
    Confirmation,
    Handover,
    KeyOffer,
    Legacy,
    Start,
    Turnover,
    configuration_hash,
    covered,
    covered_key,
    key_of,
)
from titan_overlay.mutable.snapshots import Stored
from titan_overlay.mutable.voting_keys import GroupKeys
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

SAY_AGAIN_SECONDS = 1.0
THERE_SECONDS = 5.0


class Succession:
    """See the module.

    Args:
        keys: with which this node votes.
        chain: as it is on disk.
    """

    def __init__(self, group: "Group", keys: GroupKeys, charter: Charter, chain: Chain) -> None:
        self.chain = chain
        self._group = group
        self._keys = keys
        self._charter = charter
        self._handover: Handover | None = None
        self._mine: Confirmation | None = None
        """What this member has signed, to be said again until the next epoch begins."""
        self._beginning = False
        self._ask_at = 0.0
        self._said: dict[bytes, float] = {}
        """To whom the chain was shown, and when."""

    def current(self) -> Configuration:
        """Who the members are now."""
        return self._charter.current(self.chain)

    def check(self, stored: Stored, wanted: Checkpoint) -> None:
        """Whether a state from another member is to be believed.

        Raises:
            BadMessage: its members are made up, or it is not the state that was agreed on.
        """
        chain = stored.head.chain
        self._charter.current(chain)
        if stored.head.stopped:
            raise BadMessage("it is of a member that has stopped, with what others may give up")
        agreed = wanted if self._charter.byzantine else None
        if chain.certificates:
            start = codec.decode(chain.certificates[-1].start, Start)
            if start.final == stored.checkpoint.index:
                agreed = start.checkpoint
        if agreed is not None and stored.checkpoint != agreed:
            raise BadMessage("it is not the state that was agreed on")

    def knows(self, node: bytes) -> bool:
        """Whether a node may have the state: it is a member, learns, or is named by the configuration to come."""
        group = self._group
        coming = self._mine and codec.decode(self._mine.start, Start).configuration.members
        return node in group.others or node in (coming or ())

    def reason_to_retire(self, configuration: Configuration) -> str:
        """Why this node cannot vote in an epoch that names it; empty: it can, or it only learns."""
        me = self._group.me
        if me in configuration.members and not self._keys.use(key_of(configuration, me)):
            return "its log is not the one with which it became a member, so it must not vote; it will be replaced"
        return ""

    def close(self) -> None:
        self._mine = None

    async def offer(self) -> KeyOffer:
        """The key with which this member will vote in the next epoch.

        Raises:
            StorageError: it cannot be kept.
        """
        charter, epoch = self._charter, self._group.configuration.epoch + 1
        key = await self._keys.next()
        return KeyOffer(self._group.me, key, self._keys.sign(covered_key(charter.pool, charter.object_id, epoch, key)))

    def check_offer(self, offer: KeyOffer, member: bytes) -> None:
        """Raises BadMessage: that is no offer of this member."""
        if offer.member != member:
            raise BadMessage("this is another member's key")
        self._charter.check_offer(offer, self.current())

    def sign(self, statement: bytes) -> bytes:
        """As a member of this epoch."""
        return self._keys.sign(statement)

    async def erase_old_keys(self) -> None:
        """Those of epochs that are over."""
        try:
            await self._keys.erase()
        except StorageError as why:
            log.warning("%s: old voting keys stay on disk: %s", self._group.machine.name, why)

    async def forget_keys(self) -> None:
        """This node never votes as that member again."""
        try:
            await self._keys.forget()
        except StorageError as why:
            log.warning("%s: voting keys stay on disk: %s", self._group.machine.name, why)

    # ---- a quorum that is lost for good --------------------------------------------------------------------------

    def check_order(self, recover: talk.Recover) -> None:
        """Whether this member is to stop.

        Raises:
            Forbidden: it is not the owner who says so. BadMessage: it is about another epoch.
            Conflict: a quorum is there.
        """
        current, group = self.current(), self._group
        self._charter.check_order(recover.order, recover.signature, current)
        there = [each for each in group.others if group.absences.silent_for(each) < THERE_SECONDS]
        quorum = len(set(there) & set(current.members)) + 1 >= self._charter.quorum(current)
        if quorum and not group.has_stopped:  # then it is none: this member takes no part, whatever comes
            raise Conflict(f"a quorum of {group.machine.name!r} is there: nothing is lost, and nothing to recover")

    def catch_up(self, recover: talk.Recover) -> None:
        """The owner is about to give the quorum up: an engine that sleeps asks the others what it lacks. Raises: as
        `lay_down`.
        """
        self.check_order(recover)
        self._group.step(RequestsWait(True))

    async def lay_down(self, recover: talk.Recover) -> Legacy:
        """The owner gives the quorum up: this member takes no part in its epoch any more, and says where it stands.

        Raises:
            Forbidden: it is not the owner who says so. Conflict: there is a quorum.
            BadMessage: it is about another epoch. NotHere: it cannot execute what is left.
            Unavailable: its disk does not keep that it has stopped.
        """
        self.check_order(recover)
        group, term = self._group, self._group.engine.status().last_term
        group.stop()
        try:
            checkpoint = Checkpoint(group.machine.height, term)
            await group.states.write(checkpoint, group.machine.snapshot(), stopped=True)
        except StorageError as why:
            raise Unavailable(f"this member cannot keep that it has stopped: {why}") from None
        return await self._legacy(recover.order.configuration, term)

    async def _legacy(self, left: Configuration, term: int) -> Legacy:
        machine, old = self._group.machine, configuration_hash(self.current())
        root = await self._group.states.root()
        return Legacy(codec.encode(Start(machine.object_id, left, machine.height, root, old)), term)

    # ---- the end of an epoch -------------------------------------------------------------------------------------

    def ended(self, entry: Entry) -> None:
        """The stop sign has been executed."""
        group = self._group
        try:
            turnover = codec.decode(entry.data, Turnover)
            self._charter.check_turnover(turnover, self.current())
        except BadMessage as why:
            group.resign(f"the next configuration makes no sense: {why}")
            return
        group.spawn(self._confirm(entry.index, turnover.configuration))

    async def _confirm(self, final: int, configuration: Configuration) -> None:
        """Signs the state at the end of the epoch."""
        group = self._group
        old = self.current()
        root = await group.states.root()
        if self.current() != old or group.trouble:
            return
        start = codec.encode(Start(group.machine.object_id, configuration, final, root, configuration_hash(old)))
        self._handover = self._handover or Handover(self._charter, old)
        if group.me in old.members:
            signature = self._keys.sign(covered(self._charter.pool, start))
            self._mine = Confirmation(start, group.me, signature)
            self._say(old, configuration)
            self._take(self._mine)

    def _say(self, old: Configuration, new: Configuration) -> None:
        """Tells everybody concerned, until the next epoch has begun."""
        group = self._group
        if self._mine is None or group.trouble or group.configuration.epoch != old.epoch:
            return
        body = codec.encode(self._mine)
        for each in sorted({*old.members, *new.members} - {group.me}):  # in the same order in every process
            group.peers.post(each, talk.CONFIRM, body)
        group.loop.call_later(SAY_AGAIN_SECONDS, self._say, old, new)

    def confirmed(self, sender: bytes, confirmation: Confirmation) -> None:
        """What another member has signed. BadMessage: it does not hold."""
        start = codec.decode(confirmation.start, Start)
        epoch = self._group.configuration.epoch
        if start.configuration.epoch <= epoch:
            self.show(sender)
        elif start.configuration.epoch == epoch + 1:
            self._handover = self._handover or Handover(self._charter, self.current())
            self._take(confirmation)

    def _take(self, confirmation: Confirmation) -> None:
        assert self._handover is not None
        certificate = self._handover.add(confirmation)
        if certificate is not None:
            self.learn(Chain(self.chain.genesis, (*self.chain.certificates, certificate)))

    # ---- the next epoch --------------------------------------------------------------------------------------------

    def other_epoch(self, sender: bytes, epoch: int) -> None:
        """Somebody speaks in another epoch: one that is over, or one that this member has not heard of."""
        if epoch < self._group.configuration.epoch:
            self.show(sender)
        elif self._group.loop.time() >= self._ask_at:
            self._ask_at = self._group.loop.time() + SAY_AGAIN_SECONDS
            self._group.spawn(self._ask(sender))

    async def _ask(self, peer: bytes) -> None:
        """Has a node show what led to the epoch in which it speaks."""
        try:
            answer = await self._group.peers.ask(peer, talk.EPOCHS, talk.NOTHING, SAY_AGAIN_SECONDS)
            self.learn(codec.decode(answer, Chain))
        except (LinkError, RemotableError) as why:
            log.info("%s: %s does not show its epoch: %s", self._group.machine.name, peer.hex()[:12], why)

    def show(self, peer: bytes) -> None:
        """Shows a node the chain, now and then."""
        now = self._group.loop.time()
        if now - self._said.get(peer, float("-inf")) >= SAY_AGAIN_SECONDS:
            if len(self._said) > 256:
                self._said.clear()
            self._said[peer] = now
            self._group.peers.post(peer, talk.CHAIN, codec.encode(self.chain))

    def learn(self, chain: Chain) -> None:
        """There are later epochs: begins the latest, from the state here if it has come so far, else from another's.

        Raises:
            BadMessage: the chain does not hold.
        """
        if self._beginning or not self.is_news(chain):
            return
        start = codec.decode(chain.certificates[-1].start, Start)
        group = self._group
        if group.me in self.current().members and group.me not in start.configuration.members:
            group.replaced(start.configuration.epoch)
        elif group.machine.height == start.final:
            self._beginning = True
            group.spawn(self._begin(chain, start))
        else:
            self._fetch(start)

    def _fetch(self, start: Start) -> None:
        """Another member has the state that the epoch begins with."""
        sources = tuple(each for each in start.configuration.members if each != self._group.me)
        self._group.states.fetch(Fetch(Checkpoint(start.final, 0), sources))

    def is_news(self, chain: Chain) -> bool:
        """Whether it leads to a later epoch. BadMessage: it does not hold."""
        return self._charter.current(chain).epoch > self.current().epoch

    async def _begin(self, chain: Chain, start: Start) -> None:
        """The certificate and the state are on disk before this node says a word in the new epoch."""
        group = self._group
        before = self.chain
        try:
            if await group.states.root() != start.root:
                self._fetch(start)
                return
            self.chain = chain
            await group.states.write(start.checkpoint, group.machine.snapshot())
        except StorageError as why:
            self.chain = before
            group.resign(f"the beginning of epoch {start.configuration.epoch} cannot be written: {why}")
            return
        finally:
            self._beginning = False
        self._over(start.configuration)
        group.begin_epoch(start.configuration, start.checkpoint)

    def adopt(self, chain: Chain, checkpoint: Checkpoint) -> None:
        """A state of a later epoch was fetched, and is on disk."""
        self.chain = chain
        configuration = self.current()
        self._over(configuration)
        self._group.begin_epoch(configuration, checkpoint)

    def _over(self, new: Configuration) -> None:
        log.info("%s: epoch %d begins", self._group.machine.name, new.epoch)
        self._handover = self._mine = None
        self._group.end_epoch()
