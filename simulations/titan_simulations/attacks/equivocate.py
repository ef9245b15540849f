"""Equivocate: says different things to different askers, each with a genuine signature."""

from hashlib import sha256

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId
from titan_overlay.links.links import Peer
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FIT, FindHolders, FindNode, Holders
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer
from titan_simulations.attacks.gang import Known


class Equivocate(Attack):
    """Half of the askers are told the truth, so that there is somebody to speak well of the liar."""

    name = "equivocate"

    def _is_fooled(self, asker: bytes) -> bool:
        return bool(sha256(asker + self.liar.node.key.id).digest()[0] & 1)

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        if not self._is_fooled(asker.id):
            return honest()
        return bodies.pack_all(self.gang.decoys(asker, request.target, request.count))

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        known = self.gang.objects.get(ObjectId(request.object_id))
        if known is None or not self._is_fooled(asker.id):
            return honest()
        contacts = bodies.pack_all(self.gang.decoys(asker, request.aim or request.object_id, request.count))
        raws = self._statements(known, asker)
        while sum(len(raw) + 3 for raw in raws) > FIT - 24 - len(contacts):
            raws.pop()
        return codec.encode(Holders(contacts, raws, []))

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        if not self._is_fooled(peer.id):
            return honest()
        lie = self.liar.wrong(send, peer.id)
        return honest() if lie is None else lie

    def _statements(self, known: Known, asker: Contact) -> list[bytes]:
        """Of one holder: here, at another address, and gone; another one is first for another asker."""
        elsewhere = self.gang.nearest(asker.id, 1)[0].ip
        statements = [
            self.liar.claim(known),
            self.liar.claim(known, host=elsewhere),
            self.liar.claim(known, withdrawn=True),
        ]
        first = asker.id[0] % len(statements)
        return statements[first:] + statements[:first]
