"""All: each liar draws an attack, and they still know each other."""

from typing import ClassVar, Self, cast

from titan_overlay.ambient import Random
from titan_simulations.attacks.attack import Attack
from titan_simulations.attacks.drop import Drop
from titan_simulations.attacks.eclipse import Eclipse
from titan_simulations.attacks.equivocate import Equivocate
from titan_simulations.attacks.flood import Flood
from titan_simulations.attacks.forge import Forge
from titan_simulations.attacks.misroute import Misroute
from titan_simulations.attacks.sybil import Sybil


class Mixed(Attack):
    """Each part with the same probability."""

    name = "all"
    parts: ClassVar[tuple[type[Attack], ...]] = (Drop, Misroute, Forge, Eclipse, Sybil, Equivocate, Flood)

    @classmethod
    def draw(cls, random: Random) -> type[Self]:
        return cast(type[Self], random.choice(cls.parts))
