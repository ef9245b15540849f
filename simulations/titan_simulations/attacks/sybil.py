"""Sybil: one machine room, many ids."""

from titan_simulations.attacks.attack import Place
from titan_simulations.attacks.gang import Gang
from titan_simulations.attacks.misroute import Misroute

PER_SUBNET = 250
"""Addresses of one /24 that are used; whoever needs more takes the next."""


class Sybil(Misroute):
    """Misroutes, as one attacker that has rented as many addresses as it takes side by side."""

    name = "sybil"

    @classmethod
    def place(cls, gang: Gang, turn: int) -> Place:
        return Place(ip=f"18.{turn // PER_SUBNET % 256}.77.{turn % PER_SUBNET + 1}")
