"""Two-phase agreement is safe: no schedule and no liar makes two honest members commit different blocks.

Malkhi and Nayak, "HotStuff-2: Optimal Two-Phase Responsive BFT" (2023), and Gelashvili et al., "Jolteon and Ditto"
(2022), section 3, whose voting rules R1 to R6 of `titan_overlay/mutable/bft_safety.py` are. Each scene is an attack
that one of these rules stops; without the rule it succeeds, which is how we know that it is an attack.
"""

import pytest

from tests.unit.bft_scenes import SCENES
from titan_overlay.mutable.bft import Bft

CASES = [pytest.param(mutant, scene, id=scene.__name__) for mutant, scene in SCENES.items()]


@pytest.mark.parametrize(("mutant", "scene"), CASES)
def test_an_attack_fails(mutant, scene) -> None:
    scene(Bft)


@pytest.mark.parametrize(("mutant", "scene"), CASES)
def test_without_the_rule_it_succeeds(mutant, scene) -> None:
    with pytest.raises(AssertionError, match="executed Entry"):
        scene(mutant)
