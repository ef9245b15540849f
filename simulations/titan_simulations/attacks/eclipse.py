"""Eclipse: grinds the ids that are closest to an object, and hides it."""

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ObjectId, distance
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.links import Peer
from titan_overlay.overlay import bodies
from titan_overlay.overlay.bodies import FindHolders, FindNode, Holders, Store, Stored
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.attack import Answer, Attack, Honest, HonestAnswer, Place
from titan_simulations.attacks.gang import Gang

AROUND = 20
"""Ids around each object: as many as a look-up asks for at most."""


class Eclipse(Attack):
    """Holds, keeps and names nothing of the objects that it is aimed at; to all else it is the best of nodes."""

    name = "eclipse"
    aims = True

    @classmethod
    def place(cls, gang: Gang, turn: int) -> Place:
        target = gang.targets[turn // AROUND % len(gang.targets)]
        if turn % AROUND == 0 and target not in gang.aimed:
            gang.aimed.append(target)
        return Place(key=grind(gang, target))

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        if ObjectId(request.target) not in self.gang.aimed:
            return honest()
        return bodies.pack_all(self.gang.decoys(asker, request.target, request.count))

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        if ObjectId(request.object_id) not in self.gang.aimed:
            return honest()
        near = self.gang.decoys(asker, request.aim or request.object_id, request.count)
        return codec.encode(Holders(bodies.pack_all(near), [], []))

    def store(self, asker: Contact, request: Store, honest: Honest) -> bytes | None:
        """Everything is taken, and nothing is ever shown."""
        return codec.encode(Stored([True] * len(request.raws), bodies.pack_all(())))

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        return None if ObjectId(send.object_id) in self.gang.aimed else honest()


def grind(gang: Gang, target: ObjectId) -> SigningKey:
    """A key whose id is closer to the target than that of any honest node; the tries are counted.

    Among N nodes it takes about N tries: a key is closest with probability 1 / (N + 1).
    """
    closest = min(distance(node, target) for node in gang.honest)
    while True:
        key = SigningKey(gang.random.randbytes(32))
        gang.counts["keys_tried"] += 1
        if distance(key.id, target) < closest:
            gang.counts["keys_ground"] += 1
            return key
