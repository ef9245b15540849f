"""By which right what is held here is held: by this node, and by the others who say that they hold it too.

A service counts as held only by who may hold it. A co-holder's grant to host stands in its advertisement: as found in
the directory, told by whoever recruited it, or shown by the holder itself when it is asked.
"""

from collections.abc import Callable
from math import inf

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import lineage, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Descriptor, check_descriptor, may_host, needs_host_grant
from titan_overlay.pool.keeping.roster import Replica


class Entitlement:
    """The rights behind the replicas of one node. Times in seconds of the loop come as arguments.

    Args:
        public: key of this node.
        host_grant: this node's own grant to host a name, or empty.
    """

    def __init__(self, public: bytes, rights: Rights, ambient: Ambient, host_grant: Callable[[str], bytes]) -> None:
        self._public = public
        self._rights = rights
        self._ambient = ambient
        self._host_grant = host_grant

    def own(self, replica: Replica, now: float) -> bytes:
        """Notes until when this node may hold it; the grant to advertise it with, or empty."""
        anyone = self._rights.anyone_may(Right.HOST)
        replica.by_right = not anyone and needs_host_grant(replica.descriptor, b"")
        replica.counts_until = inf
        if anyone or not needs_host_grant(replica.descriptor, self._public) or self._public == self._rights.pool:
            return b""
        grant = self._host_grant(replica.descriptor.value.name)
        replica.counts_until = self._until(grant, now) if grant else now
        return grant

    def note(self, replica: Replica, advertisement: Signed[Advertisement], now: float) -> bool:
        """Whether who signed this may hold the object; if so it counts, while its right lasts."""
        if not may_host(advertisement, replica.descriptor, self._rights, self._ambient.wall()):
            return False
        if advertisement.value.lineage and lineage.shown(advertisement, replica.descriptor, self._rights.pool) is None:
            return False
        grant = advertisement.value.grant
        replica.entitled[advertisement.signer] = self._until(grant, now) if replica.by_right and grant else inf
        replica.advertisements[advertisement.signer] = advertisement
        return True

    def show(self, replica: Replica, contact: Contact, raw: bytes, now: float) -> bool:
        """As `note`, for what a holder shows when it is asked for its right."""
        try:
            shown = records.check(raw, Advertisement, self._rights.pool)
        except BadMessage:
            return False
        genuine = shown.signer == contact.id and shown.value.object_id == replica.object_id
        return genuine and not shown.value.withdrawn and self.note(replica, shown, now)

    def revise(self, replica: Replica, now: float) -> None:
        """Rights have changed: of the others those are entitled whose advertisement still holds."""
        replica.entitled.clear()
        replica.asked_right.clear()
        for node, advertisement in list(replica.advertisements.items()):
            if not self.note(replica, advertisement, now):
                del replica.advertisements[node]

    def check_published(self, descriptor: Signed[Descriptor]) -> None:
        """Forbidden: the right to publish it was taken back."""
        if descriptor.value.grant:
            check_descriptor(descriptor.raw, None, self._rights)

    def _until(self, grant: bytes, now: float) -> float:
        try:
            return now + self._rights.ends(grant) - self._ambient.wall()
        except (BadMessage, Forbidden):  # a grant that is beside the point: it may hold this without one
            return inf
