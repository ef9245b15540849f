"""Drop: takes everything, gives nothing back."""

from titan_overlay.identity.contacts import Contact
from titan_overlay.links.links import Peer
from titan_overlay.overlay.bodies import FindHolders, FindNode
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer


class Drop(Attack):
    """Seems alive (handshakes, pings, probes, orders to hold a replica), but look-ups and messages get no answer."""

    name = "drop"

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        return None

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        return None

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        return None
