"""Forge: contacts that do not exist, records that do not hold, holders that hold nothing, wrong bytes and answers."""

import hashlib

from titan_overlay.identity import records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.statements import Advertisement
from titan_overlay.links.links import Peer
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FIT, NAMED_BY, FindHolders, FindNode, Holders, Store, Stored
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer
from titan_simulations.attacks.gang import Known

INVENTED = 4
"""Contacts in a reply that lead nowhere; the others are colluders."""
CLAIMS = 2
"""False holders in a reply."""
PROMISES = 4
"""More of them, whom all colluders name alike, on further pages that are never right."""


class Forge(Attack):
    """What verifies is false, and what is true does not verify."""

    name = "forge"

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        return bodies.pack_all(self._contacts(request.target, request.count, asker))

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        contacts = bodies.pack_all(self._contacts(request.aim or request.object_id, request.count, asker))
        known = self.gang.objects.get(ObjectId(request.object_id))
        raws = [] if known is None else self._records(known)
        room = FIT - 24 - len(contacts) - NAMED_BY * PROMISES
        while sum(len(raw) + 3 for raw in raws) > room:
            raws.pop()
        further = hashlib.blake2b(request.object_id, digest_size=NAMED_BY * PROMISES).digest()
        grave = self.liar.random.randbytes(40)
        return codec.encode(Holders(contacts, raws, [grave], further))

    def store(self, asker: Contact, request: Store, honest: Honest) -> bytes | None:
        """Takes what it forgets at once."""
        return codec.encode(Stored([True] * len(request.raws), bodies.pack_all(())))

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        lie = self.liar.wrong(send)
        return honest() if lie is None else lie

    def _contacts(self, target: bytes, count: int, asker: Contact) -> list[Contact]:
        """The first are closest to the target of all, at addresses where nobody is."""
        invented = []
        for turn in range(min(INVENTED, count)):
            node = NodeId(target[:-2] + bytes((turn,)) + self.liar.random.randbytes(1))
            invented.append(bodies.contact(node, f"203.0.{self.liar.random.randrange(256)}.{turn + 1}", 4747))
        return [*invented, *self.gang.decoys(asker, target, count - len(invented))]

    def _records(self, known: Known) -> list[bytes]:
        """False holders, of whom each says so with a genuine signature; then what does not hold at all."""
        members = self.gang.members
        claims = [members[each.id].claim(known) for each in self.gang.nearest(known.object_id, CLAIMS)]
        mine = self.liar.claim(known)
        bent = bytearray(mine)
        bent[len(bent) // 2] ^= 1
        node = self.liar.node
        expired = Advertisement(known.object_id, self.liar.contact.ip, self.liar.contact.port, 1, 1.0)
        return [*claims, bytes(bent), records.sign(expired, node.key, node.overlay.pool).raw]
