"""What a liar may do in place of what its node would do: the interface of an attack.

A liar is a real node. It joins, keeps a routing table and a directory, takes replicas and proves that it holds them; an
attack replaces some of its answers, and may act by itself. What an attack does not replace, the node does honestly.

class Shy(Attack):
    name = "shy"

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        return None if self.liar.random.random() < 0.5 else honest()
"""

from collections.abc import Callable
from typing import ClassVar, Self

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.keys import SigningKey
from titan_overlay.links.links import Peer
from titan_overlay.links.shared import Answer as Answer
from titan_overlay.overlay.bodies import FindHolders, FindNode, Store
from titan_overlay.wire.messages import Send
from titan_simulations.attacks.gang import Gang, Liar

Honest = Callable[[], bytes]
"""What the node would answer to this request of the overlay. Raises what its handler raises (a refusal)."""
HonestAnswer = Callable[[], Answer]
"""What the node would answer to this message. Raises what its handler raises (an error)."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a liar sits. None: a random key, an address in a subnet of its own, as honest nodes have."""

    key: SigningKey | None = None
    ip: str | None = None


class Attack:
    """One liar's way to lie; each liar has an instance of its own. `gang` is what the liars know together.

    Wherever an answer is asked for, None says nothing at all: the asker is left to wait.
    """

    name: ClassVar[str] = ""
    """On the command line."""
    aims: ClassVar[bool] = False
    """It aims at single objects (`gang.aimed`): what becomes of those is measured, and not of all."""

    def __init__(self, liar: Liar) -> None:
        self.liar = liar
        self.gang: Gang = liar.gang

    # ---- before the pool is there ----------------------------------------------------------------------------

    @classmethod
    def draw(cls, random: Random) -> type[Self]:
        """The attack of one liar; a mixture of attacks draws one of its parts."""
        return cls

    @classmethod
    def place(cls, gang: Gang, turn: int) -> Place:
        """Key and address of the liar that is the `turn`-th of this attack, from 0 on."""
        return Place()

    # ---- answers in the overlay ------------------------------------------------------------------------------

    def find_node(self, asker: Contact, request: FindNode, honest: Honest) -> bytes | None:
        """Who is close to an id? Packed contacts (`bodies.pack_all`)."""
        return honest()

    def find_holders(self, asker: Contact, request: FindHolders, honest: Honest) -> bytes | None:
        """Who holds an object? An encoded `bodies.Holders`."""
        return honest()

    def store(self, asker: Contact, request: Store, honest: Honest) -> bytes | None:
        """Keep these statements. An encoded `bodies.Stored`."""
        return honest()

    def other(self, method: str, asker: Contact, body: bytes, honest: Honest) -> bytes | None:
        """Any other request of the overlay: `ping`, and the probes between co-holders."""
        return honest()

    # ---- answers over links ----------------------------------------------------------------------------------

    def order(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        """A message to the node itself: `titan.Recruit`, `titan.DialBack`, `titan.Census` and others."""
        return honest()

    def message(self, peer: Peer, send: Send, honest: HonestAnswer) -> Answer | None:
        """A message to an object that this node holds, or that somebody believes it to hold."""
        return honest()

    # ---- of its own accord -----------------------------------------------------------------------------------

    async def act(self) -> None:
        """What it does by itself, from when it has joined until its node ends; a TitanError ends it too."""
