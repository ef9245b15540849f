"""Drop: takes everything, gives nothing back."""

from titan_overlay.identity.contacts import Contact
from titan_overlay.links.links import Peer
from titan_overlay.overlay.bodies import FindHolders
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer


class Drop(Attack):
    """Seems alive and willing (who is near, pings, probes, orders to hold a replica), so it holds its share; but who
    asks for an object, in the overlay or of the object itself, gets no answer.
    """

    name = "drop"

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        return None

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        return None
