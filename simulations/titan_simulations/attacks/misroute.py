"""Misroute: sends every look-up to other liars."""

from titan_overlay.identity.contacts import Contact
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FindHolders, FindNode, Holders
from titan_overlay.wire import codec
from titan_simulations.attacks.attack import Attack, Honest


class Misroute(Attack):
    """Names colluders alone, those nearest to what is looked for first, and knows of no holder."""

    name = "misroute"

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        return bodies.pack_all(self.gang.decoys(asker, request.target, request.count))

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        near = self.gang.decoys(asker, request.aim or request.object_id, request.count)
        return codec.encode(Holders(bodies.pack_all(near), [], []))
